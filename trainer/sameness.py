"""Are two checkpoints the same, to the bit, and if not, where do they first differ?"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto.checkpoint import Commit, Progress
from boceto.tensors import Arrays

GROUPS = {
    "weights": "weights",
    "statistics": "batch-norm statistics",
    "average": "moving average",
    "scale": "loss scale",
}
# Of the machine's speed, not of the run: the history's lines tell of it too.
TIMES = frozenset({"images_per_second", "seconds", "history"})


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
    for name, (one, another) in _texts(first[0], second[0]).items():
        parts.append(Part(name, 0, 0, _hash(json.dumps(one)), _hash(json.dumps(another))))
        differences += [
            f"{name}: {field} is {one[field]} and {another[field]}" for field in one if one[field] != another[field]
        ]
    return parts, differences


def _texts(*commits: Commit) -> dict[str, list[dict[str, Any]]]:
    """What checkpoints say besides their arrays: by part, for each of them, by field."""
    kept = sorted({field.name for field in dataclasses.fields(Progress)} - TIMES - {"ledger", "step"})
    return {
        "step and position": [{"step": commit.step, "position": commit.position} for commit in commits],
        "progress": [{name: getattr(commit.progress, name) for name in kept} for commit in commits],
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


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
