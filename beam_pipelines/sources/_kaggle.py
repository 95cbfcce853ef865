"""Kaggle's form of the drawings: `.csv` and `.csv.gz` of the "Quick, Draw! Doodle Recognition Challenge" (2018).

Source: https://www.kaggle.com/competitions/quickdraw-doodle-recognition/data. The header names the columns, in any
order: `drawing` (JSON, simplified or raw), `word`, `key_id`, `recognized` (True or False); others are passed over.
Quotes are RFC 4180's.
"""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from beam_pipelines.sources import Drawing, Refused
from boceto.entry import LOOKED_AT, MAX_LINE, Found, Refusal, of_fields, shown, why_no_json
from boceto.errors import SettingsError
from boceto.gzip_text import BOM, CUT, UNKNOWN, CutOff, Loss

NEEDED = ("drawing", "word")
MAX_HEADER = 120  # Signs of a header that are shown.
_BOOLS = {"true": True, "false": False}
csv.field_size_limit(MAX_LINE)  # Raw drawings are longer than the 131,072 signs that the library allows.


class _Row(NamedTuple):
    """The number of its first line, its lines, its fields, or what is wrong with it."""

    number: int
    lines: Sequence[bytes]
    fields: Sequence[str]
    wrong: str

    @property
    def text(self) -> bytes:
        return b"\n".join(self.lines)

    @property
    def is_cut(self) -> bool:
        return isinstance(self.lines[-1], CutOff)


def is_of_drawings(lines: Sequence[bytes]) -> bool:
    """Whether the first lines of a file may be those of drawings, as a whole header tells."""
    return len(lines) == 1 or b"drawing" in lines[0]


def words(lines: Sequence[bytes], name: str) -> Iterator[str]:
    """What the first rows of a file name as their category; the last line may be cut off.

    Raises:
        SettingsError: the header lacks a column.
    """
    rows = _rows(lines[:-1])
    header = next(rows, None)
    if header is None or header.wrong:
        return  # `read` tells.
    if missing := _missing(header.fields):
        raise SettingsError(
            f"prepare.input: {name} has {missing}; leave it out, with a pattern such as --input 'FOLDER/train*/*.csv'"
        )
    column = header.fields.index("word")
    for row in itertools.islice(rows, LOOKED_AT):
        if len(row.fields) == len(header.fields):
            yield row.fields[column]


def read(lines: Iterable[bytes], loss: Loss | None, category: str) -> Iterator[Found]:
    """The drawings of the lines of a file, in order; `loss`: what else is in it."""
    rows = _rows(lines)
    row = header = next(rows, None)
    if header and (header.wrong or _missing(header.fields)):
        reason = CUT if header.is_cut else "broken_csv"
        what = f"the header has {header.wrong or _missing(header.fields)}"
        yield Refused(1, reason, shown(header.text), what, max(1, sum(len(row.lines) for row in rows)))
    elif header:
        for row in rows:
            try:
                if row.fields or row.wrong:
                    yield _of_row(row, header.fields, category)
            except Refusal as refusal:
                if loss is None or not row.is_cut:  # The loss tells of that row.
                    yield refusal.of(row.number, shown(row.text), len(row.lines))
    if loss:
        yield Refused(row.number + len(row.lines) if row else 1, loss.reason, "", loss.what, loss.lines)


def _missing(columns: Sequence[str]) -> str:
    missing = " and ".join(f"`{name}`" for name in NEEDED if name not in columns)
    return f"no column {missing}, but {', '.join(columns)[:MAX_HEADER]}" if missing else ""


def _rows(lines: Iterable[bytes]) -> Iterator[_Row]:
    """The rows of a text. A row with line breaks in quotes has several lines, of MAX_LINE bytes about in all."""
    rest, number = iter(lines), 1
    while True:
        taken: list[bytes] = []
        try:
            fields, wrong = next(csv.reader(_fed(rest, taken), strict=True), []), ""
        except csv.Error as error:
            fields, wrong = [], str(error)
        if not taken:
            return
        yield _Row(number, taken, fields, wrong)
        number += len(taken)


def _fed(lines: Iterator[bytes], taken: list[bytes]) -> Iterator[str]:
    """Lines for the reader of one row, noted in `taken`."""
    size = 0
    for line in lines:
        taken.append(line)
        size += len(line) + 1
        yield line.removeprefix(BOM).decode("utf-8", "surrogateescape") + "\n"
        if size > MAX_LINE:
            return


def _of_row(row: _Row, columns: Sequence[str], category: str) -> tuple[Drawing, Any]:
    text = row.text
    if len(text) >= MAX_LINE:
        raise Refusal("line_too_long", f"the row has {MAX_LINE:,} bytes or more")
    try:
        text.decode()
    except UnicodeDecodeError as wrong:
        raise Refusal("not_utf8", f"byte {wrong.start + 1} is {text[wrong.start]:#04x}") from None
    is_whole = not row.wrong and len(row.fields) == len(columns)
    fields: dict[str, Any] = {name: value or None for name, value in zip(columns, row.fields, strict=False)}
    if row.is_cut and (not is_whole or _is_begin(fields["word"], category)):
        raise Refusal(CUT, f"the file ends within this row; {UNKNOWN}; fetch it again")
    if not is_whole:
        told = f"the row has {len(row.fields)} fields and the header {len(columns)}"
        raise Refusal("broken_csv", row.wrong or told)
    drawing = fields["drawing"] or "null"
    try:
        fields["drawing"] = orjson.loads(drawing)
    except orjson.JSONDecodeError as error:
        raise why_no_json(drawing.encode(), error) from None
    fields["recognized"] = _BOOLS.get(str(fields.get("recognized")).lower())
    return of_fields(fields, category, may_hold_bool="true" in drawing or "false" in drawing)


def _is_begin(word: str | None, category: str) -> bool:
    return word != category and category.startswith(word or "")
