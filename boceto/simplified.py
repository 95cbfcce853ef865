"""Strokes of any size to Google's simplified form: 0..255, aligned to the top left, resampled and thinned."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boceto import simplified_kernels, strokes

EPSILON = 2.0
EXTENT = 255.0
# The game gives 20 seconds: at 240 points a second, each at the other end of the drawing, that is 1.7 million pixels.
# Of 9,570 raw drawings, the longest is 35,929 pixels. A point is resampled every pixel.
MAX_LENGTH = 1 << 21
# Distances that thinning may measure, about 0.1 s; it takes the square of the length at worst. Of 9,570 raw drawings,
# the one with the most takes 439,279.
MAX_WORK = 1 << 26


class TooLong(Exception):  # noqa: N818 - not an error: a drawing that is refused
    """The strokes take more work than any drawing of the game."""


def pack_simplified(lines: Sequence[NDArray[np.float64]]) -> bytes:
    """A list of float64[points, 2] of any size -> packed strokes (`boceto.strokes`), as Google simplified them.

    Source: https://github.com/googlecreativelab/quickdraw-dataset#simplified-drawing-files-ndjson.

    Raises:
        TooLong: the strokes together are longer than MAX_LENGTH, or take more than MAX_WORK.
        ValueError: a stroke has too many points even when simplified.
    """
    placed = _placed(lines)
    if sum(map(simplified_kernels.length, placed)) > MAX_LENGTH:
        raise TooLong
    work = MAX_WORK
    thinned = []
    for line in placed:
        points, work = simplified_kernels.simplify(line, EPSILON, work)
        if work < 0:
            raise TooLong
        thinned.append(points)
    return _packed(thinned)


def pack_placed(lines: Sequence[NDArray[np.float64]]) -> bytes:
    """As `pack_simplified`, with all points: for strokes that have few.

    Raises:
        ValueError: a stroke has too many points.
    """
    return _packed(_placed(lines))


def _placed(lines: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Aligned to the top left, and so large that the longer side is EXTENT."""
    every = np.concatenate(lines)
    low = every.min(axis=0)
    extent = (every.max(axis=0) - low).max() or 1.0
    every = (every - low) * EXTENT / extent
    stops = itertools.accumulate(map(len, lines))
    return [every[stop - len(line) : stop] for line, stop in zip(lines, stops, strict=True)]


def _packed(lines: Sequence[NDArray[np.float64]]) -> bytes:
    return strokes.pack([np.rint(line).astype(np.uint8).T.tolist() for line in lines])
