"""Objects of Google Cloud Storage. Public buckets are read without credentials, an emulator needs none.

Every call is one of the library's, with our Retry. What is tried again: reading; writing under a precondition (a lost
answer is recognised by reading back); writing or deleting without a precondition, which may be done twice. The library
verifies neither a download that was continued after a break nor an upload to an emulator, so both are verified here.
"""

import base64
import contextlib
import io
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from boceto.errors import SettingsError
from boceto.stores import Changed, Entry, Progress, Stat, Unavailable
from boceto.stores import file as local
from boceto.stores._gs_errors import errors, no_credentials
from boceto.stores._gs_link import Link, Patience, Place, connect, nobody, place_of

TRIES = 3  # Of a transfer whose bytes all came, but damaged.
_BUFFER = 8 << 20
_CHUNK = 1 << 20
_GET, _CREATE, _DELETE, _LIST = (f"storage.objects.{right}" for right in ("get", "create", "delete", "list"))


class Store:
    """The adapter. endpoint: where the storage is, if not where the library looks for it."""

    def __init__(self, patience: Patience | None = None, endpoint: str | None = None) -> None:
        self._patience = patience or Patience()
        self._endpoint = endpoint
        self._links: dict[int, Link] = {}
        self._granted: set[tuple[str, ...]] = set()  # By a process before it forks, too.

    def list(self, url: str) -> list[Entry]:
        with self._call(url.rstrip("/") + "/", _LIST, missing="bucket") as (link, folder):
            found = link.client.list_blobs(
                link.bucket(folder.bucket),
                prefix=folder.name or None,
                fields="items(name,size),nextPageToken",
                **link.options,
            )
            # A name that ends in a slash is a folder made in the console.
            entries = [Entry(Place(folder.bucket, blob.name).url, blob.size) for blob in found if blob.name[-1] != "/"]
        if not entries and folder.name and (alone := self.stat(url.rstrip("/"))):
            return [Entry(url.rstrip("/"), alone.size)]
        return sorted(entries)

    def stat(self, url: str) -> Stat | None:
        try:
            with self._call(url, _GET) as (link, place):
                if not place.name:
                    return None
                blob = link.blob(place)
                blob.reload(**link.options)
        except FileNotFoundError:
            return None
        return _stat(blob)

    def open(self, url: str) -> BinaryIO:
        found = self.stat(url)
        if found is None:
            raise FileNotFoundError(f"{url} does not exist")
        return io.BufferedReader(_Reader(self, url, found), _BUFFER)

    def read(self, url: str, start: int, end: int | None) -> bytes:
        if start == 0 and end is None:
            return self.versioned(url)[0]
        return b"" if end is not None and end <= start else self.read_range(url, start, end, None)

    def read_range(self, url: str, start: int, end: int | None, version: str | None) -> bytes:
        """The bytes `start` to `end` (not included) of an object, or of one version of it."""
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        with self._call(url, _GET) as (link, place):
            blob = link.blob(place, version)
            last = None if end is None else end - 1
            try:
                data: bytes = blob.download_as_bytes(
                    start=start, end=last, raw_download=True, checksum=None, **link.options
                )
            except RequestRangeNotSatisfiable:
                return b""
        return data

    def versioned(self, url: str) -> tuple[bytes, str]:
        for _ in range(TRIES):
            with self._call(url, _GET) as (link, place):
                blob = link.blob(place)
                data: bytes = blob.download_as_bytes(raw_download=True, checksum=None, **link.options)
            if _hexadecimal(blob.crc32c) in {"", f"{google_crc32c.value(data):08x}"}:
                return data, str(blob.generation)
        raise _damaged(url)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        with self._call(url, _CREATE, writes=True):
            pass
        with tempfile.NamedTemporaryFile(prefix="boceto-") as file:
            yield file  # type: ignore[misc]  # typeshed: the wrapper is a BinaryIO in all but name
            file.flush()
            self.upload(Path(file.name), url)

    def create(self, url: str, data: bytes) -> str:
        try:
            return self._send(url, io.BytesIO(data), 0)
        except Changed:
            raise FileExistsError(f"{url} is there already") from None

    def replace(self, url: str, data: bytes, version: str) -> str:
        return self._send(url, io.BytesIO(data), int(version))

    def upload(self, path: Path, url: str) -> None:
        with path.open("rb") as file:
            self._send(url, file, None)

    def download(self, url: str, path: Path, progress: Progress | None) -> None:
        with local.partial_file(path) as (partial, file):
            self._download(url, file, lambda: os.truncate(partial, 0), progress)
            file.flush()
            partial.replace(path)  # Not flushed to disk, which takes longer than the download: there is the original.

    def delete(self, url: str) -> None:
        from google.api_core.exceptions import NotFound

        with self._call(url, _DELETE, writes=True) as (link, place), contextlib.suppress(NotFound):
            link.blob(place).delete(**link.options)

    def buffer(self, url: str) -> memoryview:
        with tempfile.NamedTemporaryFile(prefix="boceto-") as file:
            self._download(url, file, lambda: file.truncate(0), None)  # type: ignore[arg-type]  # as in `writing`
            file.flush()
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _download(self, url: str, file: BinaryIO, empty: Callable[[], object], progress: Progress | None) -> str:
        """Writes an object's bytes to an empty file; returns its version.

        Raises:
            Unavailable: three times what came was not what is stored.
        """
        from google.api_core.exceptions import NotFound, RetryError

        told = 0
        for number in range(TRIES):
            with self._call(url, _GET) as (link, place):
                blob = link.blob(place)
                blob.reload(**link.options)
                file.seek(0)
                empty()
                sink = _Sink(file, progress, told)
                pinned = link.blob(place, str(blob.generation))
                before = -1
                while before < sink.size < blob.size:
                    before = sink.size
                    try:
                        pinned.download_to_file(
                            sink, start=before or None, raw_download=True, checksum=None, **link.options
                        )
                    except RetryError:
                        if sink.size == before:
                            raise
                    except NotFound:
                        if number + 1 == TRIES:
                            raise
                        break  # It was replaced meanwhile.
                if sink.size == blob.size and _hexadecimal(blob.crc32c) in {"", f"{sink.crc:08x}"}:
                    return str(blob.generation)
                told = max(told, sink.size)
        raise _damaged(url)

    def _send(self, url: str, file: BinaryIO, match: int | None) -> str:
        """Writes a file's bytes to an object; returns its version.

        match: the version that must be there (0: none); with None the object is written whatever is there.

        Raises:
            Changed: another version is there.
            Unavailable: three times what is stored was not what was sent.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        crc, size = 0, 0
        while data := file.read(_CHUNK):
            crc, size = google_crc32c.extend(crc, data), size + len(data)
        damaged = None
        for _ in range(TRIES):
            with self._call(url, _CREATE, missing="bucket", writes=True) as (link, place):
                found = self._try_to_send(link, place, file, (size, f"{crc:08x}"), match)
            if found and (found.size, found.crc32c) == (size, f"{crc:08x}"):
                return found.version
            damaged = int(found.version) if found else damaged
            if match is not None:
                match = damaged or match  # The next try replaces the damaged object: nobody sees a gap.
        with self._call(url, _DELETE, writes=True) as (link, place), contextlib.suppress(NotFound, PreconditionFailed):
            if damaged:
                link.blob(place).delete(if_generation_match=damaged, **link.options)
        raise Unavailable(f"{url} was stored {TRIES} times with another crc32c than sent; run the same command again")

    def _try_to_send(
        self, link: Link, place: Place, file: BinaryIO, wanted: tuple[int, str], match: int | None
    ) -> Stat | None:
        """Uploads a file; -> what is stored then, or None where the bytes were damaged on their way and refused."""
        from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed
        from google.cloud.storage.exceptions import DataCorruption

        blob, options = link.blob(place), link.options
        file.seek(0)
        try:
            blob.upload_from_file(file, size=wanted[0], checksum="crc32c", if_generation_match=match, **options)
        except (PreconditionFailed, NotFound):
            # The answer to an earlier try may have been lost: then what is there is ours.
            found = self.stat(place.url) if options["retry"].failed else None
            if not found or (found.size, found.crc32c) != wanted or found.version == str(match):
                raise
            return found
        except DataCorruption:
            return None
        except BadRequest as error:
            if not any(word in str(error).lower() for word in ("crc32c", "checksum", "hash")):
                raise
            return None
        return _stat(blob)

    @contextlib.contextmanager
    def _call(
        self, url: str, right: str, *, missing: str = "object", writes: bool = False
    ) -> Iterator[tuple[Link, Place]]:
        """The link and the place of a URL; turns the library's errors in the block into ours.

        right: what the block needs. missing: what a 404 means in it.
        """
        place = place_of(url)
        link = self._links.get(os.getpid())  # A forked process makes its own: two must not share a connection.
        if link is None:
            first = nobody(self._endpoint, self._patience, self._granted)
            with errors(first, place, right):
                link = first.retry(lambda: connect(url, self._endpoint, first))()
            link = self._links.setdefault(os.getpid(), link)
        if writes and link.anonymous:
            raise no_credentials(url)
        if writes and not place.name:
            raise SettingsError(f"{url} names a bucket and no object; write gs://bucket/name")
        with errors(link, place, right, missing=missing):
            yield link, place


def _hexadecimal(crc32c: str | None) -> str:
    """`yZRlqg==` -> `c99465aa`; "" where the storage gave none. RFC 3720's CRC-32C, as base64 of four bytes."""
    return base64.b64decode(crc32c).hex() if crc32c else ""


