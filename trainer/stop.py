"""A polite end: SIGTERM or SIGINT lets the running step finish and be saved. A second one ends the program at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the run was asked to stop."""

    requested = False

    def request(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Asks it; a signal handler."""
        del frame
        self.requested = True
        if number:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """A Stop that the signals set while the block runs."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # Only the main thread may handle signals.
        yield stop
        return
    before = {number: signal.signal(number, stop.request) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
