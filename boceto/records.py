"""Contract 1, the record: one `tf.train.Example` a drawing in TFRecord frames, without TensorFlow.

Features are written in sorted order, so the same drawing is the same bytes. Sources: the TFRecord format
(https://www.tensorflow.org/tutorials/load_data/tfrecord), tensorflow/core/example/{example,feature}.proto and the
protobuf encoding (https://protobuf.dev/programming-guides/encoding/).
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import google_crc32c
import numba
import numpy as np
from numpy.typing import NDArray

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
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(tag: int, data: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(data)) + data


def _bytes_feature(name: bytes, value: bytes) -> bytes:
    return _delimited(0x0A, _delimited(0x0A, name) + _delimited(0x12, _delimited(0x0A, _delimited(0x0A, value))))


def _int_feature(name: bytes, value: int) -> bytes:
    return _delimited(
        0x0A, _delimited(0x0A, name) + _delimited(0x12, _delimited(0x1A, _delimited(0x0A, _varint(value))))
    )


class Encoder:
    """Makes the records of one data set: image size, encoding and classes are the same in all of them."""

    def __init__(self, height: int, width: int, encoding: str, classes: Iterable[str]) -> None:
        self._classes = [
            _int_feature(LABEL, label) + _bytes_feature(TEXT, name.encode()) for label, name in enumerate(classes)
        ]
        self._format_height = _bytes_feature(FORMAT, encoding.encode()) + _int_feature(HEIGHT, height)
        self._width = _int_feature(WIDTH, width)

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
        return _delimited(0x0A, features)


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
    offsets = _frames(shard)
    if offsets.size and offsets[-1, 0] < 0:
        raise ValueError(f"record {len(offsets) - 1} is cut off or its length is wrong")
    fields = np.full((len(offsets), len(NAMES), 2), -1, np.int64)
    names = np.frombuffer(b"".join(NAMES), np.uint8)
    ends = np.cumsum([len(name) for name in NAMES])
    broken = _parse(shard, offsets, names, ends, fields)
    if broken >= 0:
        raise ValueError(f"record {broken} is not a tf.train.Example")
    for position, name in enumerate(NAMES[:-1]):  # Strokes may be missing: only drawings have them.
        missing = np.flatnonzero(fields[:, position, 1] < 0)
        if missing.size:
            raise ValueError(f"record {missing[0]} has no feature {name.decode()}")
    label, _, image, encoding, height, key, width, strokes = (fields[:, position] for position in range(len(NAMES)))
    shape = np.stack([height[:, 0], width[:, 0]], axis=1)
    return Index(label[:, 0].copy(), image.copy(), key.copy(), strokes.copy(), shape, encoding.copy(), offsets)


@numba.njit(cache=True, nogil=True)
def _frames(shard):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """int64[N, 2], (offset, length) of each frame's data; a broken frame ends it with offset -1."""
    found = 0
    offsets = np.empty((1024, 2), np.int64)
    at = 0
    size = shard.size
    while at < size:
        if found == offsets.shape[0]:
            offsets = np.concatenate((offsets, np.empty_like(offsets)))
        length = np.int64(0)
        whole = at + FRAME_BYTES <= size
        if whole:
            for byte in range(7, -1, -1):
                length = (length << 8) | np.int64(shard[at + byte])
            whole = 0 <= length <= size - at - FRAME_BYTES
        offsets[found, 0] = at + 12 if whole else -1
        offsets[found, 1] = length
        found += 1
        if not whole:
            break
        at += FRAME_BYTES + length
    return offsets[:found]


@numba.njit(cache=True, nogil=True)
def _read_varint(data, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """(value, next position); the position is -1 where the varint is broken."""
    value = np.int64(0)
    shift = 0
    while at < end and shift < 63:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, -1


@numba.njit(cache=True, nogil=True)
def _open(data, at, end, tag):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """(start, end) of a length-delimited field that must have `tag`; start is -1 where it has not."""
    if at >= end or data[at] != tag:
        return -1, -1
    length, start = _read_varint(data, at + 1, end)
    if start < 0 or length > end - start:
        return -1, -1
    return start, start + length


@numba.njit(cache=True, nogil=True)
def _value(data, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """A Feature of one value -> (offset, length) of bytes, (value, 0) of an integer, (-1, -1) otherwise."""
    start, stop = _open(data, at, end, 0x0A)
    if start >= 0:
        return _bytes_value(data, start, stop)
    start, stop = _open(data, at, end, 0x1A)
    if start < 0:
        return -1, -1
    first, last = _open(data, start, stop, 0x0A)  # Packed, as every current writer does it; else tag 0x08.
    if first < 0:
        if start >= stop or data[start] != 0x08:
            return -1, -1
        first, last = start + 1, stop
    number, after = _read_varint(data, first, last)
    if after != last:
        return -1, -1
    return number, 0


@numba.njit(cache=True, nogil=True)
def _bytes_value(data, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    start, stop = _open(data, at, end, 0x0A)
    if start < 0 or stop != end:
        return -1, -1
    return start, stop - start


@numba.njit(cache=True, nogil=True)
def _which(data, at, end, names, ends):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """The number of the feature name in data[at:end], or -1."""
    begin = 0
    for position in range(ends.size):
        if ends[position] - begin == end - at:
            same = True
            for offset in range(end - at):
                if data[at + offset] != names[begin + offset]:
                    same = False
                    break
            if same:
                return position
        begin = ends[position]
    return -1


@numba.njit(cache=True, nogil=True)
def _parse(data, frames, names, ends, fields):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Fills fields[N, names, 2]; returns the number of the first record that is no Example, or -1."""
    for record in range(frames.shape[0]):
        first = frames[record, 0]
        at, end = _open(data, first, first + frames[record, 1], 0x0A)
        if at < 0:
            return record
        while at < end:
            entry, stop = _open(data, at, end, 0x0A)
            if entry < 0:
                return record
            name, name_end = _open(data, entry, stop, 0x0A)
            if name < 0:
                return record
            feature, feature_end = _open(data, name_end, stop, 0x12)
            if feature < 0:
                return record
            position = _which(data, name, name_end, names, ends)
            if position >= 0:
                value, length = _value(data, feature, feature_end)
                if length < 0:
                    return record
                fields[record, position, 0] = value
                fields[record, position, 1] = length
            at = stop
    return -1
