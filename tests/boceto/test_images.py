import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from boceto import images
from boceto.errors import DataError


def _decode(data, channels=1):
    image = np.zeros((5, 7, channels), np.uint8)
    images.decode_png(data, image, images.png_header(5, 7, channels))
    return image


@given(st.sampled_from([1, 3]).flatmap(lambda channels: arrays(np.uint8, (2, 5, 7, channels))))
def test_png_gives_back_the_pixels_and_tensorflow_agrees(pixels):
    encoder = images.PngEncoder(*pixels.shape[1:])
    for image, encoded in [(image, encoder.encode(image)) for image in pixels]:
        assert (_decode(encoded, pixels.shape[-1]) == image).all()
        assert (tf.io.decode_png(encoded).numpy() == image).all()


def test_another_size_or_number_of_channels_is_refused():
    other = images.PngEncoder(7, 5).encode(np.zeros((7, 5), np.uint8))
    with pytest.raises(DataError, match="not a PNG of 5x7"):
        _decode(other)
    with pytest.raises(DataError, match="not a PNG of 5x7 pixels with 3 channels"):
        _decode(images.PngEncoder(5, 7).encode(np.zeros((5, 7), np.uint8)), 3)


@given(st.data())
def test_damage_to_the_pixels_is_noticed(data):
    encoded = bytearray(images.PngEncoder(5, 7).encode(np.arange(35, dtype=np.uint8).reshape(5, 7)))
    # The compressed data with its own checksum; the last 16 bytes are PNG's checksums and end.
    encoded[data.draw(st.integers(41, len(encoded) - 17))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = _decode(bytes(encoded))
    except DataError:
        return
    assert (decoded[..., 0] == np.arange(35).reshape(5, 7)).all()


@pytest.mark.parametrize("length", [0, 10, 41, 50])
def test_a_cut_png_is_refused(length):
    encoded = images.PngEncoder(5, 7).encode(np.zeros((5, 7), np.uint8))
    with pytest.raises(DataError):
        _decode(encoded[:length])
