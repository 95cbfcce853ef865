"""The `.ndjson` form: a JSON object a line, in the simplified or the raw form of its drawing."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from boceto.entry import LOOKED_AT, MAX_LINE, Found, Refusal, brief, of_fields, shown, why_no_json
from boceto.gzip_text import BOM, CutOff, Loss
from boceto.inputs import Drawing, Refused


def read(lines: Iterable[bytes], loss: Loss | None, category: str | None = None) -> Iterator[Found]:
    """The drawings of the lines of a file, in order; `loss`: what else is in it. category: as in `entry.of_fields`."""
    number = 0
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            yield Refused(number, "line_too_long", shown(line), f"the line has more than {MAX_LINE:,} bytes")
        elif line and not line.isspace():
            try:
                yield _of_line(line, category)
            except Refusal as refusal:
                if loss is None or not isinstance(line, CutOff):  # The loss tells of that line.
                    yield refusal.of(number, shown(line))
    if loss:
        yield Refused(number + 1, loss.reason, "", loss.what, loss.lines)


def _of_line(line: bytes, category: str | None = None) -> tuple[Drawing, Any]:
    """One line of JSON -> a drawing and its flag `recognized`; raises Refusal with the reason."""
    try:
        entry = orjson.loads(bytes(line))  # It takes no class of our own.
    except orjson.JSONDecodeError as error:
        if line.startswith(BOM):
            return _of_line(line.removeprefix(BOM), category)
        raise why_no_json(line, error) from None
    if not isinstance(entry, dict):
        raise Refusal("wrong_type", f"the line is {brief(entry)}, and no object in braces")
    # A line with more of them than `recognized` needs a closer look.
    bools = line.count(b"true") + line.count(b"false")
    return of_fields(entry, category, may_hold_bool=bools > isinstance(entry.get("recognized"), bool))


def words(lines: Iterable[bytes], name: str) -> Iterator[str]:  # noqa: ARG001 - as Kaggle's form needs it
    """What the first lines of a file name as their category."""
    for line in itertools.islice(lines, LOOKED_AT):
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(entry, dict) and isinstance(word := entry.get("word"), str):
            yield word
