"""Which drawings of a class are taken, without a shuffle: each has a rank, a keyed hash, and the smallest are taken.

Ranks are over the strokes (or pixels) alone, so neither metadata nor the order or number of the input files changes
the choice. Drawings are the same by their ink (strokes), their picture (pixels), or their key in their class: of those,
only the drawing of the smallest rank may be taken. Only smaller ranks decide, so what is known of them is final.

A drawing whose split its source fixes is always taken, if it is no double. Its rank is smaller than that of the others,
and smallest in the test split: so a drawing that is in the test split and in another split stays in the test split.
"""

import bisect
import difflib
import hashlib
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, deflated
from boceto import storage
from boceto.dataset import SPLITS
from boceto.errors import SettingsError

ID_BYTES = 16
# Candidates kept beyond those wanted, to stand in for drawings that turn out to belong to another class.
SPARE_SHARE, SPARE_LEAST = 0.05, 32
# Rows held for each candidate that is kept: those that are the same as another one are held too.
_HELD, _HELD_LEAST = 8, 4096
# Keys that are known of one drawing. Of more, the smallest.
MOST_KEYS = 64
# A rank begins with the number of its split here; the last ones are divided by `deal`.
ORDER = ("test", "validation", "train", "")
_FREE, _LAST = b"\3", b"\xff"  # Before the ranks of drawings without a split, and behind all ranks.
# The first bytes of a rank tell the candidates of a class apart.
RANK_BYTES, PROBE_BYTES = 9, 8
CLAIM_BYTES = PROBE_BYTES + RANK_BYTES
INK, KEY, PICTURE = WHY = ("ink", "key", "picture")


class Candidate(NamedTuple):
    """All drawings of a class with the same strokes (or, without strokes, the same pixels), of which one may be taken.

    rank: its place in its class. content_id: the same for the same content everywhere. strokes: as in
    `boceto.strokes`, or b"". pixels: as `sources.deflated` makes them, where there are no strokes. times: how many
    drawings there are. probe: the same for the same picture, PROBE_BYTES long.
    """

    rank: bytes
    content_id: bytes
    strokes: bytes
    pixels: bytes
    keys: list[str]
    times: int
    probe: bytes = b""

    @property
    def split(self) -> str:
        """The split that its source fixes, or ""."""
        return ORDER[self.rank[0]]

    @property
    def key(self) -> str:
        """The smallest of its keys; without any, the hash of its content."""
        return self.keys[0] if self.keys else self.content_id.hex()


# The candidates of a part, in a file.
SCHEMA = pa.schema(
    {
        "rank": pa.binary(), "content_id": pa.binary(), "strokes": pa.binary(), "pixels": pa.binary(),
        "keys": pa.list_(pa.string()), "times": pa.int64(), "probe": pa.binary(),
    }
)  # fmt: skip


class Drawer(Protocol):
    """Compares the pixels of drawings."""

    def pictures(self, candidates: Sequence[Candidate]) -> Sequence[bytes]:
        """Returns bytes for each candidate, which are equal if and only if the pixels are."""

    def probes(self, candidates: Sequence[Candidate]) -> Sequence[bytes]:
        """Returns PROBE_BYTES for each candidate, which are equal if the pixels are, and seldom else. It is cheaper."""


