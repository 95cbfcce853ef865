"""Writes one shard: drawings with their pixels in, a TFRecord file and its description out."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import images, records, shard_index, storage
from boceto.dataset import Shard, ShardDigest, shard_name


class Drawings(NamedTuple):
    """B drawings on their way into records: class numbers, keys, and strokes in the form of `boceto.strokes` (b"" for a
    drawing that has none).
    """

    labels: Sequence[int]
    keys: Sequence[str]
    inks: Sequence[bytes]


class ShardWriter:
    """Writes the shards of one data set."""

    def __init__(self, folder: str, layout: records.Layout) -> None:
        self._folder = folder
        self._layout = layout
        self._encoder = records.Encoder(layout)
        self._png = images.PngEncoder(layout.height, layout.width, layout.channels)

    def write(
        self, split: str, shard: int, shards: int, batches: Iterable[tuple[Drawings, NDArray[np.uint8]]]
    ) -> tuple[Shard, list[int]]:
        """Writes the drawings of `batches`, each B drawings and their pixels uint8[B, H, W, C], in order,
        and their index.

        Returns the shard's description and its records a class.
        """
        name = shard_name(split, shard, shards)
        checksum = google_crc32c.Checksum()
        content = ShardDigest()
        per_class = [0] * len(self._layout.classes)
        size = 0
        pieces = []
        with storage.writing(storage.join(self._folder, name)) as file:
            for (labels, keys, inks), pixels in batches:
                content.add(pixels, zip(labels, (key.encode() for key in keys), inks, strict=True))
                encoded = [
                    image.tobytes() if self._layout.encoding == "raw" else self._png.encode(image) for image in pixels
                ]
                rows = zip(labels, encoded, keys, inks, strict=True)
                data = b"".join(records.frame(self._encoder.encode(*row)) for row in rows)
                checksum.update(data)
                file.write(data)
                size += len(data)
                pieces.append(shard_index.build(np.frombuffer(data, np.uint8), self._layout))
                for label in labels:
                    per_class[label] += 1
        index = shard_index.joined(pieces).to_bytes()
        digests = checksum.hexdigest().decode(), content.hexdigest()
        written = Shard(name, sum(per_class), size, *digests, len(index), storage.crc32c(index))
        storage.write_bytes(storage.join(self._folder, written.index), index)
        return written, per_class
