"""The adapters of storage, one module for each URL scheme: `file`, `memory`, `gs`. `boceto.storage` finds them by name.

A module whose name begins with an underscore belongs to another module.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from boceto.errors import BocetoError


@dataclass(frozen=True, order=True)
class Entry:
    """One stored object: its URL and size in bytes."""

    url: str
    size: int


@dataclass(frozen=True)
class Stat:
    """What the storage knows about one object.

    size: in bytes. crc32c: 8 hexadecimal digits, or "" if the storage keeps no checksum. version: differs after each
    write.
    """

    size: int
    crc32c: str
    version: str


class Changed(BocetoError):  # noqa: N818 - it says what happened
    """Another writer replaced the object."""


class Unavailable(BocetoError):  # noqa: N818 - it says how the storage is
    """The storage gave no correct answer in time. The same command may be run again."""


class Store(Protocol):
    """An adapter. A reader sees the old bytes or the new bytes of an object, never a part of them.

    The methods that read raise FileNotFoundError if the object does not exist.
    """

    def list(self, url: str) -> list[Entry]:
        """Returns the objects below the folder `url`, sorted by URL. An object lists itself."""

    def stat(self, url: str) -> Stat | None:
        """Returns what the storage knows about one object, or None if it does not exist."""

    def fetch(self, url: str, file: BinaryIO, progress: Callable[[int], None]) -> None:
        """Copies one object to an empty file, and verifies the checksum if there is one.

        progress: is called with the number of bytes that arrived; with a negative number before they are asked again.
        """

    def read(self, url: str, start: int, end: int | None) -> bytes:
        """Returns the bytes from `start` to `end` (exclusive) of one object. None means its end."""

    def versioned(self, url: str) -> tuple[bytes, str]:
        """Returns the bytes of a small object and its version."""

    def writing(self, url: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Returns a writer. Its bytes become the object when the block ends without an error."""

    def create(self, url: str, data: bytes) -> str:
        """Writes a small object that does not exist yet, and returns its version.

        Raises:
            FileExistsError: it exists.
        """

    def replace(self, url: str, data: bytes, version: str) -> str:
        """Replaces `version` of a small object, and returns the new version.

        Raises:
            Changed: the object has another version, or does not exist.
        """

    def delete(self, url: str) -> None:
        """Removes one object, if it exists."""
