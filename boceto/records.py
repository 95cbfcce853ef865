"""Contract 1, the record: one `tf.train.Example` a drawing in TFRecord frames, without TensorFlow.

Features are written in sorted order, so the same drawing is the same bytes. Sources: the TFRecord format
(https://www.tensorflow.org/tutorials/load_data/tfrecord), tensorflow/core/example/{example,feature}.proto and the
protobuf encoding (https://protobuf.dev/programming-guides/encoding/).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import record_kernels

CHANNELS, LABEL, TEXT, ENCODED, FORMAT, HEIGHT, KEY, WIDTH, STROKES = NAMES = (
    b"image/channels",
    b"image/class/label",
    b"image/class/text",
    b"image/encoded",
    b"image/format",
    b"image/height",
    b"image/key",
    b"image/width",
    b"sketch/strokes",
)
HEAD_BYTES = 12  # before a record: its length 8, the length's checksum 4
FRAME_BYTES = 16  # around a record: these, and behind it its checksum 4


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(record: bytes) -> bytes:
    """One TFRecord frame around `record`."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, struct.pack("<I", _masked_crc(length)), record, struct.pack("<I", _masked_crc(record))))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >> 7:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# A record takes a dozen varints, nearly all of them small.
_SMALL_VARINTS = [_varint(value) for value in range(1 << 14)]


def _head(tag: bytes, size: int) -> bytes:
    """The head of a field of the wire type "length-delimited": its tag and its length."""
    return tag + (_SMALL_VARINTS[size] if size < len(_SMALL_VARINTS) else _varint(size))


def _delimited(tag: bytes, value: bytes) -> bytes:
    return _head(tag, len(value)) + value


def _entry(name: bytes, feature: bytes) -> bytes:
    """An entry of the map of features: name -> Feature."""
    return _delimited(b"\x0a", _delimited(b"\x0a", name) + _delimited(b"\x12", feature))


def _int_feature(name: bytes, value: int) -> bytes:
    """An entry of the map: name -> Feature(int64_list=[value])."""
    return _entry(name, _delimited(b"\x1a", _delimited(b"\x0a", _varint(value))))


def _bytes_feature(name: bytes, value: bytes) -> bytes:
    """An entry of the map: name -> Feature(bytes_list=[value]). The value is copied once."""
    first = _head(b"\x0a", len(value))
    second = _head(b"\x0a", len(first) + len(value)) + first
    third = _delimited(b"\x0a", name) + _head(b"\x12", len(second) + len(value)) + second
    return b"".join((_head(b"\x0a", len(third) + len(value)), third, value))


@dataclass(frozen=True)
class Layout:
    """What all records of a data set share: images of height x width pixels with 1 or 3 channels (grey or RGB), how
    they are encoded (`png` or `raw`), and the names of the classes in the order of their labels.
    """

    height: int
    width: int
    channels: int
    encoding: str
    classes: Sequence[str]


class Encoder:
    """Makes the records of one data set. The features stand in sorted order, so a drawing has one encoding."""

    def __init__(self, layout: Layout) -> None:
        channels = _int_feature(CHANNELS, layout.channels)
        self._first = [
            channels + _int_feature(LABEL, label) + _bytes_feature(TEXT, name.encode())
            for label, name in enumerate(layout.classes)
        ]
        self._format = _bytes_feature(FORMAT, layout.encoding.encode()) + _int_feature(HEIGHT, layout.height)
        self._width = _int_feature(WIDTH, layout.width)

    def encode(self, label: int, encoded: bytes, key: str, strokes: bytes = b"") -> bytes:
        """One serialised `tf.train.Example`. Without strokes, it has no feature `sketch/strokes`."""
        features = (
            self._first[label],
            _bytes_feature(ENCODED, encoded),
            self._format,
            _bytes_feature(KEY, key.encode()),
            self._width,
            _bytes_feature(STROKES, strokes) if strokes else b"",
        )
        return _delimited(b"\x0a", b"".join(features))


@dataclass(frozen=True)
class Index:
    """Where the values of a shard's N records stand, as offsets into the shard's bytes.

    label: int64[N]. image, key, strokes: int64[N, 2], (offset, length in bytes). shape: int64[N, 3],
    (height, width, channels). encoding: int64[N, 2], (offset, length) of the image's format. frames: int64[N, 2],
    (offset, length) of the Example.
    """

    label: NDArray[np.int64]
    image: NDArray[np.int64]
    key: NDArray[np.int64]
    strokes: NDArray[np.int64]
    shape: NDArray[np.int64]
    encoding: NDArray[np.int64]
    frames: NDArray[np.int64]


def index(shard: NDArray[np.uint8]) -> Index:
    """Finds the records of a whole shard, uint8[bytes].

    Raises:
        ValueError: a frame or an Example is broken; the message says which record and what is wrong.
    """
    offsets = record_kernels.find_frames(shard, FRAME_BYTES)
    if offsets.size and offsets[-1, 0] < 0:
        raise ValueError(f"record {len(offsets) - 1} is cut off or its length is wrong")
    fields = np.full((len(offsets), len(NAMES), 2), -1, np.int64)
    names = np.frombuffer(b"".join(NAMES), np.uint8)
    ends = np.cumsum([len(name) for name in NAMES])
    broken = record_kernels.parse(shard, offsets, names, ends, fields)
    if broken >= 0:
        raise ValueError(f"record {broken} is not a tf.train.Example")
    for position, name in enumerate(NAMES[:-1]):  # Strokes may be missing: only drawings have them.
        missing = np.flatnonzero(fields[:, position, 1] < 0)
        if missing.size:
            raise ValueError(f"record {missing[0]} has no feature {name.decode()}")
    channels, label, _, image, encoding, height, key, width, strokes = (
        fields[:, position] for position in range(len(NAMES))
    )
    shape = np.stack([height[:, 0], width[:, 0], channels[:, 0]], axis=1)
    return Index(label[:, 0].copy(), image.copy(), key.copy(), strokes.copy(), shape, encoding.copy(), offsets)
