"""Several requests at once, and how far they have come."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from boceto.stores import Progress
from boceto.stores._gs_link import THREADS, Link


class Told:
    """Passes progress on, from any thread, and tells no byte twice however often it was sent."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._reached: dict[int, int] = {}

    def at(self, start: int, end: int) -> None:
        """The part that begins at `start` has come to `end`."""
        with self._lock:
            more = end - self._reached.get(start, start)
            if more > 0:
                self._reached[start] = end
                if self._progress:
                    self._progress(more)


def in_parallel(link: Link, work: Callable[[Link, Any], object], items: Iterable[Any]) -> None:
    """Calls `work` with each item, several at a time; the first error stops the others, and is raised."""
    link = replace(link, stop=threading.Event())
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, link, item) for item in items]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            link.stop.set()
            for future in futures:
                future.cancel()
