"""What the sources of picture files share: the files of the input, the parts, and the drawings of a part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, InputPart, Item, Refused
from boceto import pictures, storage
from boceto.errors import DataError, SettingsError
from boceto.inputs import is_hidden, normal
from boceto.stores import Entry

# What lists and folders of a split are called, in the order in which the lists are read.
SPLITS = {"test": "test", "validation": "validation", "val": "validation", "valid": "validation", "train": "train"}


def files(settings: Settings) -> dict[str, Entry]:
    """Returns the files of the input by their names below it, sorted; hidden files are passed over.

    Raises:
        SettingsError: there are none, or a name is no readable text.
    """
    where = settings.input
    if not where:
        raise SettingsError(f"prepare.input is missing: give --input with the folder of {settings.source}")
    entries = {normal(storage.relative(entry.url, where)): entry for entry in storage.list_files(where, linked=True)}
    found = {name: entry for name, entry in sorted(entries.items()) if not is_hidden(name)}
    if not found:
        raise SettingsError(f"prepare.input = {where!r}: no file there that is not hidden; give a folder of pictures")
    if odd := [name for name in found if not name.isprintable()]:
        raise SettingsError(f"prepare.input: the file name {odd[0]!r} is no readable text; rename it")
    return found


def part(split: str, category: str, entries: Mapping[str, Entry], refused: Sequence[Refused] = ()) -> InputPart:
    """Returns the part of the pictures `entries` (by name) of one category and split."""
    large = [
        Refused(1, "too_large", "", f"it has {entry.size:,} bytes, more than {pictures.MAX_BYTES:,}", file=name)
        for name, entry in entries.items()
        if entry.size > pictures.MAX_BYTES
    ]
    usable = [entry for entry in entries.values() if entry.size <= pictures.MAX_BYTES]
    return InputPart(
        f"{split}/{category}" if split else category,
        category,
        size=sum(entry.size for entry in usable),
        urls=tuple(entry.url for entry in usable),
        split=split,
        refused=tuple(map(tuple, [*refused, *large])),
    )


def content(url: str, most: int = pictures.MAX_BYTES) -> bytes:
    """Returns the first `most` bytes of a file of a part.

    Raises:
        DataError: the file has gone.
    """
    try:
        return storage.read_bytes(url, 0, most)
    except FileNotFoundError as error:
        raise DataError(f"{url} has gone since the job began; run it again") from error


def read(part: InputPart, settings: Settings) -> Iterator[Item]:
    """The pictures of one part, in order; a picture's key is its name below the input.

    Raises:
        DataError: a file has gone.
    """
    how: dict[str, Any] = {"ink": settings.ink, "invert": settings.invert, "fit": settings.fit}
    for url in part.urls:
        name = normal(storage.relative(url, settings.input))
        try:
            image = pictures.to_image(content(url), settings.shape, **how)
        except pictures.Unusable as refusal:
            reason, what = refusal.args
            yield Refused(1, reason, "", what, file=name)
        else:
            yield Drawing(key=name, image=image, split=part.split)
