"""The process of a command from its very start: what a signal does before there is a program, and when it began."""

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
_commands: list[int] = []  # The process, where it is a command's own.


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
    last_word.verb = verb
    for number in SIGNALS:
        signal.signal(number, leave)
    _commands[:] = [os.getpid()]


def end(code: int) -> NoReturn:
    """Ends the process as sys.exit does, but without taking the interpreter and TensorFlow apart, which may take
    seconds, belongs to no work, and can only go wrong. A signal ends it at once.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(code))
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


def leave(*_: object) -> NoReturn:
    """Handles a signal while no program listens itself."""
    leave_at_once("stopped before anything began")


def leave_at_once(said: str) -> NoReturn:
    """Ends a process that was asked to stop, whatever its main thread is doing."""
    text = f"boceto {last_word.verb}: {said}; run the same command again"
    leave_message(text)
    with contextlib.suppress(OSError):  # Whoever read it has gone.
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
    """Runs another program of ours beside the block.

    The terminal's signals go to this process alone. A signal calls `stop` with the child, and is a KeyboardInterrupt
    only when the block has ended: no child is left behind.
    """
    import subprocess  # Here, since handlers of signals come before it.

    children: list[subprocess.Popen[Any]] = []
    asked: list[bool] = []  # A signal each: was there a child?

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
