"""Waits for files that another program has not written yet: Jobs may start in any order."""

import time
from collections.abc import Callable

from boceto import storage

LOOK_EVERY = 10.0  # Seconds.


def until_there(
    url: str, seconds: float, tell: Callable[[str], None], pause: Callable[[float], object] = time.sleep
) -> None:
    """Waits until there is something at `url`, for at most `seconds`; after that, its reader reports what is missing.

    `pause` waits for a number of seconds, and may raise an error to end the waiting.
    """
    end = time.monotonic() + seconds
    while not storage.exists(url) and (left := end - time.monotonic()) > 0:
        tell(f"waits for {url}, which is not there yet")
        pause(min(LOOK_EVERY, left))


def option_help(what: str) -> str:
    """Returns the help of a setting `wait`."""
    return f"seconds to wait for {what} that is not there yet; 0: refused at once"
