"""Objects in the memory of this process, for tests and trials."""

import contextlib
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

import google_crc32c

from boceto.stores import Changed, Entry, Stat


class Store:
    """The adapter. Each write has a new number as its version."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, str]] = {}
        self._versions = map(str, itertools.count(1))
        self._lock = threading.Lock()

    def list(self, url: str) -> list[Entry]:
        found = [key for key in list(self._objects) if key == url or key.startswith(url.rstrip("/") + "/")]
        return sorted(Entry(key, len(self._get(key)[0])) for key in found)

    def stat(self, url: str) -> Stat | None:
        if url not in self._objects:
            return None
        data, version = self._get(url)
        return Stat(len(data), f"{google_crc32c.value(data):08x}", version)

    def fetch(self, url: str, file: BinaryIO, progress: Callable[[int], None]) -> None:
        file.write(self._get(url)[0])
        progress(len(self._get(url)[0]))

    def read(self, url: str, start: int, end: int | None) -> bytes:
        return self._get(url)[0][start:end]

    def versioned(self, url: str) -> tuple[bytes, str]:
        return self._get(url)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        file = io.BytesIO()
        yield file
        with self._lock:
            self._put(url, file.getvalue())

    def create(self, url: str, data: bytes) -> str:
        with self._lock:
            if url in self._objects:
                raise FileExistsError(f"{url} is there already")
            return self._put(url, data)

    def replace(self, url: str, data: bytes, version: str) -> str:
        with self._lock:
            if url not in self._objects or self._objects[url][1] != version:
                raise Changed(f"{url} was changed by another writer")
            return self._put(url, data)

    def delete(self, url: str) -> None:
        self._objects.pop(url, None)

    def _get(self, url: str) -> tuple[bytes, str]:
        try:
            return self._objects[url]
        except KeyError:
            raise FileNotFoundError(f"{url} does not exist") from None

    def _put(self, url: str, data: bytes) -> str:
        version = next(self._versions)
        self._objects[url] = (bytes(data), version)
        return version
