"""The inputs of `boceto predict`, pictures and QuickDraw's lines, as images like those of the net's training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, contract, gzip_text, inputs, ndjson, pictures, storage
from boceto.artefact import Artefact
from boceto.entry import MAX_LINE
from boceto.errors import DataError, SettingsError
from boceto.inputs import Drawing, Filtered, Refused
from boceto.raster import Rasteriser
from boceto.storage import Entry

LINES = (".ndjson", ".ndjson.gz")
PREDICTIONS = (".csv", ".jsonl")  # Of an earlier run, in the same folder: passed over.


class Query(NamedTuple):
    """A good input: its file's name, its key ("" for a picture), and its image, uint8[H, W, C]."""

    name: str
    key: str
    image: NDArray[np.uint8]


class Batch(NamedTuple):
    """Some inputs: of the good ones, B, names, keys and images uint8[B, H, W, C]; and the bad ones."""

    names: list[str]
    keys: list[str]
    images: NDArray[np.uint8]
    refused: list[Refused]


def find(where: str) -> list[tuple[str, Entry]]:
    """Returns the names and entries of the pictures and files of drawings at `where`: a file, a folder or a glob.

    Raises:
        SettingsError: there is none.
    """
    found = [(name, entry) for name, entry in inputs.files(where) if not name.endswith(PREDICTIONS)]
    if not found:
        raise SettingsError(
            f"predict.input = {where!r}: no picture and no .ndjson or .ndjson.gz file there that is not hidden; give a "
            "folder that has some"
        )
    return found


class Reader:
    """Makes images of inputs, as the data set's options (`dataset.json`) say that the images of the training were made.

    Raises:
        DataError: the options do not say it.
    """

    def __init__(self, run: str, description: Artefact, options: Mapping[str, Any]) -> None:
        self._shape = description.height, description.width, description.channels
        try:
            width, margin = (contract.field(options, name, float) for name in ("line_width", "margin"))
            # A data set that is older than --invert and --fit counts as made with their defaults.
            self._how = {"ink": contract.field(options, "ink", str)} | {
                name: contract.field(options, name, str) for name in ("invert", "fit") if name in options
            }
        except ValueError as error:
            raise DataError(f"{artefact.path(run)} does not say how the images were made: {error}") from error
        self._rasteriser = Rasteriser(*self._shape[:2], width, margin, self._how["ink"])

    def read(self, files: Iterable[tuple[str, Entry]]) -> Iterator[Query | Refused]:
        """Yields the inputs of the files in order."""
        for name, entry in files:
            try:
                for item in self._drawings(entry) if name.lower().endswith(LINES) else [self._picture(entry)]:
                    yield item._replace(file=entry.url) if isinstance(item, Refused) else Query(name, *item)
            except (FileNotFoundError, PermissionError) as error:
                yield Refused(1, "unreadable_file", "", error.strerror or str(error), file=entry.url)

    def _drawings(self, entry: Entry) -> Iterator[tuple[str, NDArray[np.uint8]] | Refused]:
        """Yields the key and the image of each line of a file."""
        with gzip_text.opened(entry.url, entry.size) as file:
            pieces, loss = gzip_text.text(file, entry.url, entry.size)
            for item in ndjson.read(gzip_text.lines_of(pieces, MAX_LINE), loss):
                if isinstance(item, Refused):
                    yield item
                elif not isinstance(item, Filtered):
                    yield self._drawn(item[0])

    def _drawn(self, drawing: Drawing) -> tuple[str, NDArray[np.uint8]]:
        (grey,) = self._rasteriser.draw([drawing.strokes])
        image = np.broadcast_to(grey[..., None], self._shape)  # Strokes with 3 channels are grey.
        return drawing.key or contract.digest(drawing.strokes), image

    def _picture(self, entry: Entry) -> tuple[str, NDArray[np.uint8]] | Refused:
        if entry.size > pictures.MAX_BYTES:
            return Refused(1, "too_large", "", f"the file has {entry.size:,} bytes, more than {pictures.MAX_BYTES:,}")
        try:
            return "", pictures.to_image(storage.read_bytes(entry.url), self._shape, **self._how)
        except pictures.Unusable as refusal:
            reason, what = refusal.args
            return Refused(1, reason, "", what)


def batches(items: Iterable[Query | Refused], size: int) -> Iterator[Batch]:
    """Yields the inputs in batches of `size` good ones; the last one, and one with many bad ones, has fewer."""
    good: list[Query] = []
    bad: list[Refused] = []
    for item in items:
        if isinstance(item, Refused):
            bad.append(item)
        else:
            good.append(item)
        if max(len(good), len(bad)) == size:
            yield _batch(good, bad)
            good, bad = [], []
    if good or bad:
        yield _batch(good, bad)


def _batch(good: Sequence[Query], bad: list[Refused]) -> Batch:
    images = np.stack([each.image for each in good]) if good else np.empty((0, 0, 0, 0), np.uint8)
    return Batch([each.name for each in good], [each.key for each in good], images, bad)
