"""The images of a data set: drawn where a drawing has strokes, and else as its source gives them."""

from collections.abc import Iterator, Sequence

import google_crc32c
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from beam_pipelines.select import Candidate
from beam_pipelines.sources import inflated
from boceto.raster import Rasteriser

BATCH = 32
_PROBED_ROWS = 16  # About: every eighth row of 128.


class Drawer:
    """Makes images of one shape (height, width, channels) and style. Strokes with 3 channels are grey.

    Raises:
        SettingsError: the style leaves no room for a drawing.
    """

    def __init__(self, shape: tuple[int, int, int], line_width: float, margin: float, ink: str) -> None:
        self._shape = shape
        self._rasteriser = Rasteriser(*shape[:2], line_width, margin, ink)
        self._grey = np.empty((BATCH, *shape[:2]), np.uint8)  # Fresh memory for each batch costs more.

    def images(self, strokes: Sequence[bytes], pixels: Sequence[bytes], step: int = 1) -> NDArray[np.uint8]:
        """At most BATCH drawings, packed strokes or deflated pixels -> uint8[B, H, W, C], valid until the next call.

        step: only rows 0, step, 2 * step, … are needed; the content of the other rows is undefined.

        Raises:
            ValueError: a drawing is neither.
        """
        images = self._rasteriser.draw(strokes, self._grey, step)[..., None]
        if self._shape[2] > 1:
            images = np.broadcast_to(images, (len(strokes), *self._shape)).copy()
        for image, data in zip(images, pixels, strict=True):
            if data:
                image[:] = inflated(data, self._shape)
        return images

    def pictures(self, candidates: Sequence[Candidate]) -> list[bytes]:
        """Returns two checksums of the pixels of each candidate, 8 bytes: equal pictures have equal ones."""
        return list(self._checksums(candidates, 1))

    def probes(self, candidates: Sequence[Candidate]) -> list[bytes]:
        """Returns 8 bytes for each candidate, from a few rows of its pixels: equal pictures have equal probes, and so
        have a few different pictures. It takes less than half the time of `pictures`.
        """
        return list(self._checksums(candidates, max(1, self._shape[0] // _PROBED_ROWS)))

    def _checksums(self, candidates: Sequence[Candidate], step: int) -> Iterator[bytes]:
        for at in range(0, len(candidates), BATCH):
            batch = candidates[at : at + BATCH]
            for image in self.images([row.strokes for row in batch], [row.pixels for row in batch], step):
                data = image[::step].tobytes()
                yield isal_zlib.crc32(data).to_bytes(4, "little") + google_crc32c.value(data).to_bytes(4, "little")
