"""Contract 1, the record: one `tf.train.Example` a drawing in TFRecord frames, without TensorFlow.

Features are written in sorted order, so the same drawing is the same bytes. Sources: the TFRecord format
(https://www.tensorflow.org/tutorials/load_data/tfrecord), tensorflow/core/example/{example,feature}.proto and the
protobuf encoding (https://protobuf.dev/programming-guides/encoding/).
"""

import itertools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import record_kernels

LABEL, TEXT, ENCODED, FORMAT, HEIGHT, KEY, WIDTH, STROKES = (
    b"image/class/label",
    b"image/class/text",
    b"image/encoded",
    b"image/format",
    b"image/height",
    b"image/key",
    b"image/width",
    b"sketch/strokes",
)
NAMES = (LABEL, TEXT, ENCODED, FORMAT, HEIGHT, KEY, WIDTH, STROKES)
FRAME_BYTES = 16  # length 8, its checksum 4, the data's checksum 4


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


# Every record takes a dozen of them, nearly all of them small.
_SMALL_VARINTS = [_varint(value) for value in range(1 << 14)]


def _length(value: int) -> bytes:
    return _SMALL_VARINTS[value] if value < len(_SMALL_VARINTS) else _varint(value)


def _bytes_feature(name: bytes, value: bytes) -> bytes:
    """An entry of the map: name -> Feature(bytes_list=[value])."""
    item = _length(len(value))
    items = _length(len(value) + len(item) + 1)
    feature_size = len(value) + len(item) + len(items) + 2
    feature = _length(feature_size)
    entry = _length(len(name) + len(feature) + feature_size + 3)  # A name's length is one byte.
    return b"".join(
        (b"\x0a", entry, b"\x0a", _length(len(name)), name, b"\x12", feature, b"\x0a", items, b"\x0a", item, value)
    )


def _int_feature(name: bytes, value: int) -> bytes:
    """An entry of the map: name -> Feature(int64_list=[value])."""
    number = _varint(value)
    feature = b"\x1a" + _length(len(number) + 2) + b"\x0a" + _length(len(number)) + number
    entry = b"\x0a" + _length(len(name)) + name + b"\x12" + _length(len(feature)) + feature
    return b"\x0a" + _length(len(entry)) + entry


def _pieces(pieces: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pieces joined, uint8[bytes], and where each ends, int64[pieces]."""
    return np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([len(piece) for piece in pieces])


class Encoder:
    """Makes the records of one data set: image size, encoding and classes are the same in all of them."""

    def __init__(self, height: int, width: int, encoding: str, classes: Iterable[str]) -> None:
        self._classes = [
            _int_feature(LABEL, label) + _bytes_feature(TEXT, name.encode()) for label, name in enumerate(classes)
        ]
        self._format_height = _bytes_feature(FORMAT, encoding.encode()) + _int_feature(HEIGHT, height)
        self._width = _int_feature(WIDTH, width)
        names = [b"\x0a" + _length(len(name)) + name + b"\x12" for name in (ENCODED, KEY, STROKES)]
        self._unchanging = (
            *_pieces(self._classes),
            *_pieces(names),
            *_pieces([self._format_height, self._width, b""]),
        )
        # Six lengths a feature, of at most nine bytes each.
        self._overhead = FRAME_BYTES + max(map(len, self._classes)) + sum(map(len, names)) + 200
        self._overhead += len(self._format_height) + len(self._width)

    def encode(self, label: int, encoded: bytes, key: str, strokes: bytes) -> bytes:
        """One serialised `tf.train.Example`."""
        features = b"".join(
            (
                self._classes[label],
                _bytes_feature(ENCODED, encoded),
                self._format_height,
                _bytes_feature(KEY, key.encode()),
                self._width,
                _bytes_feature(STROKES, strokes),
            )
        )
        return b"\x0a" + _length(len(features)) + features

    def frames(
        self, labels: Sequence[int], encoded: Sequence[bytes], keys: Sequence[str], strokes: Sequence[bytes]
    ) -> bytes:
        """What `frame` makes of `encode` of each of N drawings, joined; in one compiled loop."""
        texts = [key.encode() for key in keys]
        values = list(itertools.chain.from_iterable(zip(encoded, texts, strokes, strict=True)))
        joined, ends = _pieces(values)
        out = np.empty(joined.size + self._overhead * len(labels), np.uint8)
        where = np.empty((len(labels), 2), np.int64)
        end = record_kernels.write_frames(out, where, np.array(labels, np.int64), joined, ends, *self._unchanging)
        data, crc = out[:end].tobytes(), google_crc32c.value  # The processor's own CRC: faster than a kernel's.
        crcs = [(crc(data[at - 12 : at - 4]), crc(data[at : at + length])) for at, length in where.tolist()]
        record_kernels.seal_frames(out, where, np.array(crcs, np.int64))
        return out[:end].tobytes()


@dataclass(frozen=True)
class Index:
    """Where the values of a shard's N records stand, as offsets into the shard's bytes.

    label: int64[N]. image, key, strokes: int64[N, 2], (offset, length in bytes). shape: int64[N, 2], (height, width).
    encoding: int64[N, 2], (offset, length) of the image's format. frames: int64[N, 2], (offset, length) of the Example.
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
    label, _, image, encoding, height, key, width, strokes = (fields[:, position] for position in range(len(NAMES)))
    shape = np.stack([height[:, 0], width[:, 0]], axis=1)
    return Index(label[:, 0].copy(), image.copy(), key.copy(), strokes.copy(), shape, encoding.copy(), offsets)
