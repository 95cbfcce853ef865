"""The fields of one drawing, as JSON or CSV gives them: a `Drawing`, or why it is none.

Source: https://github.com/googlecreativelab/quickdraw-dataset#the-raw-moderated-dataset. In the simplified form a
stroke is [[x, …], [y, …]] with integers 0..255; in the raw form it is [[x, …], [y, …], [time, …]] with any numbers.
"""

import math
import re
from typing import Any

import numpy as np
import orjson

from boceto import strokes
from boceto.gzip_text import CUT, UNKNOWN, CutOff
from boceto.inputs import Drawing, Filtered, Refused, normal
from boceto.simplified import TooLong, pack_simplified

MAX_LINE = 1 << 20
LOOKED_AT = 16  # Drawings of a file, for its category.
SHOWN = 200
_RAW_AXES = 3  # x, y and time
MAX_RAW = 2.0**53  # Beyond this, a float does not hold every whole pixel.
MAX_COORDINATE = 255
MAX_KEY = 64


class Refusal(Exception):  # noqa: N818 - not an error: what is wrong with one drawing
    """Carries the reason, and what is wrong with which field."""

    def of(self, number: int, text: str, lost: int = 1) -> Refused:
        """The item for the drawing of this number; where the file ends in it, as much again is lost as is there."""
        reason, what = self.args
        return Refused(number, reason, text, what, number if reason == CUT else lost)


Found = Refused | Filtered | tuple[Drawing, Any]  # a drawing has its flag `recognized` beside it


def shown(line: bytes) -> str:
    """How a line begins, for people to read."""
    return line[: 4 * SHOWN].decode("utf-8", "replace").rstrip("\n")[:SHOWN]


def of_fields(fields: dict[str, Any], category: str | None, *, may_hold_bool: bool) -> tuple[Drawing, Any]:
    """`word`, `drawing`, `key_id` and `recognized` of a drawing -> a drawing and its flag.

    category: the word that it must have, if it has a word; None for any.

    may_hold_bool: whether true or false may stand in the drawing: they would pass as coordinates 1 and 0.

    Raises:
        Refusal: with the reason.
    """
    word = fields.get("word")
    if None not in (word, category) and word != category and not (isinstance(word, str) and normal(word) == category):
        raise Refusal("other_word", f"word = {brief(word)}, and the file is of {category!r}")
    drawing: Any = fields.get("drawing")
    ink = _ink(drawing)
    if may_hold_bool and _has_bool(drawing):
        raise _why_no_ink(drawing)
    return Drawing(ink, _key(fields.get("key_id"))), fields.get("recognized")


def brief(value: Any) -> str:
    """A value in words, or how it begins."""
    told = repr(value)
    return told if len(told) <= MAX_KEY else f"{told[:MAX_KEY]}…"


def why_no_json(line: bytes, error: orjson.JSONDecodeError) -> Refusal:
    """The reason, for a text that is no JSON."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return Refusal("not_utf8", f"byte {wrong.start + 1} is {line[wrong.start]:#04x}")
    if number := re.search(rb"[\[,]\s*(-?(?:NaN|Infinity))\b", line):
        return Refusal("not_finite", f"a number is {number[1].decode()}")
    if isinstance(line, CutOff) and not line.rstrip().endswith(b"}"):
        return Refusal(CUT, f"the file ends within this line; {UNKNOWN}; fetch it again")
    return Refusal("broken_json", f"{error.msg} at sign {error.colno}")


def _key(key: Any) -> str:
    if key is None:
        return ""
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise Refusal("wrong_type", f"key_id = {brief(key)} is no text of at most {MAX_KEY} signs")
    return key


def _ink(drawing: Any) -> bytes:
    if drawing is None or drawing == []:
        raise Refusal("no_strokes", "the line has no drawing" if drawing is None else "drawing = [] is empty")
    if not isinstance(drawing, list):
        raise Refusal("wrong_type", f"drawing = {brief(drawing)} is no list of strokes")
    try:
        ink = _raw_ink(drawing) if len(drawing[0]) == _RAW_AXES else strokes.pack(drawing)
    except (ValueError, TypeError, OverflowError):
        raise _why_no_ink(drawing) from None
    except TooLong:
        raise Refusal("too_many_points", "drawing has too many points") from None
    first = drawing[0]
    if first[0][0] == first[0][-1] and first[1][0] == first[1][-1] and _is_one_point(drawing):
        raise Refusal("one_point", f"all points of drawing are ({first[0][0]}, {first[1][0]})")
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


def _why_no_ink(drawing: list[Any]) -> Refusal:
    """The reason, for a drawing that could not be packed, and the first field that is wrong."""
    for number, stroke in enumerate(drawing):
        told = f"drawing[{number}] = {brief(stroke)}"
        if (
            not isinstance(stroke, list)
            or len(stroke) not in {2, 3}
            or not all(isinstance(axis, list) for axis in stroke)
        ):
            return Refusal("wrong_type", f"{told} is no stroke, [[x, …], [y, …]]")
        if len(stroke) != len(drawing[0]):
            return Refusal(
                "mixed_forms",
                f"{told} has {len(stroke)} lists and drawing[0] {len(drawing[0])}: raw and simplified form",
            )
        if any(len(axis) != len(stroke[0]) or not axis for axis in stroke):
            return Refusal(
                "uneven_stroke", f"drawing[{number}] has {' and '.join(str(len(a)) for a in stroke)} numbers"
            )
    is_raw = len(drawing[0]) == _RAW_AXES
    for number, stroke in enumerate(drawing):
        if len(stroke[0]) > strokes.MAX_POINTS:
            return Refusal("too_many_points", f"drawing[{number}] has {len(stroke[0]):,} points")
        for axis, values in enumerate(stroke[:2]):
            for place, value in enumerate(values):
                if wrong := _why_no_coordinate(value, is_raw=is_raw):
                    return Refusal(wrong[0], f"drawing[{number}][{axis}][{place}] = {brief(value)} {wrong[1]}")
    return Refusal("too_many_points", "a stroke of drawing has too many points, even simplified")


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
