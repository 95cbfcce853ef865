"""Bytes to and from Google Cloud Storage: verified by crc32c, gone on with after breaks, large ones in parallel.

CRC-32C is RFC 3720's; the storage writes it as base64 of four big-endian bytes, Boceto as 8 hexadecimal digits.
"""

import base64
import contextlib
import functools
import io
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from boceto.stores import Changed, Progress, Stat, Unavailable
from boceto.stores._gs_link import THREADS, Broken, Link, Place, errors

_CHUNK = 1 << 20
_DOWNLOAD_PART = 16 << 20
_UPLOAD_PART = 32 << 20
_MOST_PARTS = 32  # compose takes no more
_TRIES = 3  # of a whole file whose parts all came, but not as they are stored


def hexadecimal(crc32c: str | None) -> str:
    """`yZRlqg==` -> `c99465aa`; "" where the storage told none."""
    return base64.b64decode(crc32c).hex() if crc32c else ""


def stat_of(blob: Any) -> Stat:
    """What the library's object with its metadata tells."""
    return Stat(blob.size, hexadecimal(blob.crc32c), str(blob.generation))


class Told:
    """Passes progress on, from any thread, and tells no byte twice however often it was sent."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._reached: dict[int, int] = {}

    def at(self, start: int, end: int) -> None:
        """The part that begins at `start` has come to `end`."""
        with self._lock:
            more = end - self._reached.get(start, start)
            if more > 0:
                self._reached[start] = end
                if self._progress:
                    self._progress(more)


# --- reading


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

    def read(self, start: int, end: int, put: Callable[[int, bytes], object]) -> None:
        """Hands `put` the bytes from `start` to `end`, each piece with its offset; goes on where a connection broke."""
        while start < end:
            start = self.link.retry(functools.partial(self._advance, start, end, put))()

    def _advance(self, start: int, end: int, put: Callable[[int, bytes], object]) -> int:
        """One request: how far it came, which is further than `start`, or else its error."""
        from urllib3.exceptions import HTTPError

        at = start
        with self.link.get(self.place, f"{start}-{end - 1}", self.version) as response:
            if start > 0 and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise Broken("the whole object came in place of a range")
            try:
                while at < end and (data := response.raw.read(min(_CHUNK, end - at), decode_content=False)):
                    put(at, data)
                    at += len(data)
            except HTTPError:
                if at == start:
                    raise
        if at == start:
            raise Broken("the answer ended before its first byte")
        return at


def download(link: Link, place: Place, file: BinaryIO, progress: Progress | None) -> None:
    """Writes an object's bytes to an empty file.

    Raises:
        Unavailable: three times what came was not what is stored.
    """
    told = Told(progress)
    for _ in range(_TRIES):
        blob = link.blob(place)
        blob.reload(retry=link.retry, timeout=link.timeout)
        if _download_once(link, place, stat_of(blob), file, told):
            return
    raise Unavailable(f"{place.url} arrived {_TRIES} times with another crc32c than stored; run the same command again")


def _download_once(link: Link, place: Place, found: Stat, file: BinaryIO, told: Told) -> bool:
    """Whether the version `found` came whole: it may be replaced meanwhile, or damaged on its way."""
    from google.api_core.exceptions import NotFound

    descriptor = file.fileno()
    os.truncate(descriptor, found.size)
    pinned = Pinned(link, place, found.version)

    def part(start: int) -> None:
        def put(at: int, data: bytes) -> None:
            os.pwrite(descriptor, data, at)
            told.at(start, at + len(data))

        pinned.read(start, min(start + _DOWNLOAD_PART, found.size), put)

    try:
        _in_parallel(part, range(0, found.size, _DOWNLOAD_PART))
    except NotFound:
        return False
    return not found.crc32c or Part(Path(file.name), 0, found.size).crc32c == found.crc32c


def _in_parallel(work: Callable[[Any], object], items: Any) -> None:
    """Calls `work` with each item, several at a time; after an error begins no more, and raises it."""
    items = list(items)
    if len(items) == 1:
        work(items[0])
        return
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


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
            Pinned(self._link, self._place, self._found.version).read(first, end, put)
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


# --- writing


@dataclass(frozen=True)
class Data:
    """Bytes to send."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    @property
    def crc32c(self) -> str:
        """8 hexadecimal digits."""
        return f"{google_crc32c.value(self.data):08x}"

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        yield self.data


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `end` of a file, to send. told: hears how far they were read."""

    path: Path
    start: int
    end: int
    told: Told | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @functools.cached_property
    def crc32c(self) -> str:
        """8 hexadecimal digits."""
        crc = 0
        for data in self._read():
            crc = google_crc32c.extend(crc, data)
        return f"{crc:08x}"

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order."""
        at = self.start
        for data in self._read():
            yield data
            at += len(data)
            if self.told:
                self.told.at(self.start, at)

    def _read(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            left = self.size
            while left and (data := file.read(min(_CHUNK, left))):
                left -= len(data)
                yield data


class _Body:
    """A multipart/related request: the metadata, then the bytes. Can be sent again."""

    def __init__(self, place: Place, source: Data | Part) -> None:
        boundary = uuid.uuid4().hex
        crc32c = base64.b64encode(bytes.fromhex(source.crc32c)).decode()
        metadata = json.dumps({"name": place.name, "crc32c": crc32c})
        self._source = source
        self._head = (
            f"--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n"
            f"--{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--".encode()
        self.content_type = f'multipart/related; boundary="{boundary}"'

    def __len__(self) -> int:
        return len(self._head) + self._source.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._source.chunks()
        yield self._tail


class Put:
    """One object sent in one request, and again until it is there as it should be.

    match: the generation that must be there (0: none); with None the object is written whatever is there.
    """

    def __init__(self, link: Link, place: Place, source: Data | Part, match: str | None) -> None:
        self._link = link
        self._place = place
        self._source = source
        self._match = match
        self._tries = 0
        self._damaged: str | None = None

    def send(self) -> str:
        """Returns the new generation; raises the library's errors, PreconditionFailed among them."""
        from google.api_core.exceptions import RetryError

        try:
            sent: str = self._link.retry(self._try)()
        except RetryError:
            self._remove_damaged()
            raise
        return sent

    def _try(self) -> str:
        from google.api_core.exceptions import BadRequest, PreconditionFailed

        self._tries += 1
        params = {} if self._match is None else {"ifGenerationMatch": self._match}
        body = _Body(self._place, self._source)
        try:
            found = self._link.post(self._place.bucket, body, body.content_type, params)
        except PreconditionFailed:
            if self._tries > 1 and (generation := self._ours()):  # The answer to an earlier try was lost.
                return generation
            raise
        except BadRequest as error:
            if _damaged_on_its_way(error):
                raise Broken("the crc32c was another on arrival") from error
            raise
        generation = str(found["generation"])
        if (int(found["size"]), hexadecimal(found.get("crc32c"))) != (self._source.size, self._source.crc32c):
            self._damaged = generation
            if self._match is not None:
                self._match = generation  # The next try replaces the damaged one: nobody sees a gap.
            raise Broken("the stored crc32c is another than the one sent")
        return generation

    def _ours(self) -> str | None:
        """The generation of what is stored, if it is what was to be sent and not what was to be replaced."""
        from google.api_core.exceptions import NotFound

        try:
            data, generation = read_whole(self._link, self._place)
        except NotFound:
            return None
        return generation if generation != self._match and data == b"".join(self._source.chunks()) else None

    def _remove_damaged(self) -> None:
        from google.api_core.exceptions import GoogleAPIError

        if self._damaged:
            with contextlib.suppress(GoogleAPIError):
                self._link.blob(self._place).delete(if_generation_match=int(self._damaged), timeout=self._link.timeout)


def _damaged_on_its_way(error: Exception) -> bool:
    """Whether the storage refused bytes that were damaged on their way."""
    return any(word in str(error).lower() for word in ("crc32c", "checksum", "hash"))


def upload(link: Link, place: Place, path: Path, progress: Progress | None) -> None:
    """Sends a file: a large one in parts at once, which the storage then composes."""
    told = Told(progress)
    size = path.stat().st_size
    if size < 2 * _UPLOAD_PART:
        Put(link, place, Part(path, 0, size, told), None).send()
        return
    step = max(_UPLOAD_PART, -(-size // _MOST_PARTS))
    unique = uuid.uuid4().hex
    parts = {
        Place(place.bucket, f"{place.name}.{unique}-{start // step:02}.partial"): Part(
            path, start, min(start + step, size), told
        )
        for start in range(0, size, step)
    }
    try:
        _in_parallel(lambda item: Put(link, item[0], item[1], "0").send(), parts.items())
        _compose(link, place, list(parts), Part(path, 0, size))
    finally:
        _in_parallel(functools.partial(remove, link), parts)


def _compose(link: Link, place: Place, parts: list[Place], whole: Part) -> None:
    from google.api_core.exceptions import GoogleAPIError

    blob = link.blob(place)
    for _ in range(_TRIES):
        blob.compose([link.blob(part) for part in parts], retry=link.retry, timeout=link.timeout)
        if (blob.size, hexadecimal(blob.crc32c)) == (whole.size, whole.crc32c):
            return
    with contextlib.suppress(GoogleAPIError):
        blob.delete(if_generation_match=blob.generation, timeout=link.timeout)
    raise Unavailable(f"{place.url} was composed to another crc32c than sent; run the same command again")


def remove(link: Link, place: Place) -> None:
    """Deletes an object, if there is one."""
    from google.api_core.exceptions import NotFound

    with contextlib.suppress(NotFound):
        link.blob(place).delete(retry=link.retry, timeout=link.timeout)
