"""Are two runs the same, to the bit, in their checkpoints, exports and histories, and if not, where do they differ?"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, contract, storage
from boceto import run as runs
from boceto.checkpoint import Commit, Progress
from boceto.tensors import Arrays

GROUPS = {
    "weights": "weights",
    "statistics": "batch-norm statistics",
    "ema": "EMA",
    "scale": "loss scale",
}
# Of the machine's speed, not of the run: the chain of the history's lines is over them too.
TIMES = frozenset({"images_per_second", "seconds", "history"})
# In the history's lines.
SPEEDS = frozenset({"images_per_second", "waiting", "chain"})


@dataclass(frozen=True)
class Part:
    """One part of the state: how many arrays and bytes it has, and its digests in both checkpoints."""

    name: str
    arrays: int
    bytes: int
    first: str
    second: str

    @property
    def same(self) -> bool:
        """Whether it is equal to the bit."""
        return self.first == self.second


def compare(first: tuple[Commit, Arrays], second: tuple[Commit, Arrays]) -> tuple[list[Part], list[str]]:
    """-> (the parts of both, what differs: of each part the first array by name, or its text)."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*first[1], *second[1]]):
        groups.setdefault(name.partition("/")[0], []).append(name)
    parts, differences = [], []
    for group, names in groups.items():
        arrays = [first[1][name] for name in names if name in first[1]]
        digests = (_arrays_digest(found[1], names) for found in (first, second))
        size = sum(array.nbytes for array in arrays)
        parts.append(Part(GROUPS.get(group, f"optimiser slot {group}"), len(arrays), size, *digests))
        other = [said for name in names if (said := _difference(name, first[1].get(name), second[1].get(name)))]
        differences += [f"{other[0]} (and {len(other) - 1} more of {len(names)} arrays)"] if other else []
    for name, texts in _texts(first[0], second[0]).items():
        part, other = _compare_texts(name, *texts)
        parts.append(part)
        differences += other
    return parts, differences


def compare_told(first: str, second: str) -> tuple[list[Part], list[str]]:
    """As `compare`, for the histories and the exports of two run folders.

    Raises:
        DataError: an export is missing or damaged.
    """
    parts, differences = [], []
    for name, find in (("history", _history), ("export", _export)):
        part, other = _compare_texts(name, find(first), find(second))
        parts.append(part)
        differences += other[:1]  # One line more, and all after it are others.
    return parts, differences


def _compare_texts(name: str, one: Mapping[str, Any], another: Mapping[str, Any]) -> tuple[Part, list[str]]:
    differences = [
        f"{name}: {field} is {one.get(field)} and {another.get(field)}"
        for field in dict.fromkeys([*one, *another])
        if one.get(field) != another.get(field)
    ]
    return Part(name, 0, 0, _hash(json.dumps(one)), _hash(json.dumps(another))), differences


def _history(run: str) -> dict[str, Any]:
    """The lines of a run's history, by number, without what tells of the machine's speed."""
    lines = map(contract.decode, storage.read_bytes(storage.join(run, runs.HISTORY)).splitlines())
    kept = [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]
    return {f"line {number}": line for number, line in enumerate(kept, 1)}


def _export(run: str) -> dict[str, Any]:
    """The step that a run exported, and a digest of each file with its arrays."""
    found = artefact.load(run)
    model = artefact.verify(run, found)
    files = [name for name in found.files if name.startswith("variables/")]
    return {"step": found.step} | {name: _hash(storage.read_bytes(storage.join(model, name))) for name in files}


def _texts(*commits: Commit) -> dict[str, list[dict[str, Any]]]:
    """What checkpoints say besides their arrays: by part, for each of them, by field."""
    kept = sorted({field.name for field in dataclasses.fields(Progress)} - TIMES - {"ledger", "step"})
    return {
        "step and position": [{"step": commit.step, "position": commit.position} for commit in commits],
        "progress": [{name: dataclasses.asdict(commit.progress)[name] for name in kept} for commit in commits],
        "ledger": [{"ledger": commit.progress.ledger} for commit in commits],
        "data and settings": [{"data": commit.data_digest, "settings": commit.settings_digest} for commit in commits],
    }


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
    """How two arrays differ, "" where they do not."""
    if first is None or second is None:
        return f"{name} is in one of them only"
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return f"{name} is {first.dtype}{list(first.shape)} and {second.dtype}{list(second.shape)}"
    if first.tobytes() == second.tobytes():
        return ""
    bits = first.view(f"u{first.itemsize}") if first.ndim else first.reshape(1).view(f"u{first.itemsize}")
    others = second.reshape(bits.shape).view(bits.dtype)
    most = np.abs(first.astype(np.float64) - second.astype(np.float64)).max()
    return f"{name}: {int((bits != others).sum()):,} of {first.size:,} values differ, by up to {most:.3g}"


def as_json(parts: list[Part]) -> list[Mapping[str, Any]]:
    """The parts as they go into a result."""
    return [{**dataclasses.asdict(part), "same": part.same} for part in parts]
