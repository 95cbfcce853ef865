"""Google's Quick, Draw! files: `.ndjson` and `.ndjson.gz` (simplified and raw form) and `.bin`.

Source: https://github.com/googlecreativelab/quickdraw-dataset#the-raw-moderated-dataset. A file holds one category and
is named after it; a category may be spread over several files (`cat-00000-of-00004.ndjson`, or `part1/cat.ndjson`).
"""

import fnmatch
import io
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson
from isal import igzip, isal_zlib

from beam_pipelines.settings import Settings
from beam_pipelines.sources import FILTERED, Item, Part, Refused, Sketch
from beam_pipelines.sources._simplified import TooLong, pack_simplified
from boceto import storage, strokes
from boceto.errors import DataError, SettingsError

MAX_LINE = 1 << 20
SHOWN = 200
_RAW_AXES = 3  # x, y and time
MAX_RAW = 2.0**53  # Beyond this, a float does not hold every whole pixel.
MAX_KEY = 64
_BUFFER = 1 << 18
_FILE = re.compile(
    r"(?:full_(?:simplified|raw|binary)_)?(?P<category>.+?)(?:-\d+(?:-of-\d+)?)?\.(?:ndjson(?:\.gz)?|bin)",
    re.DOTALL,  # A name with a line break is refused, not passed over.
)
_WILD = re.compile(r"[*?\[]")
_HEADER = struct.Struct("<Q2sbIH")
_COUNT = struct.Struct("<H")


class _Refusal(Exception):  # noqa: N818 - not an error: what is wrong with one drawing
    """Carries the reason."""


def plan(settings: Settings) -> list[Part]:
    """The files of `settings.input`.

    Raises:
        SettingsError: there are none.
    """
    where = settings.input
    if not where:
        raise SettingsError("prepare.input is missing: give --input with the folder of QuickDraw's files")
    folder, pattern = _split_glob(where)
    parts = []
    for entry in storage.list_files(folder):
        name = storage.relative(entry.url, folder)
        match = _FILE.fullmatch(name.rpartition("/")[2])
        if match and fnmatch.fnmatchcase(name, pattern):
            if not name.isprintable():
                raise SettingsError(f"prepare.input: the file name {name!r} is no readable text; rename it")
            parts.append(Part(name, match["category"], entry.url, entry.size))
    if not parts:
        raise SettingsError(
            f"prepare.input = {where!r}: no .ndjson, .ndjson.gz or .bin file there; give a folder that has some"
        )
    return sorted(parts)


def _split_glob(where: str) -> tuple[str, str]:
    """(folder, pattern of the names below it). What exists under its literal name is no pattern."""
    wild = _WILD.search(where)
    if not wild or storage.list_files(where):
        return where, "*"
    folder = where[: wild.start()].rpartition("/")[0]
    return folder or ("/" if where.startswith("/") else "."), where[len(folder) :].lstrip("/")


def read(part: Part, settings: Settings) -> Iterator[Item]:
    """The drawings of one file, in order; a file that breaks off ends in a refused item."""
    only_recognized = settings.recognized == "only"
    try:
        with storage.open_file(part.url) as file:
            if part.url.endswith(".bin"):
                yield from _read_binary(file, only_recognized)
            elif part.url.endswith(".gz"):
                with igzip.IGzipFile(fileobj=file) as unpacked, io.BufferedReader(unpacked, _BUFFER) as lines:
                    yield from _read_lines(lines, part.category, only_recognized)
            else:
                yield from _read_lines(file, part.category, only_recognized)
    except FileNotFoundError as error:
        raise DataError(f"{part.url} has gone since the job began; run it again") from error


def _read_lines(file: BinaryIO, category: str, only_recognized: bool) -> Iterator[Item]:  # noqa: FBT001
    number = 0
    try:
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                _skip_line(file)
                yield Refused(number, "line_too_long", _shown(line))
            elif not line.isspace():
                try:
                    yield _sketch(line, category, only_recognized)
                except _Refusal as refusal:
                    yield Refused(number, str(refusal), _shown(line))
    except EOFError:
        yield Refused(number + 1, "truncated_file", "")
    except (igzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]  # isal says nothing of its types
        yield Refused(number + 1, "damaged_file", str(error))


def _skip_line(file: BinaryIO) -> None:
    while (more := file.readline(_BUFFER)) and not more.endswith(b"\n"):
        pass


