"""The text of a file, packed by gzip (RFC 1952) or not, in pieces.

Of a packed file, a member counts once its checksum has passed: damage can turn a drawing into another that nobody drew.
So a packed file is read twice. A file that merely ends too early has no checksum; what is there is used. Nobody knows
how much is missing: it counts as much as is there.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from isal import isal_zlib

from boceto import storage
from boceto.errors import DataError

MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
GZIP = 31  # zlib's window bits for a gzip header and trailer, which are checked.
_BUFFER, _PIECE = 1 << 18, 1 << 16
_LEAST = 18  # Bytes of a header and a trailer: the shortest member has more.
LINE = 130  # Packed bytes of a drawing, about, where a file does not tell.
UNKNOWN = "how much is missing is not known, and counts as much as is there"
_WHOLE, CUT, DAMAGED, _BEHIND = "whole", "truncated_file", "damaged_file", "trailing_bytes"


class Loss(NamedTuple):
    """Why something of a file cannot be used, about how many lines that is, and in words."""

    reason: str
    lines: int
    what: str


class CutOff(bytes):
    """A last line that no line break ends."""


@contextlib.contextmanager
def opened(url: str, size: int) -> Iterator[BinaryIO]:
    """The file at `url` to read, more than once where it is packed.

    Raises:
        DataError: it has gone, or has not `size` bytes.
    """
    try:
        with storage.open_file(url) as file:
            if file.seek(0, io.SEEK_END) != size:
                raise DataError(f"{url} has changed since the job began; run it again")
            file.seek(0)
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{url} has gone since the job began; run it again") from error


def text(file: BinaryIO, name: str, size: int) -> tuple[Iterator[bytes], Loss | None]:
    """The pieces of a file of `size` bytes that may be used, and what of it may not."""
    head = file.read(len(BOM) + 1)
    if head.startswith(MAGIC):
        usable, loss = _check(file)
        return _unpacked(file, usable), loss
    file.seek(0)
    if name.endswith(".gz") and not head.removeprefix(BOM).lstrip().startswith(b"{") and size:
        return iter(()), Loss(DAMAGED, max(1, size // LINE), "it is no gzip file; fetch it again")
    return _plain(file, name, size), None


def lines_of(pieces: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """The lines of a text without their ends; of one with more than `longest` bytes, the begin."""
    rest, is_long = b"", False
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines[is_long:]
        is_long = is_long and not lines
        if is_long:
            rest = b""
        elif len(rest) > longest:
            yield rest
            rest, is_long = b"", True
    if rest:
        yield CutOff(rest)


def _plain(file: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    while piece := file.read(_BUFFER):
        size -= len(piece)
        yield piece
    if size > 0:
        raise DataError(f"{name} became shorter while it was read; run the job again")


def _walk(file: BinaryIO) -> Iterator[tuple[bytes, str, int]]:
    """The unpacked pieces of all members, with "" or how a member ended, and how many packed bytes that took."""
    file.seek(0)
    data, state = file.read(_BUFFER), ""
    while data:
        if state and not data.strip(b"\0"):  # Padding.
            data = file.read(_BUFFER)
            continue
        if state and not MAGIC.startswith(data[: len(MAGIC)]):
            yield b"", _BEHIND, file.tell() - len(data)
            return
        member, state = isal_zlib.decompressobj(wbits=GZIP), ""
        while not state:
            try:
                piece = member.decompress(data, _PIECE)
            except isal_zlib.error:  # type: ignore[misc]  # isal says nothing of its types
                yield b"", DAMAGED, file.tell() - len(data)
                return
            data = member.unconsumed_tail
            if member.eof:
                data, state = member.unused_data, _WHOLE
            elif not data and not (data := file.read(_BUFFER)) and not piece:
                state = CUT
            yield piece, state, file.tell() - len(data)
        data = data or file.read(_BUFFER)


def _check(file: BinaryIO) -> tuple[int, Loss | None]:
    """How many unpacked bytes of a gzip file may be used, and what else is in it."""
    unpacked = lines = usable = good = at = 0
    state, last = "", b""
    for piece, state, at in _walk(file):  # noqa: B007 - the last ones are asked for below
        unpacked, lines, last = unpacked + len(piece), lines + piece.count(b"\n"), piece or last
        if state == _WHOLE:
            usable, good = unpacked, lines
    size = file.seek(0, io.SEEK_END)
    if state == CUT and not _ends_in_a_trailer(file, unpacked - usable):
        all_lines = unpacked > usable and last.endswith(b"\n")  # Then its checksum alone is missing, most likely.
        told = f"the file ends at byte {size:,}, before its data does; {UNKNOWN}; fetch it again"
        return unpacked, Loss(CUT, 0 if all_lines else max(1, lines), told)
    if state == _WHOLE:
        return usable, None
    # What is lost has as many lines a packed byte as what can be read.
    lost = lines - good + (round((size - at) * lines / at) if lines and at else (size - at) // LINE)
    if state == _BEHIND:
        return usable, Loss(_BEHIND, lost, f"{size - at:,} bytes behind the packed data are no gzip data")
    told = "its gzip data is damaged" if not usable else f"its gzip data is damaged behind the first {good:,} lines"
    return usable, Loss(DAMAGED, max(1, lost), f"{told}; fetch it again")


def _ends_in_a_trailer(file: BinaryIO, unpacked: int) -> bool:
    """Whether the last bytes are the length that a member's end tells, about: then nothing is missing, but damage made
    the end unrecognisable.
    """
    if file.seek(0, io.SEEK_END) < _LEAST:
        return False
    file.seek(-4, io.SEEK_END)
    return abs(int.from_bytes(file.read(4), "little") - unpacked % (1 << 32)) <= unpacked // 8 + _PIECE


def _unpacked(file: BinaryIO, usable: int) -> Iterator[bytes]:
    for piece, _, _ in _walk(file):
        if not usable:
            return
        yield piece[:usable]
        usable -= len(piece[:usable])
