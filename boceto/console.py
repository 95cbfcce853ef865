"""What a person sees on standard error: lines, and a progress line that stays quiet where no terminal is."""

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from boceto import process
from boceto.environment import alive, leave_message
from boceto.errors import EXIT_DONE, EXIT_FAULT, EXIT_SETTINGS, EXIT_STOPPED, BocetoError, Stopped
from boceto.stores.file import was_written

# What moves a terminal's cursor, clears its screen or names its window; a new line and a tab stay.
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
PLAIN_SECONDS = 10.0
TERMINAL_SECONDS = 0.2
# A path that is not what it was taken for: no second try helps, unless it could be written before.
_WRONG_PATH = frozenset({errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EROFS})


class Console:
    """Writes lines and a progress line to `stream`; on a terminal the progress line is drawn over itself."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._drawn = 0
        self._next: float | None = None

    def line(self, text: str = "") -> None:
        """Writes one whole line."""
        alive()
        self._erase()
        print(printable(text), file=self._stream, flush=True)

    def warning(self, text: str) -> None:
        """Writes one line that says what is not as it should be."""
        self.line(f"warning: {text}")

    def progress(self, text: str) -> None:
        """Shows how far things are: at most five times a second on a terminal, every ten seconds elsewhere."""
        alive()
        now = self._clock()
        if self._next is None:  # Elsewhere than on a terminal, what is done in ten seconds needs no progress line.
            self._next = now + (0 if self._terminal else PLAIN_SECONDS)
        if now < self._next:
            return
        self._next = now + (TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS)
        text = printable(text)
        if not self._terminal:
            self.line(text)
            return
        self._stream.write("\r" + text.ljust(self._drawn))
        self._stream.flush()
        self._drawn = len(text)

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r" + " " * self._drawn + "\r")
            self._drawn = 0


class _Told(logging.Handler):
    """Shows what the storage has to say as a console's warnings."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.warning(record.getMessage())


@contextlib.contextmanager
def _telling(console: Console) -> Iterator[None]:
    """What is logged under `boceto` in the block goes to the console, and nowhere else."""
    logger, handler = logging.getLogger("boceto"), _Told(console)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what native code writes to standard error in the block: importing TensorFlow tells of the processor there,
    whatever the log level. Python's exceptions are raised as ever, but for KeyboardInterrupt: what is imported may take
    it for a failure of its own, so a signal that would raise it ends the program at once.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)

    def leave(*_: object) -> None:
        process.leave_at_once("stopped")

    raising = [number for number in process.SIGNALS if signal.getsignal(number) is signal.default_int_handler]
    if threading.current_thread() is not threading.main_thread():
        raising = []
    try:
        process.last_word.descriptor = kept
        os.dup2(nowhere, 2)
        for number in raising:
            signal.signal(number, leave)
        yield
    finally:
        for number in raising:
            signal.signal(number, signal.default_int_handler)
        os.dup2(kept, 2)
        process.last_word.descriptor = 2
        os.close(kept)
        os.close(nowhere)


def printable(text: str) -> str:
    """`text` without what would command a terminal: names and messages may come from anywhere."""
    return text.translate(CONTROLS)


def clock_time(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A plain text table: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Kubernetes asks with SIGTERM what people ask with Ctrl-C. In another thread than the main one, callers decide."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in process.SIGNALS}
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause:
            cause = cause.__cause__ or cause.__context__
            if isinstance(cause, KeyboardInterrupt):  # Libraries make errors of their own of it.
                raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():  # A command's work is over, and nothing but its end is left.
            signal.signal(number, signal.SIG_IGN if handler is process.leave else handler)


def run_program(
    verb: str,
    work: Callable[[Console], tuple[Mapping[str, Any], bool]],
    ended: Callable[[int, str], None] = lambda *_: None,
) -> int:
    """Runs `work`, which returns (result, print it as JSON?), and turns its errors into one line and an exit code.

    `ended` is told the exit code and the last word.
    """

    def done(console: Console) -> tuple[Mapping[str, Any], bool, None]:
        return *work(console), None

    return run_check(verb, done, ended)


def run_check(
    verb: str,
    work: Callable[[Console], tuple[Mapping[str, Any], bool, BocetoError | None]],
    ended: Callable[[int, str], None] = lambda *_: None,
) -> int:
    """As `run_program`, for a program that looks for errors: `work` returns (result, print it as JSON?, what is wrong).

    What is wrong is told behind the result. The last word, result or error, also goes to the file that the environment
    names for it (`boceto.environment`).
    """
    console = Console()
    process.last_word.verb, process.last_word.ended = verb, ended

    def end(text: str, code: int) -> int:
        leave_message(text)
        console.line(text)
        ended(code, text)
        return code

    try:
        with _interrupted(), _telling(console):
            result, as_json, wrong = work(console)
            if as_json:
                print(json.dumps(result, allow_nan=False), flush=True)
        if wrong:
            raise wrong
    except BocetoError as error:
        kind = "" if isinstance(error, Stopped) else "error: "
        return end(f"boceto {verb}: {kind}{error}", error.exit_code)
    except KeyboardInterrupt:
        return end(f"boceto {verb}: stopped; run the same command again", EXIT_STOPPED)
    except (OSError, MemoryError) as error:
        path = getattr(error, "filename", None)
        if path is not None and getattr(error, "errno", None) in _WRONG_PATH and not was_written(path):
            return end(f"boceto {verb}: error: {error}; give another path", EXIT_SETTINGS)
        return end(
            f"boceto {verb}: fault: {error or type(error).__name__}; the same command may be run again", EXIT_FAULT
        )
    leave_message(json.dumps(result))
    ended(EXIT_DONE, "")
    return EXIT_DONE
