"""How long a killed run takes to its first step again, on a small and on a large data set of the same records.

Each data set is made here, of pictures of noise. A run is killed with SIGKILL behind its first checkpoint; then it is
started again, and the time from there to its first new log point counts. Both data sets run in turns.

    python benchmarks/start.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from boceto import dataset, images, records, shard_index, storage
from boceto.console import table

SIZE = 28
SHARD_BYTES = 100_000_000
CLASSES = [f"class {label}" for label in range(10)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs=2, default=[10, 1000], help="of the two data sets")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def examples() -> Iterator[tuple[int, bytes]]:
    """Endless (label, encoded example)s with keys of their own."""
    encoder = records.Encoder(records.Layout(SIZE, SIZE, 1, "png", CLASSES))
    noise = np.random.default_rng(0).integers(0, 256, (100, SIZE, SIZE, 1), np.uint8)
    pictures = [images.PngEncoder(SIZE, SIZE, 1).encode(picture) for picture in noise]
    number = 0
    while True:
        label = number % len(CLASSES)
        yield label, encoder.encode(label, pictures[number % len(pictures)], f"{number:016}")
        number += 1


def make(folder: Path, size: int) -> str:
    """Writes a data set of `size` bytes of training records."""
    folder.mkdir()
    source, count = examples(), max(1, size // SHARD_BYTES)
    per_class, shards = [0] * len(CLASSES), []
    for number in range(count):
        frames, written = [], 0
        while written < size // count:
            label, example = next(source)
            frames.append(records.frame(example))
            written += len(frames[-1])
            per_class[label] += 1
        data = b"".join(frames)
        index = shard_index.build(
            np.frombuffer(data, np.uint8), records.Layout(SIZE, SIZE, 1, "png", CLASSES)
        ).to_bytes()
        name = dataset.shard_name("train", number, count)
        crc = storage.crc32c(data), storage.crc32c(index)
        shards.append(dataset.Shard(name, len(frames), len(data), crc[0], f"{number:032}", len(index), crc[1]))
        Path(folder, name).write_bytes(data)
        Path(folder, shards[-1].index).write_bytes(index)
    digest = dataset.content_digest((SIZE, SIZE, 1), CLASSES, {"train": [shard.digest for shard in shards]})
    splits = {"train": dataset.SplitInfo(per_class, shards)}
    total = sum(per_class)
    layout = (SIZE, SIZE, 1, "png", CLASSES)
    manifest = dataset.Manifest(digest, 0, {}, *layout, splits, total, {}, {}, {}, [], "benchmark")
    storage.write_bytes(str(folder / dataset.MANIFEST), manifest.to_json())
    return str(folder)


def steps(run: Path) -> int:
    """The last step in the history of a run, 0 where there is none."""
    path = run / "history.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def train(data: str, run: Path) -> float:
    """Starts the training, waits for a new log point, kills it; returns the seconds that it took."""
    words = ["--data", data, "--run", str(run), "--net", "sknet", "--width-multiplier", "0.05", "--embedding", "32"]
    words += ["--batch-size", "8", "--max-steps", "1000000", "--save-every", "20", "--log-every", "1"]
    before, start = steps(run), time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "boceto", "train", *words, "--no-tensorboard"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while steps(run) <= before:
            if process.poll() is not None:
                raise SystemExit(f"the training ended with {process.returncode}")
            time.sleep(0.02)
        took = time.monotonic() - start
        while not (run / "checkpoints").exists() or steps(run) < before + 40:
            time.sleep(0.02)
        process.kill()
    return took


def main() -> int:
    """Prints a table, and its numbers as JSON."""
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        sets = {size: make(Path(scratch, f"data-{size}"), size * 1_000_000) for size in args.megabytes}
        runs = {size: Path(scratch, f"run-{size}") for size in sets}
        for size, data in sets.items():
            train(data, runs[size])
        took: dict[int, list[float]] = {size: [] for size in sets}
        for _ in range(args.rounds):
            for size, data in sets.items():
                took[size].append(train(data, runs[size]))
    found = {size: statistics.median(seconds) for size, seconds in took.items()}
    rows = [[f"{size:,} MB", f"{seconds:.2f}"] for size, seconds in found.items()]
    print(table(["data set", "seconds to the first step"], rows), file=sys.stderr)
    small, large = found.values()
    print(json.dumps({"seconds": found, "more": large - small, "cpus": os.cpu_count()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
