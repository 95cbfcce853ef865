"""Pictures of all kinds become images."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boceto import pictures
from boceto.pictures import Unusable, to_image

HEIGHT, WIDTH = 48, 64
SHAPE = (24, 32, 1)


def _sketch():
    """Black lines on white paper, uint8[48, 64], no two corners alike."""
    paper = np.full((HEIGHT, WIDTH), 255, np.uint8)
    paper[10:40, 12:15] = 0
    paper[36:40, 12:50] = 0
    paper[8:12, 30:33] = 0
    return paper


SKETCH = _sketch()
GREY = Image.fromarray(SKETCH)
INK = Image.fromarray(255 - SKETCH)


def _file(picture, kind, **how):
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def _with_alpha(colour, mode="RGBA"):
    """Ink of this colour on nothing."""
    picture = Image.new("RGBA", GREY.size, colour)
    picture.putalpha(INK)
    return picture.convert(mode)


def _turned():
    """Lies on its side; EXIF says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _file(GREY.transpose(Image.Transpose.ROTATE_90), "jpeg", quality=100, exif=exif)


KINDS = {
    "L png": _file(GREY, "png"),
    "1 png": _file(GREY.convert("1"), "png"),
    "P png": _file(GREY.convert("RGB").quantize(16), "png"),
    "L png, white is transparent": _file(GREY, "png", transparency=255),
    "P png, white is transparent": _file(GREY.convert("P"), "png", transparency=255),
    "LA png": _file(_with_alpha("black", "LA"), "png"),
    "RGBA png": _file(_with_alpha("black"), "png"),
    "RGBA png, bright ink": _file(_with_alpha("white"), "png"),
    "RGBA png, opaque": _file(GREY.convert("RGBA"), "png"),
    "16 bits png": _file(Image.fromarray(SKETCH.astype(np.uint16) * 257), "png"),
    "16 bits big-endian tiff": _file(
        Image.frombytes("I;16B", GREY.size, (SKETCH.astype(">u2") * 257).tobytes()), "tiff"
    ),
    "32 bits tiff": _file(Image.fromarray(SKETCH.astype(np.int32) * 100_000 - 7), "tiff"),
    "float tiff": _file(Image.fromarray(SKETCH.astype(np.float32) / 255), "tiff"),
    "CMYK tiff": _file(GREY.convert("CMYK"), "tiff"),
    "CMYK jpeg": _file(GREY.convert("CMYK"), "jpeg", quality=100, subsampling=0),
    "RGB jpeg": _file(GREY.convert("RGB"), "jpeg", quality=100),
    "jpeg turned by EXIF": _turned(),
    "animated gif": _file(GREY, "gif", save_all=True, append_images=[INK, INK]),
    "webp": _file(GREY, "webp", lossless=True),
    "bmp": _file(GREY, "bmp"),
    "pgm": _file(GREY, "ppm"),
    "white on black": _file(INK, "png"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_sketch_of_any_kind_is_the_same_image(kind, channels):
    halved = (255 - SKETCH).reshape(24, 2, 32, 2).mean((1, 3))[..., None]
    image = to_image(KINDS[kind], (*SHAPE[:2], channels))
    assert image.shape == (*SHAPE[:2], channels)
    assert image.dtype == np.uint8
    assert np.abs(image - halved).max() <= (12 if "jpeg" in kind else 1)


@pytest.mark.parametrize(
    ("is_bright", "ink", "invert", "inverted"),
    [
        (True, "white", "auto", True),
        (False, "white", "auto", False),
        (True, "black", "auto", False),
        (False, "black", "auto", True),
        (True, "white", "off", False),
        (False, "white", "on", True),
    ],
)
def test_the_ink_is_as_asked(is_bright, ink, invert, inverted):
    pixels = SKETCH if is_bright else 255 - SKETCH
    image = to_image(_file(Image.fromarray(pixels), "png"), (HEIGHT, WIDTH, 1), ink=ink, invert=invert)
    assert (image[..., 0] == (255 - pixels if inverted else pixels)).all()


@pytest.mark.parametrize(
    ("ink", "invert", "colour"),
    [("white", "on", "black"), ("black", "off", "black"), ("white", "off", "white"), ("black", "on", "white")],
)
def test_what_is_transparent_lies_on_the_paper_that_the_settings_imply(ink, invert, colour):
    image = to_image(_file(_with_alpha(colour), "png"), (HEIGHT, WIDTH, 1), ink=ink, invert=invert)
    assert (image[..., 0] == (255 - SKETCH if ink == "white" else SKETCH)).all()


def test_a_thin_frame_is_not_taken_for_paper():
    framed = SKETCH.copy()
    framed[[0, -1]] = framed[:, [0, -1]] = 0
    assert to_image(_file(Image.fromarray(framed), "png"), (HEIGHT, WIDTH, 1))[5, 5, 0] == 0


def test_colours_are_kept_and_inverted_where_the_paper_is():
    picture = np.full((8, 8, 3), 255, np.uint8)
    picture[4, 1:7] = 200, 10, 20
    file = _file(Image.fromarray(picture), "png")
    assert to_image(file, (8, 8, 3))[4, 4].tolist() == [55, 245, 235]
    assert to_image(file, (8, 8, 3), ink="black")[4, 4].tolist() == [200, 10, 20]


def test_proportions_are_kept_with_a_border_of_the_pictures_paper_or_stretched():
    picture = np.full((10, 20), 250, np.uint8)
    picture[:, 8:12] = 0
    file = _file(Image.fromarray(picture), "png")
    kept = to_image(file, (16, 16, 1), ink="black")[..., 0]
    assert (kept[:4] == 250).all()
    assert (kept[12:] == 250).all()
    assert (kept[4:12, 8] == 0).all()
    stretched = to_image(file, (16, 16, 1), ink="black", fit="stretch")[..., 0]
    assert (stretched[:, 8] == 0).all()


@pytest.mark.parametrize("side", [150, 517, 1111])
def test_thin_lines_stay_and_about_all_of_their_ink(side):
    picture = np.full((side, side), 255, np.uint8)
    picture[side // 3] = picture[:, side // 5] = 0
    image = to_image(_file(Image.fromarray(picture), "png"), (64, 64, 1))[..., 0]
    assert (image.max(0) > 0).all()
    assert (image.max(1) > 0).all()
    assert image.mean() == pytest.approx((255 - picture).mean(), rel=0.3)


def test_a_small_picture_is_enlarged():
    image = to_image(_file(GREY.resize((16, 12)), "png"), (HEIGHT, WIDTH, 1))[..., 0]
    assert image[20, 13] > 150
    assert image[20, 50] == 0


def _header(width, height):
    """A PNG file of this size with hardly any data."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged_image"),
        (b"no picture", "damaged_image"),
        (KINDS["L png"][:-30], "damaged_image"),
        (KINDS["RGB jpeg"][:400], "damaged_image"),
        (_file(GREY, "eps"), "damaged_image"),
        (_header(8193, 8192), "too_large"),
        (_header(10_000, 10_000), "too_large"),  # Pillow warns.
        (_header(100_000, 100_000), "too_large"),  # Pillow refuses.
        (_file(Image.new("L", (9, 9), 255), "png"), "blank_image"),
        (_file(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "tiff"), "damaged_image"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data, reason):
    with pytest.raises(Unusable) as refused:
        to_image(data, SHAPE)
    assert refused.value.args[0] == reason


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damage_gives_an_image_or_a_reason(kind, data):
    file = bytearray(KINDS[kind])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(file) - 1), st.integers(0, 255)), max_size=4)):
        file[at] = byte
    try:
        assert to_image(bytes(file), SHAPE).shape == SHAPE
    except Unusable as refused:
        assert refused.args[0] in {"damaged_image", "too_large", "blank_image"}


def test_a_large_picture_is_the_mean_of_what_it_covers():
    shades = np.random.default_rng(0).integers(0, 256, (512, 512), np.uint8)
    picture = np.pad(shades, 64, constant_values=255)
    image = to_image(_file(Image.fromarray(picture), "png"), (8, 8, 1), ink="black")[..., 0]
    means = picture.reshape(8, 80, 8, 80).mean((1, 3))
    assert np.abs(image - means).max() <= 1
    assert picture.size < pictures.MAX_PIXELS
