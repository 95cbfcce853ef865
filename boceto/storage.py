"""Files and folders by URL. All of the code opens storage through this module alone.

A URL is a path, `file://…`, `gs://…`, or `memory://…` (the memory of this process, for tests and trials). The scheme of
the URL chooses the adapter in `boceto.stores`.
"""

import contextlib
import errno
import functools
import glob
import importlib
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from boceto import lookup, stores
from boceto.errors import PASSING, DataError, SettingsError
from boceto.stores import Changed, Entry, Stat, Store, Unavailable
from boceto.stores import file as local
from boceto.stores.file import local_path

__all__ = ["Changed", "Entry", "Stat", "Unavailable"]

_CHUNK = 1 << 20


@functools.cache
def _of_scheme(scheme: str) -> Store:
    store: Store = importlib.import_module(f"boceto.stores.{scheme}").Store()
    return store


def schemes() -> set[str]:
    """Returns the schemes of URLs that have an adapter."""
    return set(lookup.names(stores.__name__))


def _store(url: str) -> Store:
    if not url:
        raise SettingsError("an empty path names nothing; give one")
    scheme, separator, _ = url.partition("://")
    if not separator:
        scheme = "file"
    if scheme not in schemes():
        raise SettingsError(f"{url}: unknown scheme {scheme!r}; use a path, file://, gs:// or memory://")
    return _of_scheme(scheme)


def is_local(url: str) -> bool:
    """Returns whether `url` is a file or folder of this machine."""
    return "://" not in url or url.startswith("file://")


def join(url: str, *names: str) -> str:
    """Returns the URL of `names` below the folder `url`.

    Raises:
        SettingsError: `url` is empty or only a scheme: a shell variable was probably not set.
    """
    folder = url.rstrip("/")
    if not url or (folder.endswith(":") and "://" in url):
        raise SettingsError(f"{url!r} names no folder; give one")
    return "/".join([folder, *names])


def parent(url: str) -> str:
    """Returns the folder that holds the file or folder `url`."""
    return url.rstrip("/").rpartition("/")[0] or ("/" if url.startswith("/") else ".")


def below(folder: str, name: str) -> str:
    """Returns the URL of the file `name`, which a manifest names. It is always below the URL `folder`.

    Raises:
        DataError: the name is empty, absolute or a URL, or contains `..`, a backslash or a special character of URLs.
    """
    if not {"", ".", ".."}.isdisjoint(name.split("/")) or set("\\%?#") & set(name) or not name.isprintable():
        raise DataError(f"{folder}: a manifest there names {name!r}, which is no file below it; make it anew")
    return join(folder, name)


def relative(url: str, folder: str) -> str:
    """Returns the part of `url` behind `folder`, for a URL from `list_files(folder)`."""
    if is_local(folder):
        path, base = str(local_path(url)), str(local_path(folder))
        return path.rpartition("/")[2] if path == base else os.path.relpath(path, base)
    return url.removeprefix(folder.rstrip("/") + "/")


def list_files(url: str, *, linked: bool = False) -> list[Entry]:
    """Returns all objects below the folder `url`, sorted. An object lists itself.

    linked: follow links to folders of this machine, for programs that only read.
    """
    return local.Store().list(url, linked=True) if linked and url and is_local(url) else _store(url).list(url)


def stat(url: str) -> Stat | None:
    """Returns size, checksum (if the storage keeps it) and version of one object, or None if it does not exist."""
    return _store(url).stat(url)


def exists(url: str) -> bool:
    """Returns whether the file or folder `url` exists."""
    return stat(url) is not None


def open_file(url: str) -> BinaryIO:
    """Returns a buffered reader of one object, or of a verified copy of it if the object is not on this machine.

    Raises:
        FileNotFoundError: there is no such object.
    """
    if is_local(url):
        return local.open_file(url)
    file = tempfile.TemporaryFile(prefix="boceto-")  # noqa: SIM115 - the caller closes it
    try:
        _store(url).fetch(url, file, lambda _: None)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def read_bytes(url: str, start: int = 0, end: int | None = None) -> bytes:
    """Returns the bytes of one object, or its bytes from `start` to `end` (exclusive)."""
    return _store(url).read(url, start, end)


def read_versioned(url: str) -> tuple[bytes, str]:
    """Returns the bytes of one small object, and the version that `replace_bytes` needs."""
    return _store(url).versioned(url)


class RandomAccess:
    """Reads one object by position, from any thread.

    A local file is read by system calls: a memory map would end the process if the file is cut. The file stays readable
    after its name is deleted. An object of other storage is held in memory.
    """

    def __init__(self, data: bytes, descriptor: int = -1) -> None:
        self._data = data
        self._descriptor = descriptor
        self.size = len(data)
        if descriptor >= 0:
            self.size = os.fstat(descriptor).st_size
            weakref.finalize(self, os.close, descriptor)

    def read(self, start: int, length: int) -> bytes:
        """Returns `length` bytes from `start` on, or fewer at the end of the object."""
        if self._descriptor < 0:
            return self._data[start : start + length]
        data = os.pread(self._descriptor, length, start)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), start + len(data))):
            data += more
        return data


