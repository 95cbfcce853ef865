"""A polite end: SIGTERM or SIGINT lets the running step finish and be saved. A second one ends the program at once.

A thread of its own hears the signals: the main thread may be inside of TensorFlow for seconds, and as process 1 of a
container nothing ends a program but itself, since the kernel keeps default actions from it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from boceto import process
from boceto.errors import EXIT_FAULT, Stopped

TIDYING = 2.0  # Seconds, at most, where nothing is to be saved.
KILLED = 128  # Shells add a signal's number to it.
_END = 0
NOTHING_LOST = "stopped before its first step, nothing was lost"


class Stop:
    """Whether the run was asked to stop, and why."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._tidy: Callable[[], None] | None = None

    @property
    def requested(self) -> bool:
        """Whether it was asked to stop."""
        return self._asked.is_set()

    def request(self) -> None:
        """Asks it to stop."""
        self._asked.set()
        if self._tidy:
            tidying = threading.Thread(target=self._tidy, daemon=True)
            tidying.start()
            tidying.join(TIDYING)
            process.leave_at_once(NOTHING_LOST)

    def check(self) -> None:
        """Raises Stopped where it was asked to stop; for where there is nothing to save."""
        if self.requested:
            raise Stopped(f"{NOTHING_LOST}; run the same command again")

    @contextlib.contextmanager
    def at_once(self, tidy: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within the block, which may take longer than the grace and has nothing to save, a request to stop ends the
        process, after `tidy`.
        """
        self.check()
        self._tidy = tidy
        try:
            yield
        finally:
            self._tidy = None
        self.check()

    def pause(self, seconds: float) -> None:
        """Waits for `seconds`; raises Stopped as soon as it was asked to stop."""
        self.wait(seconds)
        self.check()

    def wait(self, seconds: float) -> bool:
        """Waits for at most `seconds`; returns whether it was asked to stop."""
        return self._asked.wait(seconds)


@contextlib.contextmanager
def on_signals(grace: float, say: Callable[[str], None]) -> Iterator[Stop]:
    """A Stop that the signals set while the block runs.

    `grace` seconds after the first signal, or at the second one, the process ends, whatever it is doing; `say` tells
    why.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # Only the main thread may handle signals.
        yield stop
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, stop, grace, say), daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # First: a handler alone would swallow a signal.
    handlers = {number: signal.signal(number, lambda *_: None) for number in process.SIGNALS}
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(writing, bytes([_END]))
        watcher.join()
        os.close(reading)
        os.close(writing)


def _watch(signals: int, stop: Stop, grace: float, say: Callable[[str], None]) -> None:
    overdue = threading.Timer(grace, _give_up, (grace, say))
    overdue.daemon = True
    while (number := os.read(signals, 1)[0]) != _END:
        if number not in process.SIGNALS:
            continue
        if stop.requested:
            say("stopped at once; what was saved before stands, and the same command goes on from it")
            os._exit(KILLED + number)
        stop.request()
        overdue.start()
    overdue.cancel()


def _give_up(grace: float, say: Callable[[str], None]) -> None:
    say(
        f"fault: not saved within train.grace = {grace:g} s of the signal; what was saved before stands, and the same "
        "command goes on from it; give it more time, or save more often with --save-every"
    )
    os._exit(EXIT_FAULT)
