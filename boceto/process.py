"""The process of a command: its start, its signals before a program handles them, its children and its end."""

import atexit
import contextlib
import functools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from boceto.environment import leave_message
from boceto.errors import EXIT_FAULT, EXIT_STOPPED

if TYPE_CHECKING:
    import subprocess

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STANDARD_ERROR = 2
_commands: list[int] = []  # The id of this process, in a command.


class LastWord:
    """How the process says that it stops at once.

    descriptor: the file that takes the line. erase: what removes a progress bar that is drawn there. ended: is called
    with the exit code and the line.
    """

    def __init__(self) -> None:
        self.verb = ""
        self.descriptor = _STANDARD_ERROR
        self.erase = ""
        self.ended: Callable[[int, str], None] = lambda *_: None


last_word = LastWord()


def begin(verb: str) -> None:
    """Prepares the process; a command calls it before the imports, which take seconds.

    SIGTERM and SIGINT end the process at once with the exit code of a stop, until the program has its own handlers.
    Without a handler, process 1 of a container would ignore them: the kernel gives it no default actions.

    A closed standard stream becomes the null device, since the next opened file would take its number. The limit of
    open files becomes the highest that the system allows, since every shard of a data set is an open file.
    """
    _open_streams()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a limit that it does not grant.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    last_word.verb = verb
    for number in SIGNALS:
        signal.signal(number, leave)
    _commands[:] = [os.getpid()]


def end(code: int) -> NoReturn:
    """Ends the process as sys.exit does, but leaves the memory of Python and TensorFlow to the system: to free it in
    order takes seconds and may fail. A signal ends the process at once.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(code))
    atexit._run_exitfuncs()  # noqa: SLF001 - temporary folders go, worker processes are waited for
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # The reader of the stream has ended.
            code = code or EXIT_FAULT
    os._exit(code)


def _open_streams() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def started() -> float:
    """Returns when this command's process began, by time.monotonic(); now, in a process of another kind (a test's)."""
    from boceto import lease

    begun = lease.begun(os.getpid())
    if _commands != [os.getpid()] or not begun:
        return time.monotonic()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(begun) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age)


def leave(*_: object) -> NoReturn:
    """Handles a signal before the program has its own handlers."""
    leave_at_once("stopped before anything began")


def leave_at_once(said: str) -> NoReturn:
    """Ends the process with the exit code of a stop, whatever its main thread does."""
    text = f"boceto {last_word.verb}: {said}; run the same command again"
    leave_message(text)
    with contextlib.suppress(OSError):  # The reader of the stream has ended.
        os.write(last_word.descriptor, f"{last_word.erase}{text}\n".encode())
    last_word.ended(EXIT_STOPPED, text)
    os._exit(EXIT_STOPPED)


def _tie() -> Callable[[], object] | None:
    """Returns what a new child calls before its program, so that Linux stops the child when its parent is killed.

    The call is prepared here: a child of a process with threads may neither import nor allocate.
    """
    if sys.platform != "linux":
        return None
    import ctypes

    return functools.partial(ctypes.CDLL(None).prctl, 1, signal.SIGTERM.value)  # 1: PR_SET_PDEATHSIG.


@contextlib.contextmanager
def child(
    words: Sequence[str], stop: Callable[["subprocess.Popen[Any]"], None], **options: Any
) -> Iterator["subprocess.Popen[Any]"]:
    """Runs another program of ours during the block.

    The terminal's signals reach this process alone. A signal calls `stop` with the child, and raises KeyboardInterrupt
    after the block, so that no child is left.
    """
    import subprocess  # Here, since handlers of signals come before it.

    children: list[subprocess.Popen[Any]] = []
    asked: list[bool] = []  # For each signal: was there a child?

    def pass_on(*_: object) -> None:
        asked.append(bool(children))
        for each in children:
            stop(each)

    heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        with subprocess.Popen(words, process_group=0, preexec_fn=_tie(), **options) as process:  # noqa: PLW1509,S603 - below
            children.append(process)
            if False in asked:
                stop(process)
            yield process
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
