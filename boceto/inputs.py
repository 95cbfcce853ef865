"""The files that a person gives as input, and what is found in them: drawings, good and bad."""

import fnmatch
import re
import unicodedata
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boceto import storage
from boceto.storage import Entry

_WILD = re.compile(r"[*?\[]")
_LEFTOVERS = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # Of macOS and Windows.


class Drawing(NamedTuple):
    """A good drawing: its strokes in the form of `boceto.strokes`, or its image, uint8[H, W, C] of the shape that the
    settings name (`settings.shape`); and its key ("" where it has none).

    split: "train", "validation" or "test" where the source has divided its drawings: all of them are taken. "" where
    `prepare` chooses drawings and divides them.
    """

    strokes: bytes = b""
    key: str = ""
    image: NDArray[np.uint8] | None = None
    split: str = ""


class Refused(NamedTuple):
    """A bad drawing: the line (or record) of its file from 1 on, the reason, how its text begins, and what is wrong
    with which field. lost: how many drawings that is, where a file is damaged. file: its own file, where its part has
    several.
    """

    line: int
    reason: str
    text: str
    what: str = ""
    lost: int = 1
    file: str = ""


class Filtered(NamedTuple):
    """A good drawing that an option leaves out, and why."""

    reason: str


def files(where: str) -> list[tuple[str, Entry]]:
    """Returns the files of `where`, a file, a folder or a glob, that are not hidden: the name below the folder of each
    (the file's own name where `where` is a file), and its entry. Sorted by URL.
    """
    folder, pattern = _split_glob(where)
    found = [(storage.relative(entry.url, folder), entry) for entry in storage.list_files(folder, linked=True)]
    return [
        (name, entry)
        for name, entry in found
        if not is_hidden(name) and fnmatch.fnmatchcase(normal(name), normal(pattern))
    ]


def normal(text: str) -> str:
    """Letters with accents as one sign each, as keyboards make them; macOS takes them apart in names of files."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder on the way to it is hidden, or a leftover of macOS or Windows."""
    return any(part.startswith(".") or part.lower() in _LEFTOVERS for part in name.split("/"))


def _split_glob(where: str) -> tuple[str, str]:
    """(folder, pattern of the names below it). What exists under its literal name is no pattern."""
    wild = _WILD.search(where)
    while wild and storage.list_files(literal := where[: _end_of_name(where, wild.start())]):
        if literal == where:
            return where, "*"
        wild = _WILD.search(where, len(literal))
    if not wild:
        return where, "*"
    folder = where[: wild.start()].rpartition("/")[0]
    return folder or ("/" if where.startswith("/") else "."), where[len(folder) :].lstrip("/")


def _end_of_name(where: str, at: int) -> int:
    end = where.find("/", at)
    return len(where) if end < 0 else end
