"""Where bytes live: a few verbs over URLs. The only module that opens storage.

A URL is a path, `file://…`, `memory://…` (kept in this process: for tests and trials) or `gs://…` (read only so far).
Each verb finds its adapter by the URL's scheme.
"""

import contextlib
import io
import mmap
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import google_crc32c

from boceto.errors import DataError, SettingsError

_CRC_CHUNK = 1 << 20
_BUFFER = 1 << 18
_GCS_SECONDS = 20.0


@dataclass(frozen=True, order=True)
class Entry:
    """One stored object: its URL and size in bytes."""

    url: str
    size: int


class Adapter(Protocol):
    """What a kind of storage must do. Writes are whole: a reader sees the old bytes or the new, never a part."""

    def list(self, url: str) -> list[Entry]:
        """All objects below the folder `url`, sorted by URL; none where there is no such folder."""

    def open(self, url: str) -> BinaryIO:
        """A buffered reader of one object.

        Raises:
            FileNotFoundError: there is none.
        """

    def writing(self, url: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A writer whose bytes become the object when the block ends without an error."""

    def delete(self, url: str) -> None:
        """Removes one object; nothing happens where there is none."""

    def buffer(self, url: str) -> memoryview:
        """The object's bytes for random access, mapped where the storage allows it."""


class LocalFiles:
    """Files and folders of this machine."""

    def list(self, url: str) -> list[Entry]:
        folder = _local_path(url)
        if folder.is_file():
            return [Entry(str(folder), folder.stat().st_size)]
        files = (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)  # noqa: PTH118 - many
        return sorted(Entry(path, size) for path in files if (size := _size(path)) is not None)

    def open(self, url: str) -> BinaryIO:
        return _local_path(url).open("rb", _BUFFER)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        path = _local_path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def delete(self, url: str) -> None:
        _local_path(url).unlink(missing_ok=True)

    def buffer(self, url: str) -> memoryview:
        with _local_path(url).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Memory:
    """Objects kept in this process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def list(self, url: str) -> list[Entry]:
        found = (key for key in self._objects if key == url or key.startswith(url.rstrip("/") + "/"))
        return sorted(Entry(key, len(self._objects[key])) for key in found)

    def open(self, url: str) -> BinaryIO:
        if url not in self._objects:
            raise FileNotFoundError(f"{url} does not exist")
        return io.BytesIO(self._objects[url])

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        file = io.BytesIO()
        yield file
        self._objects[url] = file.getvalue()

    def delete(self, url: str) -> None:
        self._objects.pop(url, None)

    def buffer(self, url: str) -> memoryview:
        return memoryview(self.open(url).read())


class GoogleCloud:
    """Objects of Google Cloud Storage, for reading; public buckets need no credentials."""

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
        with _gcs_errors(url):
            return sorted(
                Entry(f"gs://{bucket.name}/{blob.name}", blob.size) for blob in bucket.list_blobs(prefix=prefix)
            )

    def open(self, url: str) -> BinaryIO:
        bucket, name = self._bucket(url)
        with _gcs_errors(url):
            blob = bucket.get_blob(name, retry=_gcs_retry())
        if blob is None:
            raise FileNotFoundError(f"{url} does not exist")
        reader: BinaryIO = blob.open("rb")
        return reader

    def writing(self, url: str) -> contextlib.AbstractContextManager[BinaryIO]:
        raise _read_only(url)

    def delete(self, url: str) -> None:
        raise _read_only(url)

    def buffer(self, url: str) -> memoryview:
        with self.open(url) as file:
            return memoryview(file.read())


def _read_only(url: str) -> SettingsError:
    return SettingsError(f"{url}: gs:// can only be read in this version; give a local folder")


def _gcs_retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_GCS_SECONDS)


@contextlib.contextmanager
def _gcs_errors(url: str) -> Iterator[None]:
    from google.api_core.exceptions import GoogleAPIError
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPIError, RequestException) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"{url} cannot be read: {first}; check the bucket's name, the rights and the network"
        ) from error


def _size(path: str) -> int | None:
    """The size of a file; None for a link to nowhere, or a file that has gone since its folder was listed."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path a file costs more than the call
    except FileNotFoundError:
        return None


_MEMORY = Memory()
_LOCAL = LocalFiles()
_GCS = GoogleCloud()


def _local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path)) if url.startswith("file://") else Path(url)


