"""Reading in training order (shuffled, decoded, in batches) against the plainest reader of the same files in file
order: tf.data.TFRecordDataset, batched tf.io.parse_example, and tf.io.decode_png where the images are PNG.

Both read the same number of images in turns, a round each; the ratio is the median of the rounds' own.
The files are in the page cache: the first round of each side is not counted.

    python benchmarks/reading.py --data DATA
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np

from boceto import dataset, storage
from boceto.console import quiet, table
from boceto.dataset import DataSet
from trainer import environment

environment.prepare()
with quiet():
    import tensorflow as tf

    from trainer.batches import TrainingSet, prefetch, step_ranges


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a data set")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=200, help="batches a round; many, since both read ahead")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--readers", type=int, default=2)
    return parser.parse_args()


def plain(data: DataSet, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches in file order, over and over: uint8[B, H, W, C], int64[B]."""
    manifest = data.manifest
    files = [storage.join(data.url, shard.name) for shard in manifest.splits["train"].shards]
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }
    shape = manifest.shape

    def decode(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(records, features)
        encoded = parsed["image/encoded"]
        if manifest.encoding == "raw":
            images = tf.reshape(tf.io.decode_raw(encoded, tf.uint8), (batch, *shape))
        else:
            images = tf.map_fn(
                lambda one: tf.ensure_shape(tf.io.decode_png(one, channels=manifest.channels), shape),
                encoded,
                fn_output_signature=tf.uint8,
            )
        return images, parsed["image/class/label"]

    records = tf.data.TFRecordDataset(files).repeat().batch(batch, drop_remainder=True)
    yield from records.map(decode).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def ours(data: DataSet, batch: int, readers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches in training order: uint8[B, H, W, C], int32[B]."""
    training_set = TrainingSet(data.split("train"), None, 0, batch)
    for _, found in prefetch(step_ranges(0, 1 << 40, 1), training_set.read, readers):
        yield found.images[0], found.labels[0]


def seconds(reader: Iterator[tuple[np.ndarray, np.ndarray]], batches: int, shape: tuple[int, ...]) -> float:
    """Of `batches` batches, each checked to be of the same work."""
    start = time.perf_counter()
    for _ in range(batches):
        images, labels = next(reader)
        assert images.shape == shape
        assert len(labels) == shape[0]
    return time.perf_counter() - start


def main() -> int:
    """Prints a table to standard error and one line of JSON to standard output."""
    args = arguments()
    data = dataset.load(args.data)
    shape = (args.batch_size, *data.manifest.shape)
    readers = plain(data, args.batch_size), ours(data, args.batch_size, args.readers)
    times = [[seconds(reader, args.batches, shape) for reader in readers] for _ in range(args.rounds + 1)][1:]
    medians = [statistics.median(side) for side in zip(*times, strict=True)]
    speeds = [args.batch_size * args.batches / median for median in medians]
    ratio = statistics.median(other / own for other, own in times)
    names = ("tf.data in file order", "boceto in training order")
    rows = [(name, f"{speed:.0f}") for name, speed in zip(names, speeds, strict=True)]
    print(table(("reader", "images/s"), [*rows, ("ratio", f"{ratio:.3f}")]), file=sys.stderr)
    result = {"images_per_second": speeds[1], "plain_images_per_second": speeds[0], "ratio": ratio}
    print(json.dumps({"benchmark": "reading", **vars(args), "encoding": data.manifest.encoding, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
