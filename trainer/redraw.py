"""`--augment stroke`: each drawing is drawn anew from its strokes in each epoch, a little otherwise each time.

As a hand would draw it again: short strokes may be missing; each stroke is moved and bent, and its points tremble; the
drawing is turned, sheared and stretched, then fitted into the image as in its data set, shrunk and shifted there; the
line is thinner or wider. Lines stay clean, since no pixel is resampled.

A stroke is bent as a cubic Bezier curve whose four pivots are moved: after Zheng et al., Sketch-specific data
augmentation for freehand sketch recognition (2019). That short strokes are dropped more often than long ones is after
Yu et al., Sketch-a-Net: a deep neural network that beats humans (2017).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boceto import raster
from boceto.dataset import Split
from boceto.errors import DataError, SettingsError
from trainer import redraw_kernels
from trainer.settings import Settings

WIDTH = 0.5  # The line is up to 2**0.5 times as wide, or as thin.
WIDTHS = 8


class Redrawer:
    """Draws the drawings of a split anew, in the size and style of its data set. strength: multiplies all ranges.

    Raises:
        SettingsError: the split holds pictures without strokes.
    """

    def __init__(self, split: Split, strength: float) -> None:
        options = split.manifest.options
        line_width, margin = float(options.get("line_width", 2.0)), float(options.get("margin", 1.0))
        self._shape = split.manifest.shape
        self._strength = strength
        self._widths = (line_width * 2 ** (WIDTH * strength * np.linspace(-1, 1, WIDTHS))).tolist()
        self._inset = (margin + self._widths[-1] / 2) * 256  # The widest line leaves the margin free too.
        self._is_black = options.get("ink") == "black"
        self.draw([split.strokes(0)], np.zeros(1, np.uint64))

    def draw(self, inks: Sequence[bytes], keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """B packed drawings (`boceto.strokes`), and a random key of each, uint64[B] -> uint8[B, H, W, C].

        Raises:
            SettingsError: a drawing has no strokes.
            DataError: a drawing is no packed strokes.
        """
        if not all(inks):
            raise SettingsError(
                "train.augment = 'stroke' needs drawings with strokes, and this data set holds pictures without; use "
                "--augment none, with --flip, --rotation, --shift or --scale"
            )
        height, width, channels = self._shape
        starts = np.cumsum([0, *map(len, inks)])
        joined = np.frombuffer(b"".join(inks), np.uint8)
        points = np.empty((len(joined) // 2 * redraw_kernels.MOST_PIECES, 2))
        strokes, drawings = np.zeros(len(joined) // 4 + 1, np.int64), np.zeros(len(inks) + 1, np.int64)
        room = *(max(0.0, side * 256 - 2 * self._inset) for side in (width, height)), self._inset
        if not redraw_kernels.place(joined, starts, keys, self._strength, room, points, strokes, drawings):
            raise DataError("the strokes of a drawing are cut off; prepare the data set again with --overwrite")
        placed = points[: strokes[drawings[-1]]].astype(np.int64)
        chosen = (keys % np.uint64(WIDTHS)).astype(np.int64)
        images = raster.draw_lines(raster.Lines(placed, strokes, drawings), self._widths, chosen, height, width)
        if self._is_black:
            np.invert(images, out=images)
        return np.repeat(images[..., None], channels, axis=-1)


def of_settings(settings: Settings, split: Split) -> Redrawer | None:
    """Returns what draws the records of `split` anew; None without `--augment stroke`.

    Raises:
        SettingsError: the split holds pictures without strokes.
    """
    return Redrawer(split, settings.augment_strength) if settings.augment == "stroke" else None