def _adapter(url: str) -> Adapter:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return _LOCAL
    if scheme == "memory":
        return _MEMORY
    if scheme == "gs":
        return _GCS
    raise SettingsError(f"{url}: unknown scheme {scheme!r}; use a path, file://, gs:// or memory://")


def join(url: str, *names: str) -> str:
    """The URL of `names` below the folder `url`."""
    return "/".join([url.rstrip("/") if url != "/" else "", *names])


def relative(url: str, folder: str) -> str:
    """What stands behind `folder` in `url`, for an URL out of `list_files(folder)`."""
    if _adapter(folder) is _LOCAL:
        path, base = str(_local_path(url)), str(_local_path(folder))
        return path.rpartition("/")[2] if path == base else os.path.relpath(path, base)
    return url.removeprefix(folder.rstrip("/") + "/")


def list_files(url: str) -> list[Entry]:
    """All objects below the folder `url`, sorted; for the URL of one object, that one."""
    return _adapter(url).list(url)


def open_file(url: str) -> BinaryIO:
    """A buffered reader of one object; raises FileNotFoundError where there is none."""
    return _adapter(url).open(url)


def writing(url: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """A writer of one object, which appears whole when the block ends, or not at all."""
    return _adapter(url).writing(url)


def delete(url: str) -> None:
    """Removes one object; nothing happens where there is none."""
    _adapter(url).delete(url)


def buffer(url: str) -> memoryview:
    """The bytes of one object for random access, memory-mapped for local files."""
    return _adapter(url).buffer(url)


def exists(url: str) -> bool:
    """Whether there is an object at `url`."""
    try:
        open_file(url).close()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def read_bytes(url: str) -> bytes:
    """The bytes of one object."""
    with open_file(url) as file:
        return file.read()


def write_bytes(url: str, data: bytes) -> None:
    """Writes one object whole."""
    with writing(url) as file:
        file.write(data)


def check_lasting(url: str, setting: str) -> None:
    """Raises SettingsError, naming `setting`, where what is written at `url` cannot last. Touches nothing."""
    if _adapter(url) is _GCS:
        raise _read_only(url)
    if _adapter(url) is _MEMORY:
        raise SettingsError(f"{setting} = {url} ends with this process; give a folder")


def check_writable(url: str, setting: str) -> None:
    """Raises SettingsError, naming `setting`, where no file can be made in the folder `url`. Makes the folder."""
    check_lasting(url, setting)
    probe = join(url, ".writable")
    try:
        write_bytes(probe, b"")
        delete(probe)
    except OSError as error:
        raise SettingsError(f"{setting} = {url} cannot be written: {error.strerror}; give another folder") from error


def local_folder(url: str) -> Path:
    """The folder of this machine at `url`, made if missing, for what only writes to folders (SavedModel, TensorBoard).

    Raises:
        SettingsError: `url` is not on this machine.
    """
    if _adapter(url) is not _LOCAL:
        raise SettingsError(f"{url} is not on this machine; give a local folder")
    path = _local_path(url)
    path.mkdir(parents=True, exist_ok=True)
    return path


def replace_folder(source: Path, url: str) -> None:
    """Moves the finished local folder `source` to `url`, in place of what was there, which goes last."""
    target = _local_path(url)
    old = target.with_name(f"{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.replace(old)
    source.replace(target)
    if old.exists():
        shutil.rmtree(old)


def delete_folder(url: str) -> None:
    """Removes the folder `url` with everything below it; nothing happens where there is none."""
    for entry in list_files(url):
        delete(entry.url)
    if _adapter(url) is _LOCAL and _local_path(url).is_dir() and not _local_path(url).is_symlink():
        shutil.rmtree(_local_path(url))


def crc32c(data: bytes | memoryview) -> str:
    """The CRC-32C of `data` as 8 hexadecimal digits."""
    crc = 0
    for at in range(0, len(data), _CRC_CHUNK):
        crc = google_crc32c.extend(crc, bytes(data[at : at + _CRC_CHUNK]))
    return f"{crc:08x}"
