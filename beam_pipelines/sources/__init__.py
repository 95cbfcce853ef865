"""Where drawings come from: one file a source, found by its name.

A source module has
    plan(settings) -> list[Part]              what there is to read, and of which category
    read(part, settings) -> Iterator[Item]    its drawings; each bad one is an item that says why it is refused
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, cast

from beam_pipelines.settings import Settings
from boceto import lookup, storage


class Part(NamedTuple):
    """One piece of input, read by one worker: drawings `first` to `stop` of it where it has no natural end.

    named: the category that its name says, where its content says another.
    """

    name: str
    category: str
    url: str = ""
    size: int = 0
    first: int = 0
    stop: int = 0
    named: str = ""


def crc32c(part: Part) -> str:
    """The checksum of a part that is a file, 8 hexadecimal digits; "" of another. Object storage knows it by itself."""
    return storage.checksum(part.url)[1] if part.url else ""


class Sketch(NamedTuple):
    """A good drawing: its strokes in the form of `boceto.strokes`, and its key ("" where it has none)."""

    ink: bytes
    key: str


class Refused(NamedTuple):
    """A bad drawing: the line (or record) of its file from 1 on, the reason, how its text begins, and what is wrong
    with which field. `lost`: how many drawings that is, where a file is damaged.
    """

    line: int
    reason: str
    text: str
    what: str = ""
    lost: int = 1


class Filtered(NamedTuple):
    """A good drawing that an option leaves out, and why."""

    reason: str


Item = Sketch | Refused | Filtered


class Source(Protocol):
    """What a module of this folder offers."""

    def plan(self, settings: Settings) -> list[Part]:
        """All parts, sorted by name."""

    def read(self, part: Part, settings: Settings) -> Iterator[Item]:
        """The drawings of one part, in order."""


def names() -> list[str]:
    """The sources there are."""
    return lookup.names(__name__)


def load(name: str) -> Source:
    """The source called `name`.

    Raises:
        SettingsError: there is none.
    """
    return cast("Source", lookup.find(__name__, name, "prepare.source"))
