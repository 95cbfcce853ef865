"""The index of a shard: the place, checksum, label and key of every record, so that a start does not read the shard.

An index is the rows of its records (`ROW`, little-endian) and then their keys, one behind the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from boceto import records

# offset, bytes, crc32c: of the record's whole frame in the shard. image, image_bytes: of the pixels in the frame.
ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("bytes", "<u4"),
        ("crc32c", "<u4"),
        ("label", "<i4"),
        ("image", "<u4"),
        ("image_bytes", "<u4"),
        ("key_bytes", "<u4"),
    ]
)


@dataclass(frozen=True)
class ShardIndex:
    """rows: ROW[N], in the order of the records. keys: uint8[bytes], the N keys."""

    rows: NDArray[np.void]
    keys: NDArray[np.uint8]

    def to_bytes(self) -> bytes:
        """Returns the content of an index file."""
        return self.rows.tobytes() + self.keys.tobytes()


def parse(data: bytes | memoryview, count: int, classes: int, size: int) -> ShardIndex:
    """Reads an index of `count` records, whose labels are below `classes`, of a shard of `size` bytes.

    Raises:
        ValueError: `data` is no such index.
    """
    if len(data) < count * ROW.itemsize:
        raise ValueError(f"it has {len(data)} bytes, too few for {count} records")
    rows = np.frombuffer(data, ROW, count)
    keys = np.frombuffer(data, np.uint8, offset=rows.nbytes)
    if rows["key_bytes"].sum() != len(keys):
        raise ValueError("its keys are not as long as its rows say")
    # Compared without a sum of uint64, which could overflow.
    outside = (rows["offset"] > size) | (rows["bytes"] > np.uint64(size) - rows["offset"])
    if (outside | (rows["image"].astype(np.int64) + rows["image_bytes"] > rows["bytes"])).any():
        raise ValueError("a record is not inside the shard, or an image not inside its record")
    _check_labels(rows["label"], classes)
    return ShardIndex(rows, keys)


def joined(parts: Iterable[ShardIndex]) -> ShardIndex:
    """Joins the indexes of the pieces of a shard, which lie one behind the other."""
    rows, keys, size = [np.empty(0, ROW)], [np.empty(0, np.uint8)], 0
    for part in parts:
        moved = part.rows.copy()
        moved["offset"] += np.uint64(size)
        size += int(moved["bytes"].sum(dtype=np.uint64))
        rows.append(moved)
        keys.append(part.keys)
    return ShardIndex(np.concatenate(rows), np.concatenate(keys))


def build(data: NDArray[np.uint8], layout: "records.Layout") -> ShardIndex:
    """Indexes the records of a shard, uint8[bytes], or of a piece of one.

    Raises:
        ValueError: a record is broken or does not have this layout.
    """
    from boceto import records  # numba is not needed to read an index.

    found = records.index(data)
    formats = {bytes(data[at : at + length]) for at, length in found.encoding.tolist()}
    shape = (layout.height, layout.width, layout.channels)
    if (found.shape != shape).any():
        raise ValueError("an image has another size or number of channels than the manifest says")
    if formats - {layout.encoding.encode()}:
        raise ValueError("an image has another encoding than the manifest says")
    if layout.encoding == "raw" and (found.image[:, 1] != np.prod(shape)).any():
        raise ValueError("an image has too few or too many bytes")
    _check_labels(found.label, len(layout.classes))
    rows = np.empty(len(found.label), ROW)
    rows["offset"] = found.frames[:, 0] - records.HEAD_BYTES
    rows["bytes"] = found.frames[:, 1] + records.FRAME_BYTES
    ends = rows["bytes"].cumsum(dtype=np.int64).tolist()
    rows["crc32c"] = [google_crc32c.value(data[at:end].tobytes()) for at, end in zip([0, *ends], ends, strict=False)]
    rows["label"] = found.label
    rows["image"] = found.image[:, 0] - rows["offset"]
    rows["image_bytes"] = found.image[:, 1]
    rows["key_bytes"] = found.key[:, 1]
    return ShardIndex(rows, _gathered(data, found.key))


def _check_labels(labels: NDArray[np.integer[Any]], classes: int) -> None:
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError("a label is none of the manifest's classes")


def _gathered(data: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bytes at (offset, length) int64[N, 2], one behind the other."""
    starts, lengths = places.T
    offsets = np.repeat(starts - lengths.cumsum() + lengths, lengths)
    return data[offsets + np.arange(len(offsets))]
