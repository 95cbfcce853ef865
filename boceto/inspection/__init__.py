"""What `boceto inspect` can look at, one file a kind: `MARKS`, the names that tell it in a folder, and `look`.

The folder is the registry: a new file is a new kind. Nothing here changes or removes anything.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boceto import dataset, lookup, storage
from boceto import run as runs
from boceto.errors import BocetoError, DataError, SettingsError

# `Console.progress`: (text), or (text, done, total, unit).
Tell = Callable[..., None]
OK, MISSING, DAMAGED = "ok", "missing", "DAMAGED"
NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class Link:
    """One link of the chain from source files to scores: what `here` says of `there`, and whether it is so.

    matches: None where `there` is not at hand.
    """

    here: str
    there: str
    matches: bool | None
    said: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a title; `left` columns stand to the left."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass
class Found:
    """What was found at `url`. damaged: each thing that is not as it was written, in one line. facts: what it says of
    itself, for people and programs; details: for programs; tables: the same for people.
    """

    kind: str
    url: str
    facts: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    chain: list[Link] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def check_file(self, path: str, crc32c: str, size: int | None = None) -> str:
        """Returns OK, MISSING or DAMAGED for a file whose checksum (and size) a manifest has, and notes damage."""
        try:
            there = storage.checksum(path)
        except NOT_THERE:
            self.damaged.append(f"{path} is missing")
            return MISSING
        if there == (there[0] if size is None else size, crc32c):
            return OK
        expected = f"crc32c {crc32c}" if size is None else f"{size} bytes with crc32c {crc32c}"
        self.damaged.append(f"{path} has {there[0]} bytes with crc32c {there[1]}, its manifest says {expected}")
        return DAMAGED

    def must_match(self, link: Link) -> None:
        """Adds a link between files that only the trainer writes, together: where they differ, one was changed."""
        self.chain.append(link)
        if link.matches is False:
            self.damaged.append(f"{link.here} does not fit {link.there}: {link.said}")

    def compare(self, here: str, digest: str, settings: Mapping[str, Any], run: Mapping[str, Any] | None) -> None:
        """Compares the data set and the settings that `here` names with those of `run.json`, if it can be read."""
        if run is None:
            return
        same, theirs = digest == run["data_digest"], run["hyperparameters"]
        said = f"{runs.DESCRIPTION} says" + ("" if same else f" {run['data_digest']}")
        self.must_match(Link(here, f"data set {digest}", same, said))
        self.damaged += [
            f"{here} does not fit {runs.DESCRIPTION}: {name} is {value!r} and {theirs[name]!r}"
            for name, value in settings.items()
            if name in theirs and theirs[name] != value
        ]


def run_of(run: str) -> Mapping[str, Any] | None:
    """Returns `run.json` of the folder `run`, or None if there is none that can be read."""
    try:
        return runs.read(run)
    except DataError:
        return None


def data_link(here: str, digest: str, made: Mapping[str, Any] | None) -> Link:
    """Says whether the data set `digest` is still at the place that the settings in `made` name."""
    path = (made or {}).get("settings", {}).get("data", "")
    if not path:
        return Link(here, f"data set {digest}", None, "where it is, nothing here says")
    try:
        there = dataset.load(path).manifest.digest
    except (BocetoError, OSError):
        return Link(here, f"data set {digest}", None, f"not at {path} any more, or not readable from here")
    same = there == digest
    return Link(here, f"data set {digest}", same, f"at {path}" if same else f"{path} is {there}")


def look(url: str, tell: Tell) -> Found:
    """Finds out what is at `url`, a folder or one of its files, and reads everything in it.

    Raises:
        SettingsError: it is nothing that Boceto writes.
    """
    entries = storage.list_files(url)
    names = [storage.relative(entry.url, url) for entry in entries]
    is_file = len(entries) == 1 and entries[0].url.rpartition("/")[2] == url.rpartition("/")[2]
    folder = storage.parent(url) if is_file else url  # A file stands for its folder.
    kinds = lookup.modules(__name__)
    for kind in kinds.values():
        if any(fnmatch.fnmatch(name, mark) for name in names for mark in kind.MARKS):
            found: Found = kind.look(folder, tell)
            return found
    marks = "; ".join(f"{name.replace('_', ' ')}: {', '.join(kind.MARKS)}" for name, kind in kinds.items())
    there = (
        "is another file" if is_file else f"holds {len(names)} other files" if names else "does not exist or is empty"
    )
    raise SettingsError(f"{url} {there}; looked for ({marks}); give the folder of one of these")


def as_json(found: Found) -> Mapping[str, Any]:
    """Returns all of it for programs."""
    return {
        "kind": found.kind,
        "path": found.url,
        "whole": not found.damaged,
        "damaged": found.damaged,
        **found.facts,
        **found.details,
        "chain": [dataclasses.asdict(link) for link in found.chain],
    }
