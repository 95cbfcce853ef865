"""What whoever starts a program tells it by the environment. The only module of this package that touches it."""

import os
import time

# A file that takes the program's last word, its result as JSON or the line that says why there is none. It is written
# in place: Kubernetes reads a pod's termination message from a file that it mounts, and that nobody can replace.
MESSAGE_FILE = "BOCETO_MESSAGE_FILE"
# A local file that is touched while the program makes progress, whatever its storage does: a liveness probe looks at
# its age.
ALIVE_FILE = "BOCETO_ALIVE_FILE"
TOUCH_EVERY = 5.0  # Seconds.
_touched = [0.0]
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK


def leave_message(text: str) -> None:
    """Writes a program's last word to the file that the environment names, where it names one.

    A file that cannot be written is nobody's loss: the same was said on standard error or output.
    """
    _write(os.environ.get(MESSAGE_FILE), text + "\n")


def is_watched() -> bool:
    """Whether somebody waits for the program's last word: it is a container's."""
    return bool(os.environ.get(MESSAGE_FILE))


def alive() -> None:
    """Touches the file of `ALIVE_FILE`, where the environment names one: the program makes progress."""
    path, now = os.environ.get(ALIVE_FILE), time.monotonic()
    if path and now - _touched[0] >= TOUCH_EVERY:
        _touched[0] = now
        _write(path, "")


def _write(path: str | None, text: str) -> None:
    if not path:
        return
    try:
        # A pipe that nobody reads is not waited for.
        with os.fdopen(os.open(path, _FLAGS, 0o666), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return
