"""Which category a file of drawings holds: its lines say it, or else its name, as people's browsers leave it."""

import re
import unicodedata
from collections import Counter
from urllib.parse import unquote

import orjson
from isal import isal_zlib

from beam_pipelines.sources._packed import BOM, GZIP, MAGIC
from boceto import storage

_COPY = r"(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?)?"  # What browsers, Windows and macOS put behind a name.
_FILE = re.compile(
    r"(?:full[_/-](?:simplified|raw|binary)[_/-])?(?:.*/)?"
    rf"(?P<category>[^/]+?)(?:-\d+-of-\d+)?{_COPY}\.(?:ndjson{_COPY}(?:\.gz)?|bin)",
    re.DOTALL | re.IGNORECASE,  # A name with a line break is refused, not passed over.
)
_NUMBER = re.compile(r"-\d+")
_FIRST, _LONGEST = 1 << 14, 1 << 21  # Bytes of a file that are looked at; where a line is longer, so many.
_LINES = 16


def normal(text: str) -> str:
    """Letters with accents as one sign each, as keyboards make them; macOS takes them apart in names of files."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder on the way to it is hidden, or one of the doubles that macOS makes."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def category_of(name: str) -> str | None:
    """`full%2Fsimplified%2Fhot dog (1).ndjson` -> `hot dog`; None for what holds no drawings."""
    name = name.rpartition("/")[2]
    match = _FILE.fullmatch(normal(unquote(name, errors="strict") if "%2F" in name.upper() else name))
    return match["category"] if match else None


def agree(named: str, word: str) -> bool:
    """Whether a file called `named` may be expected to hold drawings of `word`: `cat-1` is one of several of `cat`."""
    return named == word or (named.startswith(word) and bool(_NUMBER.fullmatch(named[len(word) :])))


def word_of(url: str, named: str) -> str:
    """The category of a file: what most of its first lines say, `named` where they say nothing or say that too."""
    words = Counter(_first_words(url))
    agreed = [word for word in words if agree(named, word)]
    return agreed[0] if agreed else max(words, key=lambda word: (words[word], word), default=named)


def _first_words(url: str) -> list[str]:
    if url.lower().endswith(".bin"):
        return []
    for size in (_FIRST, _LONGEST):
        head = storage.read_bytes(url, 0, size)
        text = _unpacked(head) if head.startswith(MAGIC) else head
        lines = text.removeprefix(BOM).split(b"\n")
        if len(lines) > 1 or len(head) < size:
            break
    return [word for line in lines[:_LINES] if (word := _word(line))]


def _unpacked(head: bytes) -> bytes:
    try:
        return isal_zlib.decompressobj(wbits=GZIP).decompress(head, _LONGEST)
    except isal_zlib.error:  # type: ignore[misc]  # isal says nothing of its types
        return b""


def _word(line: bytes) -> str:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return ""
    word = entry.get("word") if isinstance(entry, dict) else None
    return normal(word) if isinstance(word, str) and word.isprintable() else ""
