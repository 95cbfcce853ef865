"""What a save costs: how long the loop stands still, and how fast a checkpoint is written.

The state is that of a net at full width with Adam's moments, at random values. Standing still: a whole `Saver.save`
with no other under way, against one plain copy of the same arrays into memory that is there. Writing: a whole
`Checkpoints.save` (finite values, container, flushed to disk, read back, COMMIT, the one before removed) against a
plain copy of the same bytes from file to file with their crc32c and a flush. The sides take turns, beginning with the
other each round; the ratios are medians of the rounds' own. First in memory, where the work counts, then on a disk.

    python benchmarks/checkpoint.py
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import tensors
from boceto.checkpoint import Progress
from boceto.console import Console, quiet, table
from boceto.telemetry import Telemetry
from trainer import environment

environment.prepare()
with quiet():
    from trainer import devices, nets, state
    from trainer.checkpoints import Checkpoints
    from trainer.log import Log
    from trainer.nets import Spec
    from trainer.saver import Saver, TrainState
    from trainer.settings import Settings

MEMORY = "/dev/shm"  # noqa: S108 - a folder of its own is made there
MEBI = 1 << 20


def full_state(net: str) -> state.Variables:
    """A run's state, all of it at random values."""
    strategy = devices.strategy(1)
    with strategy.scope():
        model = nets.build(net, Spec(classes=100))
    found = state.create(strategy, model, Settings(data="-", run="-"))
    rng = np.random.default_rng(0)
    found.restore({name: rng.standard_normal(array.shape, np.float32) for name, array in found.arrays().items()})
    return found


def plain_copy(source: Path, target: Path) -> None:
    """A copy with its checksum, on the disk when it returns."""
    checksum = google_crc32c.Checksum()
    with source.open("rb") as read, target.open("wb") as write:
        while data := read.read(MEBI):
            checksum.update(data)
            write.write(data)
        write.flush()
        os.fsync(write.fileno())


def in_turns(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, a round after the other; the first is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(ways):
            before = time.perf_counter()
            ways[name]()
            if number:
                seconds[name].append(time.perf_counter() - before)
    return seconds


def writing(arrays: dict[str, NDArray[Any]], folder: Path, rounds: int) -> dict[str, list[float]]:
    """Checkpoints of rising steps, and plain copies of the container."""
    checkpoints = Checkpoints(str(folder / "run"), "0" * 32, {}, 1, keep=1)
    source, target = folder / "source", folder / "target"
    buffer = io.BytesIO()
    tensors.write(buffer, arrays)
    source.write_bytes(buffer.getvalue())
    step = 0

    def save() -> None:
        nonlocal step
        step += 1
        checkpoints.save(arrays, Progress(step=step))

    return in_turns({"plain copy": lambda: plain_copy(source, target), "checkpoint": save}, rounds)


def standing(run: state.Variables, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Saves as the loop makes them, each waited for out of the time, and plain copies."""
    kept = TrainState(run)
    saver = Saver(Checkpoints(str(folder), "0" * 32, {}, 1, keep=1), kept, Log(Console(), "text"), Telemetry(), 1)
    source, target = run.arrays(), run.buffers()
    seconds: dict[str, list[float]] = {"plain copy": [], "save": []}
    for step in range(1, rounds + 2):
        taken = {}
        before = time.perf_counter()
        for name, array in source.items():
            np.copyto(target[name], array)
        taken["plain copy"] = time.perf_counter() - before
        kept.progress = Progress(step=step)
        before = time.perf_counter()
        saver.save()
        taken["save"] = time.perf_counter() - before
        saver.settle()
        if step > 1:
            for name, spent in taken.items():
                seconds[name].append(spent)
    saver.close()
    return seconds


def row(title: str, seconds: dict[str, list[float]], size: int) -> list[str]:
    """Medians of both sides, and of the rounds' ratios (ours by the plain way's time)."""
    (_, plain), (_, ours) = seconds.items()
    ratio = statistics.median(mine / theirs for theirs, mine in zip(plain, ours, strict=True))
    middle = [statistics.median(side) for side in (plain, ours)]
    return [title, *(f"{1000 * side:.0f}" for side in middle), *(f"{size / MEBI / side:.0f}" for side in middle),
            f"{ratio:.2f}", f"{1 / ratio:.2f}"]  # fmt: skip


def main() -> int:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="sknet", choices=nets.names())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--disk", default=".", help="folder on the disk that is measured")
    options = parser.parse_args()
    run = full_state(options.net)
    arrays = run.arrays()
    size = sum(array.nbytes for array in arrays.values())
    found = {}
    places = {"memory": MEMORY, "disk": options.disk} if Path(MEMORY).is_dir() else {"disk": options.disk}
    for place, parent in places.items():
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            found[f"standing still ({place})"] = standing(run, Path(folder, "stall"), options.rounds)
            found[f"writing ({place})"] = writing(arrays, Path(folder), options.rounds)
    heads = ("", "plain, ms", "ours, ms", "plain, MiB/s", "ours, MiB/s", "time, of plain", "rate, of plain")
    print(f"{options.net}, {size / MEBI:.0f} MiB")
    print(table(heads, [row(title, seconds, size) for title, seconds in found.items()]))
    print(json.dumps({"net": options.net, "bytes": size, "seconds": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
