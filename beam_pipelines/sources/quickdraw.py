"""Google's Quick, Draw! files: `.ndjson` and `.ndjson.gz` (simplified and raw form) and `.bin`.

Source: https://github.com/googlecreativelab/quickdraw-dataset#the-raw-moderated-dataset. A file holds one category: the
`word` of its lines, or else what it is named after; a category may be spread over several files.
"""

import fnmatch
import itertools
import math
import re
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import orjson

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, Filtered, InputPart, Item, Refused
from beam_pipelines.sources._names import agree, category_of, is_hidden, normal, word_of
from beam_pipelines.sources._packed import BOM, UNKNOWN, Loss, opened, text
from beam_pipelines.sources._simplified import TooLong, pack_simplified
from boceto import storage, strokes
from boceto.errors import SettingsError

MAX_LINE = 1 << 20
SHOWN = 200
_RAW_AXES = 3  # x, y and time
MAX_RAW = 2.0**53  # Beyond this, a float does not hold every whole pixel.
MAX_COORDINATE = 255
MAX_KEY = 64
_CUT = "truncated_file"
_REQUESTS = 16  # Files whose first lines are looked at side by side.
_WILD = re.compile(r"[*?\[]")
_HEADER = struct.Struct("<Q2sbIH")
_COUNT = struct.Struct("<H")


class _Refusal(Exception):  # noqa: N818 - not an error: what is wrong with one drawing
    """Carries the reason, and what is wrong with which field."""

    def of(self, number: int, text: str) -> Refused:
        """The item for the drawing of this number; where the file ends in it, as much again is lost as is there."""
        reason, what = self.args
        return Refused(number, reason, text, what, number if reason == _CUT else 1)


_Found = Refused | tuple[Drawing, Any]  # a drawing has its flag `recognized` beside it


class _CutOff(bytes):
    """A last line that no line break ends."""


def plan(settings: Settings) -> list[InputPart]:
    """The files of `settings.input`, each with its category. Looks at the first lines of each file.

    Raises:
        SettingsError: there are none, or one cannot be read.
    """
    where = settings.input
    if not where:
        raise SettingsError("prepare.input is missing: give --input with the folder of QuickDraw's files")
    folder, pattern = _split_glob(where)
    found = []
    for entry in storage.list_files(folder, linked=True):
        name = storage.relative(entry.url, folder)
        named = None if is_hidden(name) else category_of(name)
        if named and fnmatch.fnmatchcase(normal(name), normal(pattern)):
            if not name.isprintable():
                raise SettingsError(f"prepare.input: the file name {name!r} is no readable text; rename it")
            found.append((name, named, entry))
    if not found:
        raise SettingsError(
            f"prepare.input = {where!r}: no .ndjson, .ndjson.gz or .bin file there that is not hidden; "
            "give a folder that has some"
        )
    with ThreadPoolExecutor(_REQUESTS) as pool:
        words = list(pool.map(_category, [entry.url for _, _, entry in found], [named for _, named, _ in found]))
    return sorted(
        InputPart(name, word, entry.url, entry.size, named="" if agree(named, word) else named)
        for (name, named, entry), word in zip(found, words, strict=True)
    )


def _category(url: str, named: str) -> str:
    try:
        return word_of(url, named)
    except PermissionError as error:
        raise SettingsError(f"prepare.input: {url} cannot be read: {error.strerror}; give one that can") from error


def _split_glob(where: str) -> tuple[str, str]:
    """(folder, pattern of the names below it). What exists under its literal name is no pattern."""
    wild = _WILD.search(where)
    while wild and storage.list_files(literal := where[: _end_of_name(where, wild.start())]):
        if literal == where:
            return where, "*"
        wild = _WILD.search(where, len(literal))
    if not wild:
        return where, "*"
    folder = where[: wild.start()].rpartition("/")[0]
    return folder or ("/" if where.startswith("/") else "."), where[len(folder) :].lstrip("/")


def _end_of_name(where: str, at: int) -> int:
    end = where.find("/", at)
    return len(where) if end < 0 else end


