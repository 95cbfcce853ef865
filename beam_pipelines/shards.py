"""Writes one shard: drawings with their pixels in, a TFRecord file, its index and its description out."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import images, records, shard_index, storage
from boceto.dataset import Shard, ShardDigest

_PIECE = 1 << 20  # Bytes that are written and indexed at once: few pieces take less time, many less memory.


class Drawings(NamedTuple):
    """B drawings on their way into records: class numbers, keys, and strokes in the form of `boceto.strokes` (b"" for a
    drawing that has none).
    """

    labels: Sequence[int]
    keys: Sequence[str]
    strokes: Sequence[bytes]


def write_shard(
    folder: str, name: str, layout: records.Layout, batches: Iterable[tuple[Drawings, NDArray[np.uint8]]]
) -> tuple[Shard, list[int]]:
    """Writes the drawings of `batches`, each B drawings and their pixels uint8[B, H, W, C], in order, and their index.

    Returns the shard's description and its records a class.
    """
    encoder = records.Encoder(layout)
    png = images.PngEncoder(layout.height, layout.width, layout.channels)
    encode = np.ndarray.tobytes if layout.encoding == "raw" else png.encode
    checksum, content, size = google_crc32c.Checksum(), ShardDigest(), 0
    per_class = np.zeros(len(layout.classes), np.int64)
    frames: list[bytes] = []
    pieces = []
    with storage.writing(storage.join(folder, name)) as file:

        def write() -> int:
            data = b"".join(frames)
            frames.clear()
            checksum.update(data)
            pieces.append(shard_index.build(np.frombuffer(data, np.uint8), layout))
            return file.write(data)

        for (labels, keys, strokes), pixels in batches:
            content.add(pixels, zip(labels, map(str.encode, keys), strokes, strict=True))
            rows = zip(labels, map(encode, pixels), keys, strokes, strict=True)
            frames += (records.frame(encoder.encode(*row)) for row in rows)
            per_class += np.bincount(labels, minlength=len(per_class))
            if sum(map(len, frames)) > _PIECE:
                size += write()
        size += write()
    index = shard_index.joined(pieces).to_bytes()
    digests = checksum.hexdigest().decode(), content.hexdigest()
    written = Shard(name, int(per_class.sum()), size, *digests, len(index), storage.crc32c(index))
    storage.write_bytes(storage.join(folder, written.index), index)
    return written, per_class.tolist()
