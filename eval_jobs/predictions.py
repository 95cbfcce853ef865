"""The predictions as a CSV file, as JSON lines, or as a table; and the bad inputs as JSON lines."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from boceto import storage
from boceto.console import Console, printable, table
from boceto.errors import SettingsError
from boceto.inputs import Refused
from eval_jobs.search import Neighbour
from eval_jobs.settings import PredictSettings

ENDINGS = (".csv", ".jsonl")
SHOWN = 10  # Bad inputs that are named on standard error, where no file takes them.
ESCAPED = "backslashreplace"  # What is no Unicode in a file's name.
# What a formula begins with, in wide signs too; and the apostrophe itself.
_FORMULA = (
    *"=+-@'",
    "\N{FULLWIDTH EQUALS SIGN}",
    "\N{FULLWIDTH PLUS SIGN}",
    "\N{FULLWIDTH HYPHEN-MINUS}",
    "\N{FULLWIDTH COMMERCIAL AT}",
)


class Prediction(NamedTuple):
    """The net's answer to an input: its classes, the most probable first, their probabilities, and the nearest
    drawings of the data set (None where none are asked for).
    """

    input: str
    key: str
    labels: list[str]
    probabilities: list[float]
    neighbours: list[Neighbour] | None


Write = Callable[[Sequence[Prediction], Sequence[Refused]], None]


def refused_path(output: str) -> str:
    """`predictions.csv` -> `predictions.refused.jsonl`, which lists the bad inputs."""
    return f"{output.rpartition('.')[0]}.refused.jsonl"


def check(output: str, columns: str) -> None:
    """Checks, before the work, that `output` can be written.

    Raises:
        SettingsError: the file has another ending, or is in a folder that cannot be written, or has no columns.
        IsADirectoryError: it is a folder.
    """
    if output and not output.endswith(ENDINGS):
        raise SettingsError(f"predict.output = {output!r} ends in none of {', '.join(ENDINGS)}; give such a file")
    if columns and not output.endswith(".csv"):
        raise SettingsError(f"predict.columns = {columns!r} are of a CSV file: give --output FILE.csv")
    if output:
        with contextlib.suppress(FileNotFoundError):
            storage.read_bytes(output, 0, 1)  # A folder or a pipe is refused.
        storage.check_writable(storage.parent(output), "predict.output")


@contextlib.contextmanager
def writing(settings: PredictSettings, classes: int, show: Callable[[str], None], console: Console) -> Iterator[Write]:
    """Yields what takes the predictions and the bad inputs of each batch. The files appear whole, or not at all.

    Raises:
        SettingsError: there are no such columns.
    """
    if not settings.output:
        yield _shown(show, console)
        return
    columns = _columns(settings, min(settings.top, classes)) if settings.output.endswith(".csv") else []
    with storage.writing(settings.output) as file, storage.writing(refused_path(settings.output)) as refused:
        if columns:
            file.write(_csv([dict(zip(columns, columns, strict=True))], columns))

        def write(predictions: Sequence[Prediction], bad: Sequence[Refused]) -> None:
            file.write(_csv(map(_row, predictions), columns) if columns else _lines(map(_entry, predictions)))
            refused.write(_lines(each._asdict() for each in bad))

        yield write


def _columns(settings: PredictSettings, top: int) -> list[str]:
    """Returns the columns of the CSV file: those that are asked for, or all."""
    every = ["input", "key"]
    every += [f"{name}{number}" for name in ("label", "p") for number in range(1, top + 1)]
    for number in range(1, settings.neighbours + 1):
        every += [f"neighbour{number}_{name}" for name in ("key", "class", "distance")]
    chosen = [name.strip() for name in settings.columns.split(",")] if settings.columns else every
    if unknown := [name for name in chosen if name not in every]:
        raise SettingsError(f"predict.columns: {unknown[0]!r} is unknown; choose among {', '.join(every)}")
    return chosen


def _row(prediction: Prediction) -> dict[str, Any]:
    """The prediction by column; text that a spreadsheet would take for a formula begins with an apostrophe, and is on
    one line.
    """
    row: dict[str, Any] = {"input": prediction.input, "key": prediction.key}
    for number, (label, share) in enumerate(zip(prediction.labels, prediction.probabilities, strict=True), 1):
        row |= {f"label{number}": label, f"p{number}": share}
    for number, near in enumerate(prediction.neighbours or (), 1):
        at = f"neighbour{number}_"
        row |= {f"{at}key": near.key, f"{at}class": near.label, f"{at}distance": near.distance}
    return {name: _text(value) if isinstance(value, str) else value for name, value in row.items()}


def _text(value: str) -> str:
    safe = printable(value.replace("\n", "\\n").replace("\t", "\\t"))
    return f"'{safe}" if safe.startswith(_FORMULA) else safe


def _csv(rows: Any, columns: Sequence[str]) -> bytes:
    """Rows by column -> lines of CSV (RFC 4180, but for the plain line break). Text is quoted, numbers are not."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, columns, extrasaction="ignore", quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n", restval=""
    )
    writer.writerows(rows)
    return text.getvalue().encode()


def _entry(prediction: Prediction) -> dict[str, Any]:
    entry = prediction._asdict()
    near = entry.pop("neighbours")
    if near is not None:
        entry["neighbours"] = [{"key": each.key, "class": each.label, "distance": each.distance} for each in near]
    return entry


def _lines(entries: Any) -> bytes:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode(errors=ESCAPED)


def _shown(show: Callable[[str], None], console: Console) -> Write:
    """Returns what shows a table a batch, and names the first bad inputs."""
    named = 0

    def write(predictions: Sequence[Prediction], bad: Sequence[Refused]) -> None:
        nonlocal named
        if predictions:
            console.erase()
            near = ["nearest"] if predictions[0].neighbours is not None else []
            show(table(["input", "key", "class", "then", *near], list(map(_cells, predictions)), 5))
        for each in bad[: SHOWN - named]:
            console.warning(f"{each.file}, line {each.line}: {each.reason}: {each.what}")
        named = min(SHOWN, named + len(bad))

    return write


def _cells(prediction: Prediction) -> list[str]:
    first, *others = (
        f"{label} {share:.3f}" for label, share in zip(prediction.labels, prediction.probabilities, strict=True)
    )
    near = [f"{each.key} ({each.label}, {each.distance:g})" for each in prediction.neighbours or ()]
    cells = [prediction.input, prediction.key, first, ", ".join(others)]
    cells += [] if prediction.neighbours is None else [", ".join(near)]
    return list(map(printable, cells))
