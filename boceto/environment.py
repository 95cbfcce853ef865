"""What whoever starts a program tells it by the environment. The only module of this package that touches it."""

import os

# A file that takes the program's last word, its result as JSON or the line that says why there is none. It is written
# in place: Kubernetes reads a pod's termination message from a file that it mounts, and that nobody can replace.
MESSAGE_FILE = "BOCETO_MESSAGE_FILE"


def leave_message(text: str) -> None:
    """Writes a program's last word to the file that the environment names, where it names one.

    A file that cannot be written is nobody's loss: the same was said on standard error or output.
    """
    path = os.environ.get(MESSAGE_FILE)
    if not path:
        return
    try:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - a local file, and no storage
            file.write(text + "\n")
    except OSError:
        return
