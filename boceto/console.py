"""What a program writes to standard error: lines, tables, a progress bar, and the last line with its exit code."""

import contextlib
import errno
import io
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from boceto import process
from boceto.environment import alive, leave_message
from boceto.errors import EXIT_DONE, EXIT_FAULT, EXIT_SETTINGS, EXIT_STOPPED, BocetoError, Stopped
from boceto.stores.file import was_written

if TYPE_CHECKING:
    from rich.console import Console as Terminal

# Control characters move a terminal's cursor, clear its screen or name its window; a new line and a tab stay.
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
PLAIN_SECONDS = 10.0
TERMINAL_SECONDS = 0.2
BAR = 12
ERASE = "\r\x1b[2K"
# A path of the wrong kind, or without the right to it: a second try fails too, unless it could be written before.
_WRONG_PATH = frozenset({errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EROFS})


class Console:
    """Writes lines and a progress bar to `stream`, by default standard error.

    A terminal shows the bar in its last line. A file, a pipe and a dumb terminal get a plain line every ten seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._lock = threading.RLock()
        self._next: float | None = None
        self._job, self._began, self._first = (0.0, ""), 0.0, math.inf  # Total and unit; when, and with how much done.
        self._terminal = None
        if self._stream.isatty():
            from rich.console import Console as Terminal  # Here, since `boceto --help` needs none of it.

            terminal = Terminal(file=self._stream)
            self._terminal = None if terminal.is_dumb_terminal else terminal

    @property
    def width(self) -> int | None:
        """The columns of the terminal; None where there is none."""
        return self._terminal.width if self._terminal else None

    def line(self, text: str = "") -> None:
        """Writes one whole line."""
        alive()
        with self._lock:
            self.erase()
            print(printable(text), file=self._stream, flush=True)

    def warning(self, text: str) -> None:
        """Writes a line that begins with `warning:`."""
        self.line(f"warning: {text}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
        """Writes a table, no wider than the terminal; the first `left` columns stand to the left."""
        self.line(table(header, rows, left, self.width))

    def progress(self, text: str, done: float | None = None, total: float = 0, unit: str = "") -> None:
        """Shows how much of a job is done, with its rate and the time left: `120/300 steps, 12.0 steps/s, 00:15 left`.

        A job whose size is not known shows `text` alone. Another `total` or `unit`, or less done, is another job.
        """
        alive()
        now = self._clock()
        with self._lock:
            if done is not None and (self._job != (total, unit) or done < self._first):
                self._job, self._began, self._first = (total, unit), now, done
            if self._next is None:  # A plain line is of no use in a job of less than ten seconds.
                self._next = now + (0 if self._terminal else PLAIN_SECONDS)
            if now < self._next:
                return
            self._next = now + (TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS)
            if done is not None:
                rate = (done - self._first) / (now - self._began) if done > self._first else 0.0
                text = ": ".join(filter(None, (_amounts(done, total, unit, rate), text)))
            if self._terminal:
                self._draw(self._terminal, text, done / max(total, 1e-9) if done is not None else None)
            else:
                self.line(text)

    def erase(self) -> None:
        """Removes the progress bar from the terminal."""
        with self._lock:
            if self._terminal and process.last_word.erase:
                process.last_word.erase = ""
                self._stream.write(ERASE)

    def _draw(self, terminal: "Terminal", text: str, share: float | None) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1))
        bar = [] if share is None else [ProgressBar(1.0, share)]
        for _ in bar:
            row.add_column(width=min(BAR, terminal.width // 4))
        row.add_column()
        row.add_row(*bar, Text(printable(" ".join(text.split())), no_wrap=True, overflow="ellipsis"))
        with terminal.capture() as drawn:
            terminal.print(row)
        process.last_word.erase = ERASE
        self._stream.write(ERASE + drawn.get().rstrip("\n"))
        self._stream.flush()


def _amounts(done: float, total: float, unit: str, rate: float) -> str:
    """`120/300 steps, 12.0 steps/s, 00:15 left`."""

    def amount(value: float) -> str:
        return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"

    words = [f"{amount(done)}/{amount(total)} {unit}"]
    if rate:
        words += [f"{rate:{',.1f' if rate >= 1 else '.2g'}} {unit}/s"]
        words += [f"{clock_time((total - done) / rate)} left"]
    return ", ".join(words)


@contextlib.contextmanager
def _logs_to(console: Console) -> Iterator[None]:
    """Shows what is logged under `boceto` in the block as the console's warnings, and nowhere else."""
    logger, handler = logging.getLogger("boceto"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: console.warning(record.getMessage())  # type: ignore[method-assign]
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what native code writes to standard error in the block, as TensorFlow does when it is imported.

    A signal that would raise KeyboardInterrupt ends the program at once: an imported module may take the exception for
    a failure of its own.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    is_main = threading.current_thread() is threading.main_thread()
    raising = [n for n in process.SIGNALS if is_main and signal.getsignal(n) is signal.default_int_handler]
    try:
        process.last_word.descriptor = kept
        os.dup2(nowhere, 2)
        for number in raising:
            signal.signal(number, lambda *_: process.leave_at_once("stopped"))
        yield
    finally:
        for number in raising:
            signal.signal(number, signal.default_int_handler)
        os.dup2(kept, 2)
        process.last_word.descriptor = 2
        os.close(kept)
        os.close(nowhere)


def printable(text: str) -> str:
    """Returns `text` without the control characters that command a terminal: names and messages come from anywhere.

    What is no Unicode in a file's name is escaped.
    """
    return text.translate(CONTROLS).encode(errors="backslashreplace").decode()


def clock_time(seconds: float) -> str:
    """Returns `mm:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, width: int | None = None) -> str:
    """Returns a table of at most `width` characters a line. The first `left` columns are aligned to the left."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column, name in enumerate(header):
        drawn.add_column(Text(name), justify="left" if column < left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    page = io.StringIO()
    Terminal(file=page, width=width or 10_000, color_system=None, _environ={}).print(drawn)
    return "\n".join(map(str.rstrip, page.getvalue().splitlines()))


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Makes SIGTERM, which Kubernetes sends, the same as Ctrl-C, in the main thread."""
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
            if isinstance(cause, KeyboardInterrupt):  # A library has made an error of its own of it.
                raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():  # A command's work is over; only its end is left.
            signal.signal(number, signal.SIG_IGN if handler is process.leave else handler)


def run_program(
    verb: str,
    work: Callable[[Console], tuple[Mapping[str, Any], bool] | tuple[Mapping[str, Any], bool, BocetoError | None]],
    ended: Callable[[int, str], None] = lambda *_: None,
) -> int:
    """Runs `work` and turns its errors into one line and an exit code.

    `work` returns (result, whether to print it as JSON), and a program that looks for errors returns as third what it
    found; that error is reported behind the result. The last line, result or error, also goes to the file that the
    environment names for it (`boceto.environment`). `ended` gets the exit code and the error's line.
    """
    console = Console()
    process.last_word.verb, process.last_word.ended = verb, ended

    def end(text: str, code: int) -> int:
        leave_message(text)
        console.line(text)
        ended(code, text)
        return code

    try:
        with _interrupted(), _logs_to(console):
            result, as_json, *errors = work(console)
            console.erase()
            if as_json:
                print(json.dumps(result, allow_nan=False), flush=True)
        for error in filter(None, errors):
            raise error
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
