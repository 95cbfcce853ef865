"""Waits for what another program is still to write: Jobs may be applied in any order."""

import time
from collections.abc import Callable

from boceto import storage

LOOK_EVERY = 10.0  # Seconds.


def until_there(
    url: str, seconds: float, tell: Callable[[str], None], pause: Callable[[float], object] = time.sleep
) -> None:
    """Waits until there is something at `url`, for at most `seconds`; what is missing then, its reader tells.

    `pause` waits for some seconds, and may raise to end it.
    """
    end = time.monotonic() + seconds
    while not storage.exists(url) and (left := end - time.monotonic()) > 0:
        tell(f"waits for {url}, which is not there yet")
        pause(min(LOOK_EVERY, left))


def option_help(what: str) -> str:
    """The help of a setting `wait`."""
    return f"seconds to wait for {what} that is not there yet; 0: refused at once"
