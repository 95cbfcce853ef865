"""Bytes from Google Cloud Storage: verified by crc32c, gone on with after breaks, large ones in parallel.

CRC-32C is RFC 3720's; the storage writes it as base64 of four big-endian bytes, Boceto as 8 hexadecimal digits.
"""

import base64
import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from boceto.stores import Changed, Progress, Sink, Stat, Unavailable
from boceto.stores._gs_errors import errors
from boceto.stores._gs_link import Broken, Link, Place
from boceto.stores._gs_parallel import Told, in_parallel

CHUNK = 1 << 20
TRIES = 3  # of a whole file whose parts all came, but not as they are stored
_PART = 32 << 20
_POLYNOMIAL = 0x82F63B78  # reflected


def hexadecimal(crc32c: str | None) -> str:
    """`yZRlqg==` -> `c99465aa`; "" where the storage told none."""
    return base64.b64decode(crc32c).hex() if crc32c else ""


def stat_of(blob: Any) -> Stat:
    """What the library's object with its metadata tells."""
    return Stat(blob.size, hexadecimal(blob.crc32c), str(blob.generation))


def joined_crc32c(first: int, second: int, size: int) -> int:
    """The CRC-32C of two pieces of bytes in a row, out of each one's; size: of the second, in bytes.

    The first one's is multiplied by x to the power of the bits that follow it, modulo CRC-32C's polynomial (as in
    zlib's crc32_combine); bit 31 is the power 0.
    """
    power, square = 1 << 31, 1 << 23
    while size:
        power = _product(power, square) if size & 1 else power
        square = _product(square, square)
        size >>= 1
    return _product(power, first) ^ second


def _product(one: int, other: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        product ^= other if one >> bit & 1 else 0
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product


def file_crc32c(path: Path, start: int, end: int) -> str:
    """Of the bytes `start` to `end` of a local file: 8 hexadecimal digits."""
    crc = 0
    for data in pieces(path, start, end):
        crc = google_crc32c.extend(crc, data)
    return f"{crc:08x}"


def pieces(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The bytes `start` to `end` of a local file, in order."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < end and (data := file.read(min(CHUNK, end - start))):
            start += len(data)
            yield data


def read_whole(link: Link, place: Place, start: int = 0, end: int | None = None) -> tuple[bytes, str]:
    """The bytes of an object, or a range, in one request, and the generation. Verified where it is all of it."""

    def ask() -> tuple[bytes, str]:
        whole = start == 0 and end is None
        wanted = None if whole else f"{start}-{'' if end is None else end - 1}"
        with link.get(place, wanted, None) as response:
            data = response.raw.read(decode_content=False)
            crc = _hash(response.headers)
            if whole and crc and crc != f"{google_crc32c.value(data):08x}":
                raise Broken("the crc32c is another on arrival")
            return data, response.headers["x-goog-generation"]

    got: tuple[bytes, str] = link.retry(ask)()
    return got


def _hash(headers: Any) -> str:
    named = dict(part.strip().split("=", 1) for part in headers.get("x-goog-hash", "").split(",") if "=" in part)
    return hexadecimal(named.get("crc32c"))


@dataclass(frozen=True)
class Pinned:
    """One version of an object, to be read in pieces."""

    link: Link
    place: Place
    version: str
    size: int

    def read(self, start: int, end: int, put: Callable[[int, bytes], object]) -> None:
        """Hands `put` the bytes from `start` to `end`, each piece with its offset; goes on where a connection broke."""
        while start < end:
            start = self.link.retry(functools.partial(self._advance, start, end, put))()

    def _advance(self, start: int, end: int, put: Callable[[int, bytes], object]) -> int:
        """One request: how far it came, which is further than `start`, or else its error."""
        from urllib3.exceptions import HTTPError

        at = start
        wanted = f"{start}-{end - 1}" if (start, end) != (0, self.size) else None
        with self.link.get(self.place, wanted, self.version) as response:
            if start > 0 and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise Broken("the whole object came in place of a range")
            try:
                while at < end and (data := response.raw.read(min(CHUNK, end - at), decode_content=False)):
                    put(at, data)
                    at += len(data)
            except HTTPError:
                if at == start:
                    raise
        if at == start:
            raise Broken("the answer ended before its first byte")
        return at


def stream(link: Link, place: Place, start: int, put: Sink) -> None:
    """Hands `put` the bytes of one version from `start` on, in order and unverified."""
    blob = link.blob(place)
    blob.reload(retry=link.retry, timeout=link.timeout)
    found = stat_of(blob)
    Pinned(link, place, found.version, found.size).read(start, found.size, lambda _, data: put(data))


def download(link: Link, place: Place, file: BinaryIO, progress: Progress | None) -> None:
    """Writes an object's bytes to an empty file.

    Raises:
        Unavailable: three times what came was not what is stored.
    """
    told = Told(progress)
    for _ in range(TRIES):
        blob = link.blob(place)
        blob.reload(retry=link.retry, timeout=link.timeout)
        if _download_once(link, place, stat_of(blob), file, told):
            return
    raise Unavailable(f"{place.url} arrived {TRIES} times with another crc32c than stored; run the same command again")


def _download_once(link: Link, place: Place, found: Stat, file: BinaryIO, told: Told) -> bool:
    """Whether the version `found` came whole: it may be replaced meanwhile, or damaged on its way."""
    from google.api_core.exceptions import NotFound

    descriptor = file.fileno()
    os.truncate(descriptor, found.size)
    crcs: dict[int, int] = {}

    def part(link: Link, start: int) -> None:
        crcs[start] = 0

        def put(at: int, data: bytes) -> None:
            link.go_on()
            os.pwrite(descriptor, data, at)
            crcs[start] = google_crc32c.extend(crcs[start], data)
            told.at(start, at + len(data))

        Pinned(link, place, found.version, found.size).read(start, min(start + _PART, found.size), put)

    try:
        in_parallel(link, part, range(0, found.size, _PART))
    except NotFound:
        return False
    crc = 0
    for start in sorted(crcs):
        crc = joined_crc32c(crc, crcs[start], min(_PART, found.size - start))
    return found.crc32c in {"", f"{crc:08x}"}


class Reader(io.RawIOBase):
    """One version of an object as a file. What is read from begin to end in order is verified at the end."""

    def __init__(self, link: Link, place: Place, found: Stat) -> None:
        self._link = link
        self._place = place
        self._found = found
        self._at = 0
        self._verified = 0
        self._crc = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        end = min(self._found.size, self._at + len(target))
        first = self._at

        def put(at: int, data: bytes) -> None:
            target[at - first : at - first + len(data)] = data
            self._verify(at, data)

        with self._named():
            Pinned(self._link, self._place, self._found.version, self._found.size).read(first, end, put)
        self._at = max(first, end)
        return self._at - first

    def readall(self) -> bytes:
        rest = bytearray(max(0, self._found.size - self._at))
        self.readinto(rest)
        return bytes(rest)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            with errors(self._link, self._place, "storage.objects.get"):
                yield
        except FileNotFoundError as error:
            raise Changed(f"{self._place.url} was replaced while it was read; run the same command again") from error

    def _verify(self, at: int, data: bytes) -> None:
        if at != self._verified:
            return
        self._crc = google_crc32c.extend(self._crc, data)
        self._verified += len(data)
        if self._verified == self._found.size and self._found.crc32c not in {"", f"{self._crc:08x}"}:
            raise Unavailable(f"{self._place.url} arrived with another crc32c than stored; run the same command again")
