"""Objects of Google Cloud Storage. Public buckets and emulators need no credentials.

The client library does every call, with our `Retry`. All calls may be tried again: a read changes nothing; a write with
a precondition recognises its own earlier try; a write or a delete without a precondition may happen twice. The library
does not verify a download that continued after a broken connection, nor an upload to an emulator, so this module does.
"""

import base64
import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c

from boceto.errors import SettingsError
from boceto.stores import Changed, DamagedTransfer, Entry, Stat, Unavailable
from boceto.stores._gs_connection import Connection, ObjectName, RetryLimits, anonymous_connection, connect, object_name
from boceto.stores._gs_errors import errors, no_credentials

TRIES = 3  # Of a small transfer whose bytes are damaged.
_BUFFER = 8 << 20
_CHUNK = 1 << 20
_GET, _CREATE, _DELETE, _LIST = (f"storage.objects.{right}" for right in ("get", "create", "delete", "list"))


class Store:
    """The adapter. endpoint: the address of the storage, if it is not the address that the library uses."""

    def __init__(self, limits: RetryLimits | None = None, endpoint: str | None = None) -> None:
        self._limits = limits or RetryLimits()
        self._endpoint = endpoint
        self._connections: dict[int, Connection] = {}
        self._granted: set[tuple[str, ...]] = set()  # A forked process inherits it.

    def list(self, url: str) -> list[Entry]:
        with self._call(url.rstrip("/") + "/", _LIST, missing="bucket") as (connection, folder):
            found = connection.client.list_blobs(
                connection.bucket(folder.bucket),
                prefix=folder.name or None,
                fields="items(name,size),nextPageToken",
                **connection.options,
            )
            # A name that ends in a slash is a folder made in the console.
            entries = [
                Entry(ObjectName(folder.bucket, blob.name).url, blob.size) for blob in found if blob.name[-1] != "/"
            ]
        if not entries and folder.name and (alone := self.stat(url.rstrip("/"))):
            return [Entry(url.rstrip("/"), alone.size)]
        return sorted(entries)

    def stat(self, url: str) -> Stat | None:
        try:
            with self._call(url, _GET) as (connection, target):
                if not target.name:
                    return None
                blob = connection.blob(target)
                blob.reload(**connection.options)
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
        """Returns the bytes from `start` to `end` (exclusive) of an object, or of one version of it."""
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        with self._call(url, _GET) as (connection, target):
            blob = connection.blob(target, version)
            last = None if end is None else end - 1
            try:
                data: bytes = blob.download_as_bytes(
                    start=start, end=last, raw_download=True, checksum=None, **connection.options
                )
            except RequestRangeNotSatisfiable:
                return b""
        return data

    def versioned(self, url: str) -> tuple[bytes, str]:
        for _ in range(TRIES):
            with self._call(url, _GET) as (connection, target):
                blob = connection.blob(target)
                data: bytes = blob.download_as_bytes(raw_download=True, checksum=None, **connection.options)
            if _hexadecimal(blob.crc32c) in {"", f"{google_crc32c.value(data):08x}"}:
                return data, str(blob.generation)
        raise _damaged(url)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        with self._call(url, _CREATE, writes=True):  # Missing credentials are an error before anything is written.
            pass
        with tempfile.NamedTemporaryFile(prefix="boceto-") as file:
            yield file  # type: ignore[misc]  # The wrapper has all methods of BinaryIO, but typeshed does not say so.
            self._send(url, file, None)  # type: ignore[arg-type]  # The same.

    def create(self, url: str, data: bytes) -> str:
        try:
            return self._send(url, io.BytesIO(data), 0)
        except Changed:
            raise FileExistsError(f"{url} is there already") from None

    def replace(self, url: str, data: bytes, version: str) -> str:
        return self._send(url, io.BytesIO(data), int(version))

    def delete(self, url: str) -> None:
        from google.api_core.exceptions import NotFound

        with self._call(url, _DELETE, writes=True) as (connection, target), contextlib.suppress(NotFound):
            connection.blob(target).delete(**connection.options)

    def _send(self, url: str, file: BinaryIO, match: int | None) -> str:
        """Writes the bytes of a file to an object, and returns its version.

        match: the version that the object must have; 0 if it must not exist; None for any.

        Raises:
            Changed: the object has another version.
            Unavailable: the stored bytes were not the sent bytes, three times.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        crc, size = 0, 0
        file.seek(0)
        while data := file.read(_CHUNK):
            crc, size = google_crc32c.extend(crc, data), size + len(data)
        damaged = None
        for _ in range(TRIES):
            with self._call(url, _CREATE, missing="bucket", writes=True) as (connection, target):
                found = self._try_to_send(connection, target, file, (size, f"{crc:08x}"), match)
            if found and (found.size, found.crc32c) == (size, f"{crc:08x}"):
                return found.version
            damaged = int(found.version) if found else damaged
            if match is not None:
                match = damaged or match  # The next try replaces the damaged object.
        with (
            self._call(url, _DELETE, writes=True) as (connection, target),
            contextlib.suppress(NotFound, PreconditionFailed),
        ):
            if damaged:
                connection.blob(target).delete(if_generation_match=damaged, **connection.options)
        raise Unavailable(f"{url} was stored {TRIES} times with another crc32c than sent; run the same command again")

    def _try_to_send(
        self, connection: Connection, target: ObjectName, file: BinaryIO, wanted: tuple[int, str], match: int | None
    ) -> Stat | None:
        """Uploads a file. Returns what is stored now, or None if the storage refused the bytes as damaged."""
        from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed
        from google.cloud.storage.exceptions import DataCorruption

        blob, options = connection.blob(target), connection.options
        file.seek(0)
        try:
            blob.upload_from_file(file, size=wanted[0], checksum="crc32c", if_generation_match=match, **options)
        except (PreconditionFailed, NotFound):
            # The answer to an earlier try may be lost. Then the stored object is ours.
            found = self.stat(target.url) if options["retry"].failed else None
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
    ) -> Iterator[tuple[Connection, ObjectName]]:
        """Yields (connection, object name) of a URL, and translates the library's errors in the block.

        right: the right that the block needs. missing: what an answer 404 means there: no "object" or no "bucket".
        """
        target = object_name(url)
        connection = self._connections.get(
            os.getpid()
        )  # Two processes must not share a connection, so a forked process makes its own.
        if connection is None:
            first = anonymous_connection(self._endpoint, self._limits, self._granted)
            with errors(first, target, right):
                connection = first.retry(lambda: connect(url, self._endpoint, first))()
            connection = self._connections.setdefault(os.getpid(), connection)
        if writes and connection.anonymous:
            raise no_credentials(url)
        if writes and not target.name:
            raise SettingsError(f"{url} names a bucket and no object; write gs://bucket/name")
        with errors(connection, target, right, missing=missing):
            yield connection, target


def _hexadecimal(crc32c: str | None) -> str:
    """Converts a CRC-32C (RFC 3720) from base64 to 8 hexadecimal digits: `yZRlqg==` -> `c99465aa`. None gives ""."""
    return base64.b64decode(crc32c).hex() if crc32c else ""


def _damaged(url: str) -> DamagedTransfer:
    return DamagedTransfer(f"{url} arrived with another crc32c than stored; run the same command again")


def _stat(blob: Any) -> Stat:
    return Stat(blob.size, _hexadecimal(blob.crc32c), str(blob.generation))


class _Reader(io.RawIOBase):
    """Reads one version of an object as a file. Reading it from begin to end verifies its checksum."""

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
        rest = bytearray(
            max(0, self._found.size - self._at)
        )  # One request. The readall of io asks for 8 KiB at a time.
        return bytes(rest[: self.readinto(rest)])

    def _verify(self, data: bytes) -> None:
        if self._at != self._verified:
            return
        self._crc = google_crc32c.extend(self._crc, data)
        self._verified += len(data)
        if self._verified == self._found.size and self._found.crc32c not in {"", f"{self._crc:08x}"}:
            raise _damaged(self._url)
