"""Strokes to anti-aliased greyscale pixels: round strokes, proportions kept, centred, the ink's box filling the image.

It is ours because no drawing library promises the same pixels on every processor and in every version, and a data set's
digest needs them. Only integers are used, so the pixels depend on nothing but the strokes.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boceto import raster_kernels
from boceto.errors import SettingsError

_FINE = 1024  # squared distances are looked up in 1/1024 square pixels


@functools.cache
def coverage_table(line_width: float) -> NDArray[np.uint8]:
    """Squared distance of a pixel's centre from the stroke's middle, in 1/1024 square pixels -> coverage 0..255.

    A pixel is covered by clamp(width / 2 + 1/2 - distance, 0, 1): a straight edge's share of a pixel that it crosses.
    """
    width = round(line_width * 256)
    outer = (width + 256) ** 2 // 4 * _FINE // 65536 + 1
    # 1/256 pixels times 16 for the rounding: everything stays in integers.
    distances = (math.isqrt((step * 65536 // _FINE) * 256) for step in range(outer + 1))
    peak = min(255, 255 * width // 256)
    levels = ((((width + 256) * 8 - distance) * 255 + 2048) // 4096 for distance in distances)
    return np.array([min(max(level, 0), peak) for level in levels], np.uint8)


class Rasteriser:
    """Draws packed strokes (`boceto.strokes`) at one size and style.

    height, width, line_width, margin: pixels; the margin is free of ink. ink: `white` (on black) or `black`.

    Raises:
        SettingsError: there is no room left between the margins.
    """

    def __init__(
        self, height: int, width: int, line_width: float = 2.0, margin: float = 1.0, ink: str = "white"
    ) -> None:
        self._inset = round((margin + line_width / 2) * 256)
        if self._inset * 2 >= min(height, width) * 256:
            raise SettingsError(
                f"prepare.line_width = {line_width} and prepare.margin = {margin} leave no room in {height}x{width} "
                "pixels; use smaller ones"
            )
        self._shape = height, width
        self._coverage = coverage_table(line_width)
        self._black = ink == "black"

    def draw(self, inks: Sequence[bytes], out: NDArray[np.uint8] | None = None, step: int = 1) -> NDArray[np.uint8]:
        """B packed drawings -> uint8[B, height, width], in the first B of `out` where given.

        step: rows 0, step, 2 * step, … are drawn; the content of the other rows is undefined.

        Releases the interpreter's lock while it draws.

        Raises:
            ValueError: a drawing is no packed strokes.
        """
        starts = np.zeros(len(inks) + 1, np.int64)
        np.cumsum([len(ink) for ink in inks], out=starts[1:])
        if out is None:
            images = np.zeros((len(inks), *self._shape), np.uint8)
        else:
            images = out[: len(inks)]
            images[:, ::step] = 0
        joined = np.frombuffer(b"".join(inks), np.uint8)
        if not raster_kernels.draw(joined, starts, self._inset, self._coverage, images, step):
            raise ValueError("a stroke is cut off")
        return np.invert(images, out=images) if self._black else images


class Lines(NamedTuple):
    """B drawings as lines that have their place in an image.

    points: int64[N, 2], (x, y) in 1/256 pixels. strokes: int64[S + 1], the first point of each stroke, and N.
    drawings: int64[B + 1], the first stroke of each drawing, and S.
    """

    points: NDArray[np.int64]
    strokes: NDArray[np.int64]
    drawings: NDArray[np.int64]


def draw_lines(
    lines: Lines, line_widths: Sequence[float], chosen: NDArray[np.int64], height: int, width: int
) -> NDArray[np.uint8]:
    """Draws white lines on black: drawing i with the line width `line_widths[chosen[i]]`, in pixels.

    Returns uint8[B, height, width]. Releases the interpreter's lock while it draws.
    """
    tables = [coverage_table(each) for each in line_widths]
    starts = np.cumsum([0, *map(len, tables)])
    images = np.zeros((len(chosen), height, width), np.uint8)
    raster_kernels.draw_lines(*lines, chosen, np.concatenate(tables), starts, images)
    return images
