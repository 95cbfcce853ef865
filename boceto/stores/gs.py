"""Objects of Google Cloud Storage, for reading; public buckets need no credentials."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from boceto.errors import DataError, SettingsError
from boceto.stores import Entry, Progress, Stat

_SECONDS = 20.0


class Store:
    """The adapter."""

    @staticmethod
    def _bucket(url: str) -> tuple[Any, str]:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage as gcs

        try:
            client = gcs.Client()
        except (DefaultCredentialsError, OSError):
            client = gcs.Client.create_anonymous_client()
        parts = urlsplit(url, allow_fragments=False)
        return client.bucket(parts.netloc), parts.path.lstrip("/")

    def list(self, url: str) -> list[Entry]:
        bucket, prefix = self._bucket(url.rstrip("/") + "/")
        with _errors(url):
            return sorted(
                Entry(f"gs://{bucket.name}/{blob.name}", blob.size) for blob in bucket.list_blobs(prefix=prefix)
            )

    def open(self, url: str) -> BinaryIO:
        bucket, name = self._bucket(url)
        with _errors(url):
            blob = bucket.get_blob(name, retry=_retry())
        if blob is None:
            raise FileNotFoundError(f"{url} does not exist")
        reader: BinaryIO = blob.open("rb")
        return reader

    def stat(self, url: str) -> Stat | None:
        try:
            data = self.read(url, 0, None)
        except FileNotFoundError:
            return None
        return Stat(len(data), "", "")

    def read(self, url: str, start: int, end: int | None) -> bytes:
        with self.open(url) as file:
            return file.read()[start:end]

    def versioned(self, url: str) -> tuple[bytes, str]:
        raise _read_only(url)

    def writing(self, url: str) -> contextlib.AbstractContextManager[BinaryIO]:
        raise _read_only(url)

    def create(self, url: str, data: bytes) -> str:
        raise _read_only(url)

    def replace(self, url: str, data: bytes, version: str) -> str:
        raise _read_only(url)

    def upload(self, path: Path, url: str, progress: Progress | None) -> None:
        raise _read_only(url)

    def download(self, url: str, path: Path, progress: Progress | None) -> None:
        raise _read_only(url)

    def delete(self, url: str) -> None:
        raise _read_only(url)

    def buffer(self, url: str) -> memoryview:
        with self.open(url) as file:
            return memoryview(file.read())


def _read_only(url: str) -> SettingsError:
    return SettingsError(f"{url}: gs:// can only be read in this version; give a local folder")


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_SECONDS)


@contextlib.contextmanager
def _errors(url: str) -> Iterator[None]:
    from google.api_core.exceptions import GoogleAPIError
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPIError, RequestException) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"{url} cannot be read: {first}; check the bucket's name, the rights and the network"
        ) from error
