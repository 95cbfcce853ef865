"""The process of a command from its very start: what a signal does before there is a program, and when it began."""

import atexit
import contextlib
import os
import resource
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from boceto.errors import EXIT_FAULT, EXIT_STOPPED

_STANDARD_ERROR = 2
_commands: list[int] = []  # The process, where it is a command's own.


def begin() -> None:
    """To be called first of all by a command: before the imports, which take seconds.

    Until a program listens itself, SIGTERM and SIGINT end the process at once with the code of a stop: nothing has
    begun. Without this, process 1 of a container, which the kernel keeps default actions from, would miss the signal.

    A closed standard stream leads nowhere from then on: the next file to be opened would take its place. As many files
    may be open as the system allows: every shard of a data set is one.
    """
    _open_streams()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a limit that it does not grant.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _commands[:] = [os.getpid()]


def end(code: int) -> NoReturn:
    """Ends the process as sys.exit does, but without taking the interpreter and TensorFlow apart, which may take
    seconds, belongs to no work, and can only go wrong.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - temporary folders go, worker processes are waited for
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # Whoever read it has gone.
            code = code or EXIT_FAULT
    os._exit(code)


def _open_streams() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def started() -> float:
    """When this process began, by time.monotonic(); now, where it is no command's own (a test's, say)."""
    from boceto import lease

    begun = lease.begun(os.getpid())
    if _commands != [os.getpid()] or not begun:
        return time.monotonic()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(begun) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age)


def _leave(_: int, __: FrameType | None) -> None:
    sys.stderr.write("boceto: stopped before anything began; run the same command again\n")
    sys.stderr.flush()
    os._exit(EXIT_STOPPED)
