"""Strokes of any size to Google's simplified form: 0..255, aligned to the top left, resampled and thinned."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beam_pipelines.sources import _raw_kernels
from boceto import strokes

EPSILON = 2.0
EXTENT = 255.0
# Points once resampled at a spacing of 1: a hundred times across the drawing. Thinning takes the square of it at worst.
MAX_LENGTH = 100 * EXTENT


class TooLong(Exception):  # noqa: N818 - not an error: a drawing that is refused
    """The strokes are longer than any person draws."""


def pack_simplified(lines: Sequence[NDArray[np.float64]]) -> bytes:
    """A list of float64[points, 2] of any size -> packed strokes (`boceto.strokes`).

    Source: https://github.com/googlecreativelab/quickdraw-dataset#simplified-drawing-files-ndjson.

    Raises:
        TooLong: the strokes together are longer than MAX_LENGTH.
        ValueError: a stroke has too many points even when simplified.
    """
    every = np.concatenate(lines)
    low = every.min(axis=0)
    extent = (every.max(axis=0) - low).max()
    scale = EXTENT / extent if extent > 0 else 0.0
    placed = [(line - low) * scale for line in lines]
    if sum(float(np.hypot(*np.diff(line, axis=0).T).sum()) for line in placed) > MAX_LENGTH:
        raise TooLong
    thinned = (_raw_kernels.simplify(line, EPSILON) for line in placed)
    return strokes.pack([np.rint(line).astype(np.uint8).T.tolist() for line in thinned])
