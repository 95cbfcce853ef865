"""Compares two runs to the bit: their checkpoints, exports and histories."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, checkpoint, contract, storage
from boceto import run as runs
from boceto.checkpoint import Commit, Progress
from boceto.tensors import Arrays

GROUPS = {
    "weights": "weights",
    "statistics": "batch-norm statistics",
    "ema": "EMA",
    "scale": "loss scale",
}
# These depend on the speed of the machine; the chain of the history is over its lines, with their speeds.
TIMES = frozenset({"images_per_second", "seconds", "history"})
SPEEDS = frozenset({"images_per_second", "waiting", "chain"})


class Part(NamedTuple):
    """A part of two runs. arrays, bytes: of the first run. first, second: the digest in each run."""

    name: str
    arrays: int
    bytes: int
    first: str
    second: str

    @property
    def same(self) -> bool:
        """Whether the two digests are equal."""
        return self.first == self.second


def compare(first: str, second: str, step: int) -> tuple[list[Part], list[str]]:
    """Compares the checkpoints of `step`, the histories and the exports of two run folders.

    Returns all parts, and a line for each part that differs.

    Raises:
        DataError: a checkpoint or an export is missing or damaged.
    """
    (one, arrays), (other, others) = (checkpoint.load(run, step) for run in (first, second))
    parts, differences = compare_arrays(arrays, others)
    texts = {name: (find(one), find(other)) for name, find in COMMITTED.items()}
    texts |= {name: (find(first), find(second)) for name, find in WRITTEN.items()}
    for name, (text, other_text) in texts.items():
        parts.append(Part(name, 0, 0, _hash(json.dumps(text)), _hash(json.dumps(other_text))))
        keys = [key for key in {**text, **other_text} if text.get(key) != other_text.get(key)]
        differences += [f"{name}: {key} is {text.get(key)} and {other_text.get(key)}" for key in keys[:1]]
    return parts, differences


def compare_arrays(first: Arrays, second: Arrays) -> tuple[list[Part], list[str]]:
    """Compares the arrays of two checkpoints, by the first part of their names."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*first, *second]):
        groups.setdefault(name.partition("/")[0], []).append(name)
    parts, differences = [], []
    for group, names in groups.items():
        size = sum(first[name].nbytes for name in names if name in first)
        digests = (_arrays_digest(arrays, names) for arrays in (first, second))
        parts.append(Part(GROUPS.get(group, f"optimiser slot {group}"), len(names), size, *digests))
        found = [_difference(name, first.get(name), second.get(name)) for name in names]
        found = [difference for difference in found if difference]
        differences += [f"{found[0]} (and {len(found) - 1} more of {len(names)} arrays)"] if found else []
    return parts, differences


def _history(run: str) -> dict[str, Any]:
    """The lines of the history of a run, by number, without their speeds."""
    lines = map(contract.decode, storage.read_bytes(storage.join(run, runs.HISTORY)).splitlines())
    kept = [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]
    return {f"line {number}": line for number, line in enumerate(kept, 1)}


def _export(run: str) -> dict[str, Any]:
    """The step that a run exported, and the digest of each file that holds its arrays."""
    found = artefact.load(run)
    model = artefact.verify(run, found)
    files = [name for name in found.files if name.startswith("variables/")]
    return {"step": found.step} | {name: _hash(storage.read_bytes(storage.join(model, name))) for name in files}


def _progress(commit: Commit) -> dict[str, Any]:
    kept = sorted({field.name for field in dataclasses.fields(Progress)} - TIMES - {"ledger", "step"})
    return {name: dataclasses.asdict(commit.progress)[name] for name in kept}


# The parts of a COMMIT and of a run's folder, besides the arrays.
COMMITTED: Mapping[str, Callable[[Commit], dict[str, Any]]] = {
    "step and position": lambda commit: {"step": commit.step, "position": commit.position},
    "progress": _progress,
    "ledger": lambda commit: {"ledger": commit.progress.ledger},
    "data and settings": lambda commit: {"data": commit.data_digest, "settings": commit.settings_digest},
}
WRITTEN = {"history": _history, "export": _export}


def _arrays_digest(arrays: Arrays, names: list[str]) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for name in names:
        if name in arrays:
            array = arrays[name]
            hashed.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return hashed.hexdigest()


def _hash(text: str | bytes) -> str:
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).hexdigest()


def _difference(name: str, first: NDArray[Any] | None, second: NDArray[Any] | None) -> str:
    """Returns in words how two arrays differ, "" where they are equal."""
    if first is None or second is None:
        return f"{name} is in one of them only"
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return f"{name} is {first.dtype}{list(first.shape)} and {second.dtype}{list(second.shape)}"
    if first.tobytes() == second.tobytes():
        return ""
    bits = [np.frombuffer(array.tobytes(), f"u{array.itemsize}") for array in (first, second)]
    most = np.abs(first.astype(np.float64) - second.astype(np.float64)).max()
    return f"{name}: {int((bits[0] != bits[1]).sum()):,} of {first.size:,} values differ, by up to {most:.3g}"