def read(part: InputPart, settings: Settings) -> Iterator[Item]:
    """The drawings of one file, in order; a file that breaks off or is damaged ends in a refused item."""
    with opened(part.url, part.size) as file:
        if part.url.lower().endswith(".bin"):
            items = _read_binary(file)
        else:
            pieces, loss = text(file, part.url, part.size)
            items = _read_lines(_lines(pieces), loss, part.category)
        for item in items:
            if isinstance(item, Refused):
                yield item
            elif settings.recognized == "only" and item[1] is not True:
                yield Filtered("not recognized" if item[1] is False else "without the flag `recognized`")
            else:
                yield item[0]


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a text without their ends; of one that is too long, the begin."""
    rest, is_long = b"", False
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines[is_long:]
        is_long = is_long and not lines
        if is_long:
            rest = b""
        elif len(rest) > MAX_LINE:
            yield rest
            rest, is_long = b"", True
    if rest:
        yield _CutOff(rest)


def _read_lines(lines: Iterable[bytes], loss: Loss | None, category: str) -> Iterator[_Found]:
    number = 0
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            yield Refused(number, "line_too_long", _shown(line), f"the line has more than {MAX_LINE:,} bytes")
        elif line and not line.isspace():
            try:
                yield _of_line(line, category)
            except _Refusal as refusal:
                if loss is None or not isinstance(line, _CutOff):  # The loss tells of that line.
                    yield refusal.of(number, _shown(line))
    if loss:
        yield Refused(number + 1, loss.reason, "", loss.what, loss.lines)


def _shown(line: bytes) -> str:
    return line[: 4 * SHOWN].decode("utf-8", "replace").rstrip("\n")[:SHOWN]


def _of_line(line: bytes, category: str) -> tuple[Drawing, Any]:
    """One line of JSON -> a drawing and its flag `recognized`; raises _Refusal with the reason."""
    try:
        entry = orjson.loads(bytes(line))  # It takes no class of our own.
    except orjson.JSONDecodeError as error:
        if line.startswith(BOM):
            return _of_line(line.removeprefix(BOM), category)
        raise _why_no_json(line, error) from None
    if not isinstance(entry, dict):
        raise _Refusal("wrong_type", f"the line is {_brief(entry)}, and no object in braces")
    word = entry.get("word")
    if word != category and word is not None and not (isinstance(word, str) and normal(word) == category):
        raise _Refusal("other_word", f"word = {_brief(word)}, and the file is of {category!r}")
    ink = _ink(entry.get("drawing"))
    # true and false pass as coordinates 1 and 0: a line with more of them than `recognized` needs a closer look.
    recognized = entry.get("recognized")
    if line.count(b"true") + line.count(b"false") > isinstance(recognized, bool) and _has_bool(entry["drawing"]):
        raise _why_no_ink(entry["drawing"])
    return Drawing(ink, _key(entry.get("key_id"))), recognized


def _brief(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= MAX_KEY else f"{told[:MAX_KEY]}…"


def _why_no_json(line: bytes, error: orjson.JSONDecodeError) -> _Refusal:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return _Refusal("not_utf8", f"byte {wrong.start + 1} is {line[wrong.start]:#04x}")
    if number := re.search(rb"[\[,]\s*(-?(?:NaN|Infinity))\b", line):
        return _Refusal("not_finite", f"a number is {number[1].decode()}")
    if isinstance(line, _CutOff) and not line.rstrip().endswith(b"}"):
        return _Refusal(_CUT, f"the file ends within this line; {UNKNOWN}; fetch it again")
    return _Refusal("broken_json", f"{error.msg} at sign {error.colno}")


def _key(key: Any) -> str:
    if key is None:
        return ""
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise _Refusal("wrong_type", f"key_id = {_brief(key)} is no text of at most {MAX_KEY} signs")
    return key


def _ink(drawing: Any) -> bytes:
    if drawing is None or drawing == []:
        raise _Refusal("no_strokes", "the line has no drawing" if drawing is None else "drawing = [] is empty")
    if not isinstance(drawing, list):
        raise _Refusal("wrong_type", f"drawing = {_brief(drawing)} is no list of strokes")
    try:
        ink = _raw_ink(drawing) if len(drawing[0]) == _RAW_AXES else strokes.pack(drawing)
    except (ValueError, TypeError, OverflowError):
        raise _why_no_ink(drawing) from None
    except TooLong:
        raise _Refusal("too_many_points", "drawing has too many points") from None
    first = drawing[0]
    if first[0][0] == first[0][-1] and first[1][0] == first[1][-1] and _is_one_point(drawing):
        raise _Refusal("one_point", f"all points of drawing are ({first[0][0]}, {first[1][0]})")
    return ink


def _raw_ink(drawing: list[Any]) -> bytes:
    # Without a dtype, numbers stay numbers and text stays text; a ragged stroke is an error.
    arrays = [np.array([xs, ys]) for xs, ys, _ in drawing]
    if not all(array.ndim == 2 and array.size and array.dtype.kind in "iuf" for array in arrays):  # noqa: PLR2004
        raise ValueError
    lines = [array.astype(np.float64).T for array in arrays]
    if not all((abs(line) < MAX_RAW).all() for line in lines):
        raise ValueError
    return pack_simplified(lines)


def _is_one_point(drawing: list[Any]) -> bool:
    return len({(x, y) for stroke in drawing for x, y in zip(stroke[0], stroke[1], strict=True)}) == 1


def _has_bool(drawing: Any) -> bool:
    """Whether true or false stands among the coordinates x and y of a drawing that was packed."""
    return any(isinstance(value, bool) for stroke in drawing for axis in stroke[:2] for value in axis)


def _why_no_ink(drawing: list[Any]) -> _Refusal:
    """The reason, for a drawing that could not be packed, and the first field that is wrong."""
    for number, stroke in enumerate(drawing):
        told = f"drawing[{number}] = {_brief(stroke)}"
        if (
            not isinstance(stroke, list)
            or len(stroke) not in {2, 3}
            or not all(isinstance(axis, list) for axis in stroke)
        ):
            return _Refusal("wrong_type", f"{told} is no stroke, [[x, …], [y, …]]")
        if len(stroke) != len(drawing[0]):
            return _Refusal(
                "mixed_forms",
                f"{told} has {len(stroke)} lists and drawing[0] {len(drawing[0])}: raw and simplified form",
            )
        if any(len(axis) != len(stroke[0]) or not axis for axis in stroke):
            return _Refusal(
                "uneven_stroke", f"drawing[{number}] has {' and '.join(str(len(a)) for a in stroke)} numbers"
            )
    is_raw = len(drawing[0]) == _RAW_AXES
    for number, stroke in enumerate(drawing):
        if len(stroke[0]) > strokes.MAX_POINTS:
            return _Refusal("too_many_points", f"drawing[{number}] has {len(stroke[0]):,} points")
        for axis, values in enumerate(stroke[:2]):
            for place, value in enumerate(values):
                if wrong := _why_no_coordinate(value, is_raw=is_raw):
                    return _Refusal(wrong[0], f"drawing[{number}][{axis}][{place}] = {_brief(value)} {wrong[1]}")
    return _Refusal("too_many_points", "a stroke of drawing has too many points, even simplified")


def _why_no_coordinate(value: Any, *, is_raw: bool) -> tuple[str, str] | None:
    """(reason, in words) for a value that no coordinate can be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "wrong_type", "is no number"
    if not math.isfinite(value):
        return "not_finite", "is not finite"
    if is_raw:
        return ("out_of_range", f"is beyond {MAX_RAW:g}") if abs(value) >= MAX_RAW else None
    if isinstance(value, float):
        return "wrong_type", "is no whole number, as the simplified form has them"
    return None if 0 <= value <= MAX_COORDINATE else ("out_of_range", f"is outside 0 to {MAX_COORDINATE}")


