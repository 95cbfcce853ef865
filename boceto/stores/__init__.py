"""What a kind of storage must do. One file a scheme: `file`, `memory`, `gs`; `boceto.storage` finds them by name.

A file whose name begins with an underscore is no scheme, but a part of one.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from boceto.errors import BocetoError

# Told of a transfer: how many more bytes have arrived.
Progress = Callable[[int], None]


@dataclass(frozen=True, order=True)
class Entry:
    """One stored object: its URL and size in bytes."""

    url: str
    size: int


@dataclass(frozen=True)
class Stat:
    """What the storage knows of one object. crc32c: 8 hexadecimal digits, or "" where only reading it would tell.

    version: changes whenever the object does.
    """

    size: int
    crc32c: str
    version: str


class Changed(BocetoError):  # noqa: N818 - it says what happened
    """The object is not the one that was to be replaced."""


class Unavailable(BocetoError):  # noqa: N818 - it says how the storage is
    """The storage did not answer, or not rightly, within the time; the same command may be run again."""


class Store(Protocol):
    """An adapter. Writes are whole: a reader sees the old bytes or the new, never a part.

    Where an object is not there, what reads it raises FileNotFoundError.
    """

    def list(self, url: str) -> list[Entry]:
        """All objects below the folder `url`, sorted by URL; none where there is no such folder; an object, itself."""

    def stat(self, url: str) -> Stat | None:
        """What is known of one object; None where there is none."""

    def open(self, url: str) -> BinaryIO:
        """A buffered reader of one object."""

    def read(self, url: str, start: int, end: int | None) -> bytes:
        """The bytes `start` to `end` (not included) of one object; None is its end."""

    def versioned(self, url: str) -> tuple[bytes, str]:
        """The bytes of a small object and its version."""

    def writing(self, url: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A writer whose bytes become the object when the block ends without an error."""

    def create(self, url: str, data: bytes) -> str:
        """Writes a small object where there is none, and returns its version.

        Raises:
            FileExistsError: there is one.
        """

    def replace(self, url: str, data: bytes, version: str) -> str:
        """Writes a small object in place of its `version`, and returns the new one's.

        Raises:
            Changed: it has another version, or is not there.
        """

    def upload(self, path: Path, url: str) -> None:
        """Copies a local file to an object."""

    def download(self, url: str, path: Path, progress: Progress | None) -> None:
        """Copies an object to a local file, which appears whole or not at all; what `progress` raises ends it."""

    def delete(self, url: str) -> None:
        """Removes one object; nothing happens where there is none."""

    def buffer(self, url: str) -> memoryview:
        """The object's bytes for random access, mapped where the storage allows it."""
