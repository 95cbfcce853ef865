"""Strokes as bytes, as the record's `sketch/strokes` holds them: for each stroke a uint16 count n (little-endian), n
bytes of x, n bytes of y. It is the stroke part of QuickDraw's binary form
(https://github.com/googlecreativelab/quickdraw-dataset#binary-files).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 0xFFFF


def pack(strokes: Iterable[Sequence[Sequence[int]]]) -> bytes:
    """[[[x, …], [y, …]], …] with integers 0..255 -> bytes.

    Raises:
        ValueError, TypeError: a coordinate out of range or not an integer, x and y of different length, no point.
    """
    parts: list[bytes] = []
    for xs, ys in strokes:
        count = len(xs)
        if count != len(ys) or not 0 < count <= MAX_POINTS:
            raise ValueError("x and y differ in length, or a stroke has no point")
        parts += (count.to_bytes(2, "little"), bytes(xs), bytes(ys))
    return b"".join(parts)


def unpack(ink: bytes) -> list[NDArray[np.uint8]]:
    """Bytes -> a list of uint8[points, 2], (x, y).

    Raises:
        ValueError: the bytes are cut off.
    """
    strokes = []
    at = 0
    while at < len(ink):
        count = int.from_bytes(ink[at : at + 2], "little")
        stroke = np.frombuffer(ink, np.uint8, 2 * count, at + 2)
        strokes.append(stroke.reshape(2, count).T)
        at += 2 + 2 * count
    return strokes
