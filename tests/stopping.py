"""What the tests of stopping share: what shows that a process is in some phase."""

import contextlib
import re
import signal
from pathlib import Path


def listens(process):
    """Whether a process has handlers of its own for SIGTERM and SIGINT."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        caught = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())[1], 16)
        return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))
    return False


def has_loaded(process, library):
    """Whether a process has this part of a library in its memory."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return library in Path(f"/proc/{process}/maps").read_text()
    return False


def session(process):
    """The processes of a session: those that a process which began one has started, and theirs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == process and fields[0] != b"Z":
                found.append(int(folder.name))
    return found
