"""Objects of Google Cloud Storage; public buckets are read without credentials, an emulator needs none.

What may be tried again is: reading; writing under a precondition (a lost answer is recognised by reading back); and
writing or deleting without one, which comes out the same however often it is done.
"""

import contextlib
import functools
import io
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from boceto.errors import SettingsError
from boceto.stores import Changed, Entry, Progress, Sink, Stat, _gs_reading, _gs_writing
from boceto.stores import file as local
from boceto.stores._gs_errors import errors, no_credentials
from boceto.stores._gs_link import Link, Patience, Place, connect, nobody, place_of
from boceto.stores._gs_reading import Reader
from boceto.stores._gs_writing import Data, Put

_BUFFER = 8 << 20
_GET, _CREATE, _DELETE, _LIST = (f"storage.objects.{right}" for right in ("get", "create", "delete", "list"))


class Store:
    """The adapter. endpoint: where the storage is, if not where the library looks for it."""

    def __init__(self, patience: Patience | None = None, endpoint: str | None = None) -> None:
        self._patience = patience or Patience()
        self._endpoint = endpoint
        self._links: dict[int, Link] = {}
        self._granted: set[tuple[str, ...]] = set()  # By a process before it forks, too.

    def list(self, url: str) -> list[Entry]:
        link, folder = self._open(url.rstrip("/") + "/")
        with errors(link, folder, _LIST, missing="bucket"):
            found = link.client.list_blobs(
                link.bucket(folder.bucket),
                prefix=folder.name or None,
                fields="items(name,size),nextPageToken",
                retry=link.retry,
                timeout=link.timeout,
            )
            # A name that ends in a slash is a folder made in the console.
            entries = [Entry(Place(folder.bucket, blob.name).url, blob.size) for blob in found if blob.name[-1] != "/"]
        if not entries and folder.name and (alone := self.stat(url.rstrip("/"))):
            return [Entry(url.rstrip("/"), alone.size)]
        return sorted(entries)

    def stat(self, url: str) -> Stat | None:
        link, place = self._open(url)
        if not place.name:
            return None
        blob = link.blob(place)
        try:
            with errors(link, place, _GET):
                blob.reload(retry=link.retry, timeout=link.timeout)
        except FileNotFoundError:
            return None
        return _gs_reading.stat_of(blob)

    def open(self, url: str) -> BinaryIO:
        link, place = self._open(url)
        found = self.stat(url)
        if found is None:
            raise FileNotFoundError(f"{url} does not exist")
        return io.BufferedReader(Reader(link, place, found), _BUFFER)

    def read(self, url: str, start: int, end: int | None) -> bytes:
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        link, place = self._open(url)
        if end is not None and end <= start:
            return b""
        try:
            with errors(link, place, _GET):
                return _gs_reading.read_whole(link, place, start, end)[0]
        except SettingsError as error:
            if isinstance(error.__cause__, RequestRangeNotSatisfiable):
                return b""
            raise

    def stream(self, url: str, start: int, put: Sink) -> None:
        link, place = self._open(url)
        with errors(link, place, _GET):
            _gs_reading.stream(link, place, start, put)

    def versioned(self, url: str) -> tuple[bytes, str]:
        link, place = self._open(url)
        with errors(link, place, _GET):
            return _gs_reading.read_whole(link, place)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        self._open_to_write(url)
        with tempfile.NamedTemporaryFile(prefix="boceto-") as file:
            yield file  # type: ignore[misc]  # typeshed: the wrapper is a BinaryIO in all but name
            file.flush()
            self.upload(Path(file.name), url, None)

    def create(self, url: str, data: bytes) -> str:
        from google.api_core.exceptions import PreconditionFailed

        link, place = self._open_to_write(url)
        with errors(link, place, _CREATE, missing="bucket"):
            try:
                return Put(link, place, Data(data), "0").send()
            except PreconditionFailed:
                raise FileExistsError(f"{url} is there already") from None

    def replace(self, url: str, data: bytes, version: str) -> str:
        from google.api_core.exceptions import PreconditionFailed

        link, place = self._open_to_write(url)
        with errors(link, place, _CREATE, missing="bucket"):
            try:
                return Put(link, place, Data(data), version).send()
            except PreconditionFailed:
                raise Changed(f"{url} was changed by someone else") from None

    def upload(self, path: Path, url: str, progress: Progress | None) -> None:
        link, place = self._open_to_write(url)
        with errors(link, place, _CREATE, missing="bucket"):
            _gs_writing.upload(link, place, path, progress)

    def download(self, url: str, path: Path, progress: Progress | None) -> None:
        link, place = self._open(url)
        with errors(link, place, _GET), local.partial_file(path) as (partial, file):
            _gs_reading.download(link, place, file, progress)
            partial.replace(path)  # Not flushed to disk, which takes longer than the download: there is the original.

    def delete(self, url: str) -> None:
        link, place = self._open_to_write(url)
        with errors(link, place, _DELETE):
            _gs_writing.remove(link, place)

    def buffer(self, url: str) -> memoryview:
        link, place = self._open(url)
        with errors(link, place, _GET), tempfile.NamedTemporaryFile(prefix="boceto-") as file:
            _gs_reading.download(link, place, file, None)  # type: ignore[arg-type]  # as in `writing`
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _open(self, url: str) -> tuple[Link, Place]:
        """The process's link; a forked one makes its own, since two must not speak on one connection."""
        place = place_of(url)
        link = self._links.get(os.getpid())
        if link is None:
            first = nobody(self._endpoint, self._patience, self._granted)
            with errors(first, place, _GET):
                link = first.retry(functools.partial(connect, url, self._endpoint, first))()
            link = self._links.setdefault(os.getpid(), link)
        return link, place

    def _open_to_write(self, url: str) -> tuple[Link, Place]:
        link, place = self._open(url)
        if link.anonymous:
            raise no_credentials(url)
        if not place.name:
            raise SettingsError(f"{url} names a bucket and no object; write gs://bucket/name")
        return link, place