def open_random(url: str) -> RandomAccess:
    """Opens one object for reads by position. Raises FileNotFoundError or IsADirectoryError if there is none."""
    if is_local(url):
        path = local.regular(local_path(url))
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return RandomAccess(b"", os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return RandomAccess(read_bytes(url))


def writing(url: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Returns a writer. The object appears whole when the block ends without an error, or not at all."""
    return _store(url).writing(url)


def write_bytes(url: str, data: bytes) -> None:
    """Writes one object. A reader sees all of its bytes or none."""
    with writing(url) as file:
        file.write(data)


def create_bytes(url: str, data: bytes) -> str:
    """Writes one new small object, and returns its version. Raises FileExistsError if it exists."""
    return _store(url).create(url, data)


def replace_bytes(url: str, data: bytes, version: str) -> str:
    """Replaces `version` of one small object, and returns the new version. Raises Changed if it has another version."""
    return _store(url).replace(url, data, version)


def upload(path: Path, url: str) -> None:
    """Copies a local file to an object. The object appears whole or not at all."""
    with path.open("rb") as source, writing(url) as target:
        shutil.copyfileobj(source, target, _CHUNK)


def download(url: str, path: Path, progress: Callable[[int], None] = lambda _: None) -> None:
    """Copies an object to a local file. A copy that fails is removed.

    progress: is called with the number of bytes that arrived; with a negative number before they are asked again. If it
    raises, the copy ends.

    Raises:
        FileNotFoundError: there is no such object.
        Unavailable: the storage does not answer, or the bytes arrived damaged three times.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w+b") as file:
            local.note_written(path)
            _store(url).fetch(url, file, progress)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def delete(url: str) -> None:
    """Removes one object, if it exists."""
    _store(url).delete(url)


def delete_partials(url: str) -> None:
    """Removes the temporary files that killed writers of the local file `url` left beside it.

    Only the single writer of the file may call this. Other storage keeps no temporary files.
    """
    if is_local(url):
        path = local_path(url)
        for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            partial.unlink(missing_ok=True)


def delete_folder(url: str) -> None:
    """Removes the folder `url` and everything below it, if it exists."""
    for entry in list_files(url):
        delete(entry.url)
    if is_local(url) and local_path(url).is_dir() and not local_path(url).is_symlink():
        shutil.rmtree(local_path(url))


def check_lasting(url: str, setting: str) -> None:
    """Raises SettingsError, naming `setting`, if files at `url` end with this process. Writes nothing."""
    if url.startswith("memory://"):
        raise SettingsError(f"{setting} = {url} ends with this process; give a folder")


def check_writable(url: str, setting: str) -> None:
    """Raises SettingsError, naming `setting`, if this process cannot make and remove files in the folder `url`.

    Makes the folder. A temporary fault, as a full disk, is an OSError.
    """
    check_lasting(url, setting)
    probe = _probe(url)
    try:
        write_bytes(probe, b"")
        delete(probe)
    except OSError as error:
        said = f"{setting} = {url} cannot be written: {error.strerror}"
        if error.errno in PASSING:
            raise OSError(error.errno, said) from error
        raise SettingsError(f"{said}; give another folder") from error
    except SettingsError as error:
        raise SettingsError(f"{setting} = {url} cannot be written: {error}") from error


def preconditions_honoured(url: str) -> bool:
    """Returns whether `create_bytes` in the folder `url` refuses a second writer. Leases and manifests depend on it."""
    probe = _probe(url)
    try:
        create_bytes(probe, b"first")
        create_bytes(probe, b"second")
    except FileExistsError:
        return True
    finally:
        delete(probe)
    return False


@contextlib.contextmanager
def as_found(url: str) -> Iterator[None]:
    """Removes the empty folders that the block has made on the path to the folder `url`."""
    path = local_path(url).absolute() if is_local(url) else None
    missing = [folder for folder in (path, *path.parents) if not folder.exists()] if path else []
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def free_bytes(url: str) -> int | None:
    """Returns the free bytes of the disk of the folder `url`, which need not exist. None in object storage."""
    if not is_local(url):
        return None
    path = local_path(url).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(there).free


def _probe(url: str) -> str:
    """Returns a name that no other process uses."""
    return join(url, f".probe-{uuid.uuid4().hex}")


def local_folder(url: str) -> Path:
    """Returns the folder of this machine at `url`, and makes it if missing. SavedModel and TensorBoard need a folder.

    Raises:
        SettingsError: `url` is not on this machine.
    """
    if not is_local(url):
        raise SettingsError(f"{url} is not on this machine; give a local folder")
    path = local_path(url)
    path.mkdir(parents=True, exist_ok=True)
    return path


def is_link(url: str) -> bool:
    """Returns whether `url` is a symbolic link of this machine."""
    return is_local(url) and local_path(url).is_symlink()


def replace_folder(source: Path, url: str) -> None:
    """Moves the finished local folder `source` to `url`. The old folder at `url` is removed last."""
    target = local_path(url)
    old = target.with_name(f"{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.replace(old)
    source.replace(target)
    if old.exists():
        shutil.rmtree(old)


def crc32c(data: bytes | memoryview) -> str:
    """Returns the CRC-32C of `data` as 8 hexadecimal digits."""
    crc = 0
    for at in range(0, len(data), _CHUNK):
        crc = google_crc32c.extend(crc, bytes(data[at : at + _CHUNK]))
    return f"{crc:08x}"


def checksum(url: str) -> tuple[int, str]:
    """Returns the size and the crc32c of one object. The object is read if its storage keeps no checksum."""
    found = stat(url)
    if found is None:
        raise FileNotFoundError(f"{url} does not exist")
    if found.crc32c:
        return found.size, found.crc32c
    crc = google_crc32c.Checksum()
    with open_file(url) as file:
        while chunk := file.read(_CHUNK):
            crc.update(chunk)
    return found.size, crc.hexdigest().decode()
