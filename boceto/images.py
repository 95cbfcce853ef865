"""Images as bytes: `raw` pixels, or the plainest `png` (8 bits a channel, filter 0, one IDAT), with a fast deflate.

Source: PNG specification, third edition (https://www.w3.org/TR/png-3/).
"""

import struct

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from boceto.errors import DataError

PNG_LEVEL = 0
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
_COLOUR = {1: 0, 3: 2}  # channels -> colour type: grey, RGB
_DATA_AT = 41  # signature 8, IHDR 25, length and name of IDAT 8


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(name)))


def png_header(height: int, width: int, channels: int = 1) -> bytes:
    """The 33 bytes that open every PNG of this size, with 1 channel (grey) or 3 (RGB)."""
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR[channels], 0, 0, 0))


class PngEncoder:
    """Makes PNG files of images of one size. Not for several threads at once."""

    def __init__(self, height: int, width: int, channels: int = 1) -> None:
        self._header = png_header(height, width, channels)
        # Column 0 holds each row's filter: 0, none.
        self._rows = np.zeros((height, 1 + width * channels), np.uint8)

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """uint8[H, W, C] (or uint8[H, W] for one channel) -> a PNG file."""
        self._rows[:, 1:] = image.reshape(len(image), -1)
        return self._header + _chunk(b"IDAT", isal_zlib.compress(self._rows, PNG_LEVEL)) + _END


def decode_png(data: bytes | memoryview, image: NDArray[np.uint8], header: bytes) -> None:
    """Writes the pixels of a PNG of `PngEncoder` into `image`, uint8[H, W, C].

    Raises:
        DataError: another size or kind of PNG than `header` says, or damaged data.
    """
    height, width, channels = image.shape
    row = 1 + width * channels
    if bytes(data[: len(header)]) != header or bytes(data[37:_DATA_AT]) != b"IDAT":
        raise DataError(_unlike(image))
    try:
        rows = np.frombuffer(isal_zlib.decompress(data[_DATA_AT:-16], bufsize=height * row), np.uint8)
    except isal_zlib.error as error:  # type: ignore[misc]  # isal says nothing of its types
        raise DataError(f"damaged PNG: {error}") from error
    if rows.size != height * row or rows[::row].any():
        raise DataError(f"{_unlike(image)}: other size or filters")
    image.reshape(height, row - 1)[:] = rows.reshape(height, row)[:, 1:]


def _unlike(image: NDArray[np.uint8]) -> str:
    height, width, channels = image.shape
    return f"not a PNG of {height}x{width} pixels with {channels} channel{'s' * (channels > 1)} as Boceto writes them"
