"""The `.bin` form: a record a drawing, little-endian.

Source: https://github.com/googlecreativelab/quickdraw-dataset#binary-files.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from beam_pipelines.sources import Drawing
from boceto import strokes
from boceto.entry import Found, Refusal
from boceto.gzip_text import CUT, UNKNOWN

_HEADER = struct.Struct("<Q2sbIH")
_COUNT = struct.Struct("<H")


def read(file: BinaryIO) -> Iterator[Found]:
    """The drawings of a file, in order."""
    for number in itertools.count(1):
        header = file.read(_HEADER.size)
        if not header:
            return
        try:
            yield _of_record(header, file)
        except Refusal as refusal:
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
        raise Refusal("uneven_stroke", "a stroke has no point")
    if not parts:
        raise Refusal("no_strokes", "the record has no stroke")
    ink = b"".join(parts)
    if len(np.unique(np.concatenate(strokes.unpack(ink)), axis=0)) == 1:
        raise Refusal("one_point", "all points of the record are one")
    return Drawing(ink, str(key)), recognized == 1


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise Refusal(CUT, f"the file ends within this record; {UNKNOWN}; fetch it again")
    return data