def _key(seed: int, category: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{category}".encode(), digest_size=32).digest()


def reasons(rows: Sequence[Candidate], drawer: Drawer) -> list[str]:
    """Returns for each candidate of one class, smallest rank first, why it is the same as an earlier candidate: `key`,
    `picture`, or "" if it is not. Only candidates with equal probes are drawn whole.
    """
    times = Counter(row.probe for row in rows)
    unclear = [row for row in rows if times[row.probe] > 1]
    drawn = dict(zip((row.rank for row in unclear), drawer.pictures(unclear), strict=True))
    keys: set[str] = set()
    pictures: set[bytes] = set()
    found = []
    for row in rows:
        picture = row.probe + drawn.get(row.rank, b"")
        found.append(KEY if not keys.isdisjoint(row.keys) else PICTURE if picture in pictures else "")
        keys.update(row.keys)
        pictures.add(picture)
    return found


class Smallest:
    """The `keep` different candidates of one class with the smallest ranks, and those that are the same as one of them;
    beside them, all whose split is fixed.

    Without the latter, what it holds is bounded: where very many are the same, fewer are kept.
    """

    def __init__(self, keep: int, seed: int, category: str, drawer: Drawer) -> None:
        self._keep = keep
        self._key = _key(seed, category)
        self._drawer = drawer
        self._found: dict[bytes, Candidate] = {}
        self._bound = _LAST
        self._full = False
        self._room = 2 * keep + 64

    def add_drawing(self, drawing: Drawing) -> None:
        """Adds one drawing of the input."""
        content = drawing.strokes if drawing.image is None else drawing.image.tobytes()
        content_id = hashlib.blake2b(content, digest_size=ID_BYTES).digest()
        keyed = hashlib.blake2b(content_id, digest_size=ID_BYTES, key=self._key).digest()
        rank = ORDER.index(drawing.split).to_bytes() + keyed
        if rank < self._bound:
            pixels = b"" if drawing.image is None else deflated(drawing.image)
            self.add(Candidate(rank, content_id, drawing.strokes, pixels, [drawing.key] if drawing.key else [], 1))
        else:
            self._full = True

    def add(self, candidate: Candidate) -> None:
        """Adds a candidate of this class, which another worker may have kept."""
        if candidate.rank >= self._bound:
            self._full = True
            return
        there = self._found.get(candidate.rank)
        if there is not None:
            candidate = candidate._replace(
                keys=sorted({*there.keys, *candidate.keys})[:MOST_KEYS],
                times=there.times + candidate.times,
                probe=there.probe or candidate.probe,
            )
        self._found[candidate.rank] = candidate
        if len(self._found) >= self._room:
            # A little more than is kept: a drawing that is still to come may make two candidates one.
            self._cut(self._keep + SPARE_LEAST)

    def _cut(self, keep: int) -> None:
        rows = self._rows()
        fixed = _fixed(rows)
        different = [at for at, why in enumerate(reasons(rows, self._drawer)) if at >= fixed and not why]
        end = different[keep - 1] + 1 if len(different) >= keep else len(rows)
        end = min(end, fixed + _HELD * self._keep + _HELD_LEAST)
        if end < len(rows):
            self._full = True
            self._bound = rows[end].rank
        self._found = {row.rank: row for row in rows[:end]}
        self._room = max(self._room, 2 * end)

    def _rows(self) -> list[Candidate]:
        """What is held, smallest rank first, with probes."""
        new = [row for row in self._found.values() if not row.probe]
        for row, probe in zip(new, self._drawer.probes(new), strict=True):
            self._found[row.rank] = row._replace(probe=probe)
        return [self._found[rank] for rank in sorted(self._found)]

    def value(self) -> "Candidates":
        """Returns the candidates that were kept."""
        self._cut(self._keep)
        return Candidates(full=self._full, rows=self._rows())


def _fixed(rows: Sequence[Candidate]) -> int:
    """How many rows, smallest rank first, have a fixed split."""
    return bisect.bisect_left(rows, _FREE, key=lambda row: row.rank)


def keep_of(settings: Settings) -> int:
    """Returns how many candidates of a class are kept, so that the wanted drawings can be taken."""
    wanted = settings.wanted
    return wanted + max(SPARE_LEAST, int(wanted * SPARE_SHARE)) if settings.train_per_class else sys.maxsize


class Candidates(NamedTuple):
    """Candidates of one class, smallest rank first. full: there were more than are kept."""

    full: bool
    rows: list[Candidate]


def merge(parts: Sequence[Candidates], keep: int, seed: int, category: str, drawer: Drawer) -> Candidates:
    """Returns the `keep` candidates of one class from the candidates of its parts."""
    if len(parts) == 1:
        return parts[0]
    smallest = Smallest(keep, seed, category, drawer)
    # Beyond what a part has kept, nothing is known of it.
    known = min((part.rows[-1].rank for part in parts if part.full), default=_LAST)
    for part in parts:
        for candidate in part.rows:
            if candidate.rank <= known:
                smallest.add(candidate)
    merged = smallest.value()
    return merged._replace(full=merged.full or any(part.full for part in parts))


def claim(row: Candidate) -> bytes:
    """Returns the probe and the beginning of the rank, CLAIM_BYTES in all."""
    return row.probe + row.rank[:RANK_BYTES]


def unclear(claims: Mapping[str, bytes]) -> dict[str, set[bytes]]:
    """Returns by class the beginnings of those ranks whose probe another class has too; `claims`: by class, joined."""
    owners: dict[bytes, list[tuple[str, bytes]]] = {}
    for category, joined in claims.items():
        for at in range(0, len(joined), CLAIM_BYTES):
            middle = at + PROBE_BYTES
            owners.setdefault(joined[at:middle], []).append((category, joined[middle : at + CLAIM_BYTES]))
    found: dict[str, set[bytes]] = {}
    for rows in owners.values():
        if len({category for category, _ in rows}) > 1:
            for category, rank in rows:
                found.setdefault(category, set()).add(rank)
    return found


def lost(classes: Mapping[str, Sequence[Candidate]], drawer: Drawer) -> list[tuple[str, bytes, str]]:
    """Returns (class, beginning of the rank, why) of each candidate that has the same picture as a candidate of a
    smaller rank; `classes`: candidates by class.

    Keys do not count: many people number their drawings from 1 in each category.
    """
    owners: dict[bytes, list[tuple[bytes, str, bytes]]] = {}
    for category, rows in classes.items():
        for row, picture in zip(rows, drawer.pictures(rows), strict=True):
            owners.setdefault(picture, []).append((row.rank[:RANK_BYTES], category, row.content_id))
    found = []
    for same in owners.values():
        first, *others = sorted(same)
        contents = {first[2]}
        for rank, category, content_id in others:
            found.append((category, rank, INK if content_id in contents else PICTURE))
            contents.add(content_id)
    return found


def count(rows: Sequence[Candidate], whys: Sequence[str], last: int) -> dict[str, int]:
    """Counts by reason the drawings that are the same as an earlier one, in the rows up to number `last` (-1: all)."""
    found = dict.fromkeys(WHY, 0)
    for row, why in list(zip(rows, whys, strict=True))[: last + 1 or None]:
        reason = why or INK
        # Without strokes, what is the same is the picture.
        found[PICTURE if reason == INK and not row.strokes else reason] += row.times if why else row.times - 1
    return found


def deal(rows: Sequence[Candidate], settings: Settings) -> dict[str, list[Candidate]]:
    """Deals the candidates of one class, smallest rank first, out to the splits. A fixed split is kept; the others fill
    first test, so that the test drawings stay the same when training takes more, then validation, then train.

    Of the training drawings, fixed or not, the share `validation_share` with the smallest ranks goes to validation.
    """
    fixed, free = rows[: _fixed(rows)], list(rows[_fixed(rows) :])
    dealt = {split: [row for row in fixed if row.split == split] for split in SPLITS}
    test, held = settings.test_per_class, settings.validation_per_class
    dealt["test"] += free[:test]
    dealt["validation"] += free[test : test + held]
    train = dealt["train"] + free[test + held :][: settings.train_per_class or None]
    moved = max(0, min(round(settings.validation_share * len(train)), len(train) - 1))
    return dealt | {"validation": dealt["validation"] + train[:moved], "train": train[moved:]}


def sizes(rows: Sequence[Candidate], settings: Settings) -> dict[str, int]:
    """Returns by split how many drawings of a class the shards must have room for; `rows` as in `deal`."""
    found = {split: len(drawings) for split, drawings in deal(rows, settings).items()}
    if rows and rows[-1].split:
        return found
    # The wanted drawings, even where there are fewer: so the number of shards follows from the settings.
    return {split: max(count, settings.per_class[split]) for split, count in found.items()}


def choose_categories(settings: Settings, there: Sequence[str]) -> list[str]:
    """Returns the names of the classes, sorted. The setting `classes` is a number of them (chosen by the seed), a list,
    a file of names, or "all"; `there`: the categories of the input.

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
        ranks = {
            name: hashlib.blake2b(b"category", digest_size=ID_BYTES, key=_key(settings.seed, name)).digest()
            for name in there
        }
        return sorted(sorted(there, key=lambda name: (ranks[name], name))[:count])
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