def _shown(line: bytes) -> str:
    return line[: 4 * SHOWN].decode("utf-8", "replace").rstrip("\n")[:SHOWN]


def _sketch(line: bytes, category: str, only_recognized: bool) -> Sketch | None:  # noqa: FBT001
    """One line of JSON -> a drawing, or None where an option leaves it out; raises _Refusal with the reason."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise _Refusal(_why_no_json(line)) from None
    if not isinstance(entry, dict):
        raise _Refusal("wrong_type")
    if entry.get("word", category) != category:
        raise _Refusal("unknown_word")
    ink = _ink(entry.get("drawing"))
    # true and false pass as coordinates 1 and 0: a line with more of them than `recognized` needs a closer look.
    recognized = entry.get("recognized")
    if line.count(b"true") + line.count(b"false") > isinstance(recognized, bool) and _has_bool(entry["drawing"]):
        raise _Refusal("wrong_type")
    if only_recognized and recognized is not True:
        return FILTERED
    return Sketch(ink, _key(entry.get("key_id")))


def _why_no_json(line: bytes) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    return "not_finite" if re.search(rb"[\[,]\s*-?(NaN|Infinity)\b", line) else "broken_json"


def _key(key: Any) -> str:
    if key is None:
        return ""
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise _Refusal("wrong_type")
    return key


def _ink(drawing: Any) -> bytes:
    if not isinstance(drawing, list):
        raise _Refusal("no_strokes" if drawing is None else "wrong_type")
    if not drawing:
        raise _Refusal("no_strokes")
    try:
        ink = _raw_ink(drawing) if len(drawing[0]) == _RAW_AXES else strokes.pack(drawing)
    except (ValueError, TypeError, OverflowError):
        raise _Refusal(_why_no_ink(drawing)) from None
    except TooLong:
        raise _Refusal("too_many_points") from None
    first = drawing[0]
    if first[0][0] == first[0][-1] and first[1][0] == first[1][-1] and _is_one_point(drawing):
        raise _Refusal("one_point")
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


def _why_no_ink(drawing: list[Any]) -> str:  # noqa: PLR0911 - a list of reasons
    """The reason, for a drawing that could not be packed."""
    is_strokes = all(isinstance(stroke, list) and len(stroke) in {2, 3} for stroke in drawing)
    if not is_strokes or not all(isinstance(axis, list) for stroke in drawing for axis in stroke):
        return "wrong_type"
    if any(len(axis) != len(stroke[0]) or not axis for stroke in drawing for axis in stroke):
        return "uneven_stroke"
    values = [value for stroke in drawing for axis in stroke[:2] for value in axis]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return "wrong_type"
    if not all(math.isfinite(value) for value in values):
        return "not_finite"
    if any(len(stroke[0]) > strokes.MAX_POINTS for stroke in drawing):
        return "too_many_points"
    is_raw = any(len(stroke) == _RAW_AXES for stroke in drawing)
    if not is_raw and any(isinstance(value, float) for value in values):
        return "wrong_type"
    return "out_of_range"


def _read_binary(file: BinaryIO, only_recognized: bool) -> Iterator[Item]:  # noqa: FBT001
    number = 0
    while header := file.read(_HEADER.size):
        number += 1
        try:
            yield _binary_sketch(file, header, only_recognized)
        except EOFError:
            yield Refused(number, "truncated_file", header.hex())
            return
        except _Refusal as refusal:
            yield Refused(number, str(refusal), header.hex())


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _binary_sketch(file: BinaryIO, header: bytes, only_recognized: bool) -> Sketch | None:  # noqa: FBT001
    if len(header) != _HEADER.size:
        raise EOFError
    key, _, recognized, _, count = _HEADER.unpack(header)
    parts = []
    for _ in range(count):
        points = _exactly(file, _COUNT.size)
        parts.append(points + _exactly(file, 2 * _COUNT.unpack(points)[0]))
    if any(part[:2] == b"\0\0" for part in parts):
        raise _Refusal("uneven_stroke")
    if not parts:
        raise _Refusal("no_strokes")
    ink = b"".join(parts)
    if len(np.unique(np.concatenate(strokes.unpack(ink)), axis=0)) == 1:
        raise _Refusal("one_point")
    if only_recognized and recognized != 1:
        return FILTERED
    return Sketch(ink, str(key))
