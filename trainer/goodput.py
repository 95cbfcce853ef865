"""Where the wall time of a run goes, over all of its sessions: every second belongs to one activity."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from boceto.telemetry import ACTIVITIES


class GoodputTimer:
    """Begins at `starting`, with the process where that is a program of its own. Any thread may ask, one spends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, began: float | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._activity = "starting"
        self._mark = clock() if began is None else began

    def restore(self, saved: Mapping[str, float], last: Mapping[str, float], *, redone: bool) -> None:
        """Adds the sessions before: their seconds as they were `saved` with the checkpoint, and as they were `last`
        heard of. What came after the checkpoint is lost where its steps are `redone`.
        """
        whole = last if last and not redone else saved
        lost = max(0.0, sum(last.values()) - sum(saved.values())) if redone else 0.0
        with self._lock:
            for activity in ACTIVITIES:
                self._seconds[activity] += whole.get(activity, 0.0)
            self._seconds["lost"] += lost

    def begin(self, activity: str) -> str:
        """From now on the time belongs to `activity`; returns the one before."""
        with self._lock:
            now = self._clock()
            self._seconds[self._activity] += now - self._mark
            before, self._activity, self._mark = self._activity, activity, now
        return before

    @contextlib.contextmanager
    def spending(self, activity: str) -> Iterator[None]:
        """The time of the block belongs to `activity`."""
        before = self.begin(activity)
        try:
            yield
        finally:
            self.begin(before)

    def seconds(self) -> dict[str, float]:
        """Seconds by activity, up to now; their sum is the wall time of all sessions."""
        with self._lock:
            running = self._clock() - self._mark
            return {name: spent + running * (name == self._activity) for name, spent in self._seconds.items()}
