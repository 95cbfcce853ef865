"""What `boceto inspect` can look at, one file a kind: `MARKS`, the names that tell it in a folder, and `look`.

The folder is the registry: a new file is a new kind. Nothing here changes or removes anything.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from boceto import lookup, storage
from boceto.errors import SettingsError

# `Console.progress`: (text), or (text, done, total, unit).
Tell = Callable[..., None]


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


class Kind(Protocol):
    """A module of this folder."""

    MARKS: Sequence[str]

    def look(self, url: str, tell: Tell) -> Found:
        """Reads everything at `url`."""


def kinds() -> dict[str, Kind]:
    """The modules, by name."""
    return {name: cast("Kind", module) for name, module in lookup.modules(__name__).items()}


def look(url: str, tell: Tell) -> Found:
    """Finds out what is at `url`, a folder or one of its files, and reads everything in it.

    Raises:
        SettingsError: it is nothing that Boceto writes.
    """
    entries = storage.list_files(url)
    names = [storage.relative(entry.url, url) for entry in entries]
    is_file = len(entries) == 1 and entries[0].url.rpartition("/")[2] == url.rpartition("/")[2]
    folder = storage.parent(url) if is_file else url  # A file stands for its folder.
    every = kinds()
    for kind in every.values():
        if any(fnmatch.fnmatch(name, mark) for name in names for mark in kind.MARKS):
            return kind.look(folder, tell)
    marks = "; ".join(f"{name.replace('_', ' ')}: {', '.join(kind.MARKS)}" for name, kind in every.items())
    there = (
        "is another file" if is_file else f"holds {len(names)} other files" if names else "does not exist or is empty"
    )
    raise SettingsError(f"{url} {there}; looked for ({marks}); give the folder of one of these")


def as_json(found: Found) -> Mapping[str, Any]:
    """All of it."""
    return {
        "kind": found.kind,
        "path": found.url,
        "whole": not found.damaged,
        "damaged": found.damaged,
        **found.facts,
        **found.details,
        "chain": [
            {"here": link.here, "there": link.there, "matches": link.matches, "said": link.said} for link in found.chain
        ],
    }
