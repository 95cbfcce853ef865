"""A picture, in any format, size and mode that Pillow reads, as an image that a net takes.

The paper of a picture is the median colour of its outermost sixteenth. Where a picture is transparent, it lies on white
paper, or on black paper if its ink is bright. The inverse of a picture is 255 - value.
"""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

INVERT, FIT = ("auto", "on", "off"), ("keep", "stretch")
MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28  # Of a file.
_TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels; make it smaller"
_RING = 16
_ENOUGH = 4  # Pixels a side of a pixel of the image.
_BRIGHT, _WHITE = 127, 255


class Unusable(Exception):  # noqa: N818 - not an error: what is wrong with one picture
    """Carries the reason (a word for counts), and what is wrong."""


def to_image(
    data: bytes, shape: tuple[int, int, int], *, ink: str = "white", invert: str = "auto", fit: str = "keep"
) -> NDArray[np.uint8]:
    """Returns the first picture of a file as uint8[H, W, C] of `shape`, turned as its EXIF data say.

    ink: "white" (on black) or "black". invert: "auto" inverts a picture whose paper does not suit the ink: bright paper
    with white ink, or dark paper with black ink. fit: "keep" keeps the proportions, with a border of the picture's
    paper; "stretch" does not. A pixel of a smaller image is the mean of the pixels that it covers, so thin lines stay.

    Raises:
        Unusable: the file is damaged, EPS or no picture, has more than MAX_PIXELS pixels, or shows one colour alone.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, odd palettes and odd EXIF data.
            with Image.open(io.BytesIO(data)) as file:
                _check(file)
                picture = _eight_bits(ImageOps.exif_transpose(file))
                # Of a large picture, whole squares of pixels become one pixel at once: the rest takes less memory.
                picture = _opaque(picture.reduce(_surplus(picture, shape)), ink, invert)
    except (Unusable, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Unusable("too_large", _TOO_LARGE) from error
    except UnidentifiedImageError as error:  # Its words hold an address in memory.
        raise Unusable("damaged_image", "it is no picture that Pillow can read") from error
    except Exception as error:  # Decoders raise errors of any kind.
        raise Unusable("damaged_image", f"it is damaged: {error}") from error
    height, width, channels = shape
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(
        picture.height, picture.width, channels
    )
    if pixels.min() == pixels.max():
        raise Unusable("blank_image", f"all its pixels are {pixels.min()}")
    paper = _paper(pixels)
    if invert == "on" or (invert == "auto" and (paper.mean() > _BRIGHT) == (ink == "white")):
        pixels, paper = _WHITE - pixels, _WHITE - paper
    return _fitted(pixels, (width, height), paper, fit)


def _check(picture: Image.Image) -> None:
    if picture.format == "EPS":
        raise Unusable("damaged_image", "it is EPS, a program that Pillow gives to Ghostscript; save it as PNG")
    if picture.width * picture.height > MAX_PIXELS:
        raise Unusable("too_large", _TOO_LARGE)


def _surplus(picture: Image.Image, shape: tuple[int, int, int]) -> int:
    """How many times as many pixels a side as are needed."""
    return max(1, min(picture.width // (_ENOUGH * shape[1]), picture.height // (_ENOUGH * shape[0])))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Any mode -> L, RGB or RGBA. Numbers of 32 bits have no white of their own: their largest becomes white."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in {"I", "F"}:
        values = np.asarray(picture, np.float64)
        low, high = values.min(), values.max()
        if not np.isfinite(high - low):
            raise Unusable("damaged_image", "some of its values are not finite")
        return Image.fromarray(np.rint((values - low) * (_WHITE / max(high - low, 1e-300))).astype(np.uint8))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if picture.mode == "L" else picture.convert("RGB")


def _opaque(picture: Image.Image, ink: str, invert: str) -> Image.Image:
    """Lays what is transparent on paper."""
    if picture.mode != "RGBA":
        return picture
    if invert == "auto":
        alpha = np.asarray(picture.getchannel("A"), np.int64)
        is_bright = (np.asarray(picture.convert("L")) * alpha).sum() > _BRIGHT * alpha.sum()
    else:
        is_bright = (ink == "white") != (invert == "on")
    paper = Image.new("RGBA", picture.size, "black" if is_bright else "white")
    return Image.alpha_composite(paper, picture)


def _paper(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The paper of a picture uint8[H, W, C] -> uint8[C]."""
    height, width, channels = pixels.shape
    is_ring = np.ones((height, width), bool)
    high, wide = max(1, height // _RING), max(1, width // _RING)
    is_ring[high : height - high, wide : width - wide] = False
    return np.median(pixels[is_ring].reshape(-1, channels), axis=0).astype(np.uint8)


def _fitted(pixels: NDArray[np.uint8], size: tuple[int, int], paper: NDArray[np.uint8], fit: str) -> NDArray[np.uint8]:
    """Makes a picture uint8[h, w, C] an image uint8[H, W, C]; size: W, H."""
    (height, width, channels), inner = pixels.shape, size
    if fit == "keep":
        scale = min(size[0] / width, size[1] / height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
    is_smaller = inner[0] <= width and inner[1] <= height
    filter_ = Image.Resampling.BOX if is_smaller else Image.Resampling.BILINEAR
    image = np.tile(paper, (size[1], size[0], 1))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).resize(inner, filter_)
    image[top : top + inner[1], left : left + inner[0]] = np.asarray(picture).reshape(inner[1], inner[0], channels)
    return image
