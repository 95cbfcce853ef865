"""Stops a run on request: after SIGTERM or SIGINT, the running step is finished and saved. A second signal ends the
program at once.

A thread of its own receives the signals, since the main thread may be inside of TensorFlow for seconds. As process 1 of
a container, a program must end itself, since the kernel takes no default action for a signal to it.
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
    """Says whether a stop of the run was requested. Any thread may request it."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._tidy: Callable[[], None] | None = None

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._requested.is_set()

    def request(self) -> None:
        """Requests a stop."""
        self._requested.set()
        tidy = self._tidy  # Read after the request is set: see `at_once`.
        if tidy:
            tidying = threading.Thread(target=tidy, daemon=True)
            tidying.start()
            tidying.join(TIDYING)
            process.leave_at_once(NOTHING_LOST)

    def check(self) -> None:
        """Raises Stopped where a stop was requested; for code that has nothing to save."""
        if self.requested:
            raise Stopped(f"{NOTHING_LOST}; run the same command again")

    @contextlib.contextmanager
    def at_once(self, tidy: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within the block, a request to stop calls `tidy` and ends the process.

        The block may take longer than the grace, and has nothing to save.
        """
        # `tidy` is set before the check, and `request` reads it after its request is set. So one of the two sees the
        # other, whenever the request comes.
        self._tidy = tidy
        try:
            self.check()
            yield
        finally:
            self._tidy = None
        self.check()

    def pause(self, seconds: float) -> None:
        """Waits for `seconds`; raises Stopped as soon as a stop is requested."""
        self.wait(seconds)
        self.check()

    def wait(self, seconds: float) -> bool:
        """Waits for at most `seconds`; returns whether a stop was requested."""
        return self._requested.wait(seconds)


@contextlib.contextmanager
def on_signals(grace: float, report: Callable[[str], None]) -> Iterator[Stop]:
    """A Stop that the signals set while the block runs.

    `grace` seconds after the first signal, or at the second signal, the process ends, whatever it is doing; `report`
    gets the reason.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # Only the main thread may handle signals.
        yield stop
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, stop, grace, report), daemon=True)
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


def _watch(signals: int, stop: Stop, grace: float, report: Callable[[str], None]) -> None:
    overdue = threading.Timer(grace, _give_up, (grace, report))
    overdue.daemon = True
    signalled = False  # A lost lease requests a stop too, and is no signal.
    while (number := os.read(signals, 1)[0]) != _END:
        if number not in process.SIGNALS:
            continue
        if signalled:
            report("stopped at once; what was saved before stands, and the same command goes on from it")
            os._exit(KILLED + number)
        signalled = True
        stop.request()
        overdue.start()
    overdue.cancel()


def _give_up(grace: float, report: Callable[[str], None]) -> None:
    report(
        f"fault: not saved within train.grace = {grace:g} s of the signal; what was saved before stands, and the same "
        "command goes on from it; give it more time, or save more often with --save-every"
    )
    os._exit(EXIT_FAULT)