def _read_binary(file: BinaryIO) -> Iterator[_Found]:
    for number in itertools.count(1):
        header = file.read(_HEADER.size)
        if not header:
            return
        try:
            yield _of_record(header, file)
        except _Refusal as refusal:
            yield refusal.of(number, header.hex())


def _of_record(header: bytes, file: BinaryIO) -> tuple[Drawing, bool]:
    """The header of a record and the file behind it -> a drawing and its flag `recognized`."""
    key, _, recognized, _, count = _HEADER.unpack(_whole(header, _HEADER.size))
    parts = []
    for _ in range(count):
        points = _whole(file.read(_COUNT.size), _COUNT.size)
        size = 2 * _COUNT.unpack(points)[0]
        parts.append(points + _whole(file.read(size), size))
    if any(part[:2] == b"\0\0" for part in parts):
        raise _Refusal("uneven_stroke", "a stroke has no point")
    if not parts:
        raise _Refusal("no_strokes", "the record has no stroke")
    ink = b"".join(parts)
    if len(np.unique(np.concatenate(strokes.unpack(ink)), axis=0)) == 1:
        raise _Refusal("one_point", "all points of the record are one")
    return Drawing(ink, str(key)), recognized == 1


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise _Refusal(_CUT, f"the file ends within this record; {UNKNOWN}; fetch it again")
    return data
