"""Google's Quick, Draw! files, in each form that they are handed on in. The ending of a file's name tells its form:

    .ndjson, .ndjson.gz     simplified and raw: `boceto.ndjson`
    .bin                    `_binary`
    .csv, .csv.gz           Kaggle's, simplified and raw: `_kaggle`
    .npz                    sketch-rnn's: `_sketch_rnn`

Source: https://github.com/googlecreativelab/quickdraw-dataset. A file holds one category: the `word` of its drawings,
or else what it is named after; a category may be spread over several files.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from isal import isal_zlib

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Filtered, InputPart, Item, Refused, _binary, _kaggle, _sketch_rnn
from beam_pipelines.sources._names import agree, form_of
from boceto import inputs, ndjson, storage
from boceto.entry import MAX_LINE
from boceto.errors import SettingsError
from boceto.gzip_text import BOM, GZIP, MAGIC, lines_of, opened, text
from boceto.inputs import normal

FILES = ".ndjson, .ndjson.gz, .csv, .csv.gz, .npz or .bin"
_TEXTS = {"ndjson": ndjson, "csv": _kaggle}
_REQUESTS = 16  # Files whose first lines are looked at side by side.
_FIRST, _LONGEST = 1 << 14, 1 << 21  # Bytes of a file that are looked at; where a line is longer, so many.


def plan(settings: Settings) -> list[InputPart]:
    """The files of `settings.input`, each with its category. Looks at the first lines of each file.

    Raises:
        SettingsError: there are none, or one cannot be read.
    """
    where = settings.input
    if not where:
        raise SettingsError("prepare.input is missing: give --input with the folder of QuickDraw's files")
    found = []
    for name, entry in inputs.files(where):
        if form := form_of(name):
            if not name.isprintable():
                raise SettingsError(f"prepare.input: the file name {name!r} is no readable text; rename it")
            found.append((name, *form, entry))
    with ThreadPoolExecutor(_REQUESTS) as pool:
        words = list(pool.map(lambda file: _category(file[3].url, file[1], file[2]), found))
    parts = [
        InputPart(name, word, entry.url, entry.size, named="" if agree(named, word) else named)
        for (name, named, _, entry), word in zip(found, words, strict=True)
        if word is not None
    ]
    if not parts:
        raise SettingsError(
            f"prepare.input = {where!r}: no {FILES} file of drawings there that is not hidden; "
            "give a folder that has some, or for other files another --source"
        )
    return sorted(parts)


def _category(url: str, named: str, form: str) -> str | None:
    """The category of a file: what most of its first drawings say, `named` where they say nothing or say that too; None
    for a table of something else.
    """
    if form not in _TEXTS:
        return named
    try:
        lines = _first_lines(url, 1 + (form == "csv"))  # A header tells nothing.
    except PermissionError as error:
        raise SettingsError(f"prepare.input: {url} cannot be read: {error.strerror}; give one that can") from error
    if form == "csv" and not _kaggle.is_of_drawings(lines):
        return None
    words = Counter(normal(word) for word in _TEXTS[form].words(lines, url) if word.isprintable() and word)
    agreed = [word for word in words if agree(named, word)]
    return agreed[0] if agreed else max(words, key=lambda word: (words[word], word), default=named)


def _first_lines(url: str, wanted: int) -> list[bytes]:
    """The first lines of a text, `wanted` whole ones where it has them; the last may be cut off."""
    for size in (_FIRST, _LONGEST):
        head = storage.read_bytes(url, 0, size)
        lines = (_unpacked(head) if head.startswith(MAGIC) else head).removeprefix(BOM).split(b"\n")
        if len(lines) > wanted or len(head) < size:
            break
    return lines


def _unpacked(head: bytes) -> bytes:
    try:
        return isal_zlib.decompressobj(wbits=GZIP).decompress(head, _LONGEST)
    except isal_zlib.error:  # type: ignore[misc]  # isal says nothing of its types
        return b""


def read(part: InputPart, settings: Settings) -> Iterator[Item]:
    """The drawings of one file, in order; a file that breaks off or is damaged ends in a refused item."""
    _, form = form_of(part.url) or ("", "ndjson")
    with opened(part.url, part.size) as file:
        if form == "bin":
            items = _binary.read(file)
        elif form == "npz":
            items = _sketch_rnn.read(file, part.size)
        else:
            pieces, loss = text(file, part.url, part.size)
            items = _TEXTS[form].read(lines_of(pieces, MAX_LINE), loss, part.category)
        for item in items:
            if isinstance(item, Refused | Filtered):
                yield item
            elif settings.recognized == "only" and item[1] is not True:
                yield Filtered("not recognized" if item[1] is False else "without the flag `recognized`")
            else:
                yield item[0]
