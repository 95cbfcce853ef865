"""Where drawings come from: one file a source, found by its name.

A source module has
    plan(settings) -> list[InputPart]         what there is to read, and of which category
    read(part, settings) -> Iterator[Item]    its drawings, with strokes or as images; of a bad one, why it is refused

An image is taken as it is: a source of images gives bright drawings on black, as strokes are drawn by default, or heeds
`settings.ink` itself, as `boceto.pictures` does. Else `--ink`, `--line-width` and `--margin` have no effect on images.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from boceto import lookup, storage
from boceto.inputs import Drawing, Filtered, Refused

__all__ = ["Drawing", "Filtered", "Refused"]

if TYPE_CHECKING:
    from beam_pipelines.settings import Settings


class InputPart(NamedTuple):
    """One piece of input, read by one worker: drawings `first` to `stop` of it where it has no natural end.

    url: its file, or urls: its files where it has several. named: the category that its name says, where its content
    says another. split: of all its drawings, as in `Drawing`. refused: the fields of a `Refused` for each drawing that
    `plan` found to be bad.
    """

    name: str
    category: str
    url: str = ""
    size: int = 0
    first: int = 0
    stop: int = 0
    named: str = ""
    urls: tuple[str, ...] = ()
    split: str = ""
    refused: tuple[tuple[Any, ...], ...] = ()


def crc32c(part: InputPart) -> str:
    """Returns the crc32c of a part's file (or of its files' checksums, in order) as 8 hexadecimal digits, or "" for a
    part without files. Object storage knows the checksum; local files are read.

    Raises:
        FileNotFoundError: a file has gone.
    """
    found = [storage.checksum(url)[1] for url in part.urls or ((part.url,) if part.url else ())]
    return found[0] if len(found) == 1 else storage.crc32c("".join(found).encode()) if found else ""


def deflated(image: NDArray[np.uint8]) -> bytes:
    """Compresses the pixels of an image, uint8[H, W, C], for `inflated`."""
    return isal_zlib.compress(image.tobytes(), 1)


def inflated(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Returns the image uint8[H, W, C] of this shape that `deflated` compressed.

    Raises:
        ValueError: the data are damaged, or an image of another shape.
    """
    try:
        return np.frombuffer(isal_zlib.decompress(data), np.uint8).reshape(shape)
    except isal_zlib.error as error:  # type: ignore[misc]  # isal says nothing of its types
        raise ValueError(f"an image is damaged: {error}") from error


Item = Drawing | Refused | Filtered


class DrawingSource(Protocol):
    """What a module of this folder offers."""

    def plan(self, settings: "Settings") -> list[InputPart]:
        """Returns all parts, sorted by name.

        Raises:
            SettingsError: there is no input, or the settings do not fit it.
        """

    def read(self, part: InputPart, settings: "Settings") -> Iterator[Item]:
        """Yields the drawings of one part, in order. A bad drawing is a `Refused`, not an error."""


def names() -> list[str]:
    """Returns the names of the sources."""
    return lookup.names(__name__)


def load(name: str) -> DrawingSource:
    """The source called `name`.

    Raises:
        SettingsError: there is none.
    """
    return cast("DrawingSource", lookup.find(__name__, name, "prepare.source", "plan", "read"))
