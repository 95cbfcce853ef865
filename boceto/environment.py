"""The environment variables of a program. No other module of this package reads the environment."""

import os
import time

# The path of a file for the program's last line: its result as JSON, or its error. The file is written in place:
# Kubernetes mounts the file of a pod's termination message, and a mounted file cannot be replaced.
MESSAGE_FILE = "BOCETO_MESSAGE_FILE"
# The path of a local file that the program touches while it makes progress; a liveness probe looks at its age.
ALIVE_FILE = "BOCETO_ALIVE_FILE"
TOUCH_EVERY = 5.0  # Seconds.
_touched = [0.0]
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK


def leave_message(text: str) -> None:
    """Writes the program's last line to the file that `MESSAGE_FILE` names.

    A file that cannot be written is no error: standard error or output has the same text.
    """
    _write(os.environ.get(MESSAGE_FILE), text + "\n")


def is_watched() -> bool:
    """Returns whether the program runs in a container, which reads its last line."""
    return bool(os.environ.get(MESSAGE_FILE))


def alive() -> None:
    """Touches the file that `ALIVE_FILE` names: the program makes progress."""
    path, now = os.environ.get(ALIVE_FILE), time.monotonic()
    if path and now - _touched[0] >= TOUCH_EVERY:
        _touched[0] = now
        _write(path, "")


def _write(path: str | None, text: str) -> None:
    if not path:
        return
    try:
        # O_NONBLOCK: a pipe without a reader fails at once.
        with os.fdopen(os.open(path, _FLAGS, 0o666), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return