def _damaged(url: str) -> Unavailable:
    return Unavailable(f"{url} arrived {TRIES} times with another crc32c than stored; run the same command again")


def _stat(blob: Any) -> Stat:
    return Stat(blob.size, _hexadecimal(blob.crc32c), str(blob.generation))


class _Sink:
    """A file that counts and sums up what is written to it, and reports bytes beyond the first `told`."""

    def __init__(self, file: BinaryIO, progress: Progress | None, told: int) -> None:
        self._file = file
        self._progress = progress
        self._told = told
        self.size = 0
        self.crc = 0

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        self._file.write(data)
        self.crc = google_crc32c.extend(self.crc, data)
        self.size += len(data)
        if self._progress and self.size > self._told:
            self._progress(self.size - self._told)
            self._told = self.size
        return len(data)


class _Reader(io.RawIOBase):
    """One version of an object as a file. What is read from begin to end in order is verified at the end."""

    def __init__(self, store: Store, url: str, found: Stat) -> None:
        self._store = store
        self._url = url
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
        if end <= self._at:
            return 0
        try:
            data = self._store.read_range(self._url, self._at, end, self._found.version)
        except FileNotFoundError as error:
            raise Changed(f"{self._url} was replaced while it was read; run the same command again") from error
        target[: len(data)] = data
        self._verify(data)
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        rest = bytearray(max(0, self._found.size - self._at))  # In one request: io's own asks for 8 KiB at a time.
        return bytes(rest[: self.readinto(rest)])

    def _verify(self, data: bytes) -> None:
        if self._at != self._verified:
            return
        self._crc = google_crc32c.extend(self._crc, data)
        self._verified += len(data)
        if self._verified == self._found.size and self._found.crc32c not in {"", f"{self._crc:08x}"}:
            raise Unavailable(f"{self._url} arrived with another crc32c than stored; run the same command again")
