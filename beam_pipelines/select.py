"""Which drawings of a class are taken, without a shuffle: each has a rank, a keyed hash, and the smallest are taken.

Ranks are over the ink alone, so neither metadata nor the order or number of the input files changes the choice.
A drawing whose ink occurs again in its class counts once; ink that occurs in several classes belongs to one of them.
"""

import difflib
import hashlib
import pickle
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Sketch
from boceto import storage
from boceto.errors import SettingsError

T = TypeVar("T")

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
        self._full = False

    def add_sketch(self, sketch: Sketch) -> None:
        """Offers one drawing."""
        ink_id = hashlib.blake2b(sketch.ink, digest_size=ID_BYTES).digest()
        rank = hashlib.blake2b(ink_id, digest_size=ID_BYTES, key=self._key).digest()
        if rank < self._bound:
            self._offer(Candidate(rank, ink_id, sketch.key or ink_id.hex(), sketch.ink, 1))
        else:
            self._full = True

    def add(self, candidate: Candidate) -> None:
        """Offers a candidate of this class that another worker kept."""
        if candidate.rank < self._bound:
            self._offer(candidate)
        else:
            self._full = True

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
            self._full = True
            self._found = {rank: self._found[rank] for rank in ranks[: self._keep]}
            self._bound = ranks[self._keep]

    def value(self) -> "Candidates":
        """What was kept."""
        self._cut()
        rows = [self._found[rank] for rank in sorted(self._found)]
        return Candidates(self._full, *(list(zip(*rows, strict=True)) or [()] * len(Candidate._fields)))


def keep_of(wanted: int) -> int:
    """How many candidates of a class are kept where `wanted` are to be taken."""
    return wanted + max(SPARE_LEAST, int(wanted * SPARE_SHARE))


class Candidates(NamedTuple):
    """Candidates of one class side by side, smallest rank first. full: there were more than are kept."""

    full: bool
    ranks: Sequence[bytes]
    ink_ids: Sequence[bytes]
    keys: Sequence[str]
    inks: Sequence[bytes]
    times: Sequence[int]

    def rows(self) -> list[Candidate]:
        """One after the other."""
        return list(map(Candidate, self.ranks, self.ink_ids, self.keys, self.inks, self.times))

    def pack(self) -> bytes:
        """One value, for a file between the stages."""
        return pickle.dumps(tuple(self), pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> Candidates:
    """The opposite of `Candidates.pack`; only ever given bytes that this job's own workers packed."""
    return Candidates(*pickle.loads(data))  # noqa: S301 - between the workers of one job


def merge(parts: Sequence[Candidates], wanted: int, seed: int, category: str) -> Candidates:
    """The candidates of one class, out of those of its parts."""
    if len(parts) == 1:
        return parts[0]
    smallest = Smallest(keep_of(wanted), seed, category)
    for part in parts:
        for candidate in part.rows():
            smallest.add(candidate)
    merged = smallest.value()
    return merged._replace(full=merged.full or any(part.full for part in parts))


def shared_ink(ids: Iterable[tuple[str, bytes]]) -> list[tuple[bytes, list[str]]]:
    """(class, its ink ids joined) of many classes -> (ink id, classes) of the ink that occurs in more than one."""
    first: dict[bytes, str] = {}
    shared: dict[bytes, list[str]] = {}
    for category, joined in ids:
        for at in range(0, len(joined), ID_BYTES):
            ink_id = joined[at : at + ID_BYTES]
            other = first.setdefault(ink_id, category)
            if other != category:
                shared.setdefault(ink_id, [other]).append(category)
    return [(ink_id, sorted(categories)) for ink_id, categories in shared.items()]


def owner(seed: int, ink_id: bytes, categories: Iterable[str]) -> str:
    """The one class, of those in which this ink occurs, that may take it."""
    return min((_keyed(seed, category, ink_id), category) for category in categories)[1]


def deal(candidates: Sequence[T], per_class: Mapping[str, int]) -> dict[str, Sequence[T]]:
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
    given = unicodedata.normalize("NFC", settings.classes.strip())
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
    """The names in the file `given`, or those with commas between them."""
    text = given.replace(",", "\n")
    if given and "\n" not in text and storage.exists(given):
        try:
            text = storage.read_bytes(given).decode("utf-8-sig", "replace")
        except IsADirectoryError as error:
            raise SettingsError(f"prepare.classes = {given!r} is a folder; give a file of names") from error
    return [unicodedata.normalize("NFC", name.strip()) for name in text.splitlines() if name.strip()]
