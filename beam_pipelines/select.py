"""Which drawings of a class are taken, without a shuffle: each has a rank, a keyed hash, and the smallest are taken.

Ranks are over the ink alone, so neither metadata nor the order or number of the input files changes the choice.
A drawing whose ink occurs again in its class counts once; ink that occurs in several classes belongs to one of them.
"""

import difflib
import hashlib
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Sketch
from boceto import storage
from boceto.errors import SettingsError

ID_BYTES = 16
# Candidates kept beyond those wanted, to stand in for ink that turns out to belong to another class.
SPARE_SHARE, SPARE_LEAST = 0.05, 32


class Candidate(NamedTuple):
    """A drawing that may be taken. rank: its place in its class. ink_id: the same for the same ink everywhere."""

    rank: bytes
    ink_id: bytes
    key: str
    ink: bytes
    times: int


def _keyed(seed: int, category: str, data: bytes) -> bytes:
    key = hashlib.blake2b(f"{seed}/{category}".encode(), digest_size=32).digest()
    return hashlib.blake2b(data, digest_size=ID_BYTES, key=key).digest()


class Smallest:
    """The `keep` candidates of one class with the smallest ranks, equal ink merged."""

    def __init__(self, keep: int, seed: int, category: str) -> None:
        self._keep = keep
        self._key = hashlib.blake2b(f"{seed}/{category}".encode(), digest_size=32).digest()
        self._found: dict[bytes, Candidate] = {}
        self._bound = b"\xff" * (ID_BYTES + 1)
        self.full = False

    def add_sketch(self, sketch: Sketch) -> None:
        """Offers one drawing."""
        ink_id = hashlib.blake2b(sketch.ink, digest_size=ID_BYTES).digest()
        rank = hashlib.blake2b(ink_id, digest_size=ID_BYTES, key=self._key).digest()
        if rank < self._bound:
            self._offer(Candidate(rank, ink_id, sketch.key or ink_id.hex(), sketch.ink, 1))
        else:
            self.full = True

    def add(self, candidate: Candidate) -> None:
        """Offers a candidate of this class that another worker kept."""
        if candidate.rank < self._bound:
            self._offer(candidate)
        else:
            self.full = True

    def _offer(self, candidate: Candidate) -> None:
        there = self._found.get(candidate.rank)
        if there is not None:
            candidate = candidate._replace(key=min(there.key, candidate.key), times=there.times + candidate.times)
        self._found[candidate.rank] = candidate
        if len(self._found) >= 2 * self._keep + 64:
            self._cut()

    def _cut(self) -> None:
        ranks = sorted(self._found)
        if len(ranks) > self._keep:
            self.full = True
            self._found = {rank: self._found[rank] for rank in ranks[: self._keep]}
            self._bound = ranks[self._keep]

    def value(self) -> list[Candidate]:
        """The candidates, smallest rank first; `full` says whether there were more than are kept."""
        self._cut()
        return [self._found[rank] for rank in sorted(self._found)]


def keep_of(wanted: int) -> int:
    """How many candidates of a class are kept where `wanted` are to be taken."""
    return wanted + max(SPARE_LEAST, int(wanted * SPARE_SHARE))


def pack(full: bool, candidates: Sequence[Candidate]) -> bytes:  # noqa: FBT001 - the pair that `unpack` returns
    """One value for Beam to carry: a coder that knew the fields would cost more than the drawing's work."""
    return pickle.dumps((full, [tuple(candidate) for candidate in candidates]), pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> tuple[bool, list[Candidate]]:
    """The opposite of `pack`; only ever given bytes that this job's own workers packed."""
    full, rows = pickle.loads(data)  # noqa: S301 - between the workers of one job
    return full, [Candidate(*row) for row in rows]


def merge(parts: Iterable[bytes], wanted: int, seed: int, category: str) -> bytes:
    """The packed candidates of one class, out of those of its parts."""
    smallest = Smallest(keep_of(wanted), seed, category)
    full = False
    for part in parts:
        part_full, candidates = unpack(part)
        full |= part_full
        for candidate in candidates:
            smallest.add(candidate)
    candidates = smallest.value()
    return pack(full or smallest.full, candidates)


def shared_ink(ids: Iterable[tuple[str, bytes]]) -> list[tuple[bytes, list[str]]]:
    """(class, its ink ids joined) of many classes -> (ink id, classes) of the ink that occurs in more than one."""
    owners: dict[bytes, list[str]] = defaultdict(list)
    for category, joined in ids:
        for at in range(0, len(joined), ID_BYTES):
            owners[joined[at : at + ID_BYTES]].append(category)
    return [(ink_id, sorted(categories)) for ink_id, categories in owners.items() if len(categories) > 1]


def owner(seed: int, ink_id: bytes, categories: Iterable[str]) -> str:
    """The one class, of those in which this ink occurs, that may take it."""
    return min((_keyed(seed, category, ink_id), category) for category in categories)[1]


def deal(candidates: Sequence[Candidate], per_class: Mapping[str, int]) -> dict[str, Sequence[Candidate]]:
    """Splits a class's candidates, smallest rank first: the test drawings stay the same when training takes more."""
    dealt = {}
    first = 0
    for split, count in per_class.items():
        dealt[split] = candidates[first : first + count]
        first += count
    return dealt


def choose_categories(settings: Settings, there: Sequence[str]) -> list[str]:
    """The names of the classes, sorted: a number of them by the seed, a list, a file of names, or all.

    Raises:
        SettingsError: a name that is not there or stands twice, or too large a number.
    """
    given = settings.classes.strip()
    if given == "all":
        return sorted(there)
    if given.isdecimal():
        count = int(given)
        if not 0 < count <= len(there):
            raise SettingsError(
                f"prepare.classes = {count}, but the input has {len(there)} categories; use 1 to {len(there)}"
            )
        return sorted(sorted(there, key=lambda name: (_keyed(settings.seed, name, b"category"), name))[:count])
    names = [given] if given in there else _listed(given)
    if not names:
        raise SettingsError(
            f"prepare.classes = {given!r} names no category; give a number, names with commas, or a file"
        )
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, 3, 0.4) or sorted(there)[:3]
            raise SettingsError(
                f"prepare.classes: the input has no category {name!r} (and there is no such file of names); "
                f"it has {', '.join(near)}, …"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(f"prepare.classes names {twice!r} twice; name it once")
    return sorted(names)


def _listed(given: str) -> list[str]:
    is_file = "," not in given and "\n" not in given and storage.exists(given)
    text = storage.read_bytes(given).decode("utf-8", "replace") if is_file else given.replace(",", "\n")
    return [name.strip() for name in text.splitlines() if name.strip()]
