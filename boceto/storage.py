"""Where bytes live: a few verbs over URLs. Nothing else opens storage.

A URL is a path, `file://…`, `gs://…`, or `memory://…` (kept in this process: for tests and trials). Each verb finds its
adapter, one of `boceto.stores`, by the URL's scheme.
"""

import contextlib
import functools
import glob
import importlib
import os
import shutil
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from boceto import lookup, stores
from boceto.errors import PASSING, DataError, SettingsError
from boceto.stores import Changed, Entry, Progress, Stat, Store, Unavailable
from boceto.stores import file as local
from boceto.stores.file import local_path

__all__ = ["Changed", "Entry", "Progress", "Stat", "Unavailable"]

_CRC_CHUNK = 1 << 20


@functools.cache
def _of_scheme(scheme: str) -> Store:
    store: Store = importlib.import_module(f"boceto.stores.{scheme}").Store()
    return store


def schemes() -> set[str]:
    """What an URL may begin with."""
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
    """Whether `url` is a file or folder of this machine."""
    return "://" not in url or url.startswith("file://")


def join(url: str, *names: str) -> str:
    """The URL of `names` below the folder `url`.

    Raises:
        SettingsError: `url` is empty or a scheme alone, as a variable leaves that was not set.
    """
    folder = url.rstrip("/")
    if not url or (folder.endswith(":") and "://" in url):
        raise SettingsError(f"{url!r} names no folder; give one")
    return "/".join([folder, *names])


def parent(url: str) -> str:
    """The folder that the file or folder `url` is in."""
    return url.rstrip("/").rpartition("/")[0] or ("/" if url.startswith("/") else ".")


def below(folder: str, name: str) -> str:
    """The URL of a file that a manifest names: always one below the URL `folder`. A manifest may come from anywhere.

    Raises:
        DataError: the name is empty, absolute or an URL, or leads elsewhere by `..`, a backslash or an URL's signs.
    """
    if not {"", ".", ".."}.isdisjoint(name.split("/")) or set("\\%?#") & set(name) or not name.isprintable():
        raise DataError(f"{folder}: a manifest there names {name!r}, which is no file below it; make it anew")
    return join(folder, name)


def relative(url: str, folder: str) -> str:
    """What stands behind `folder` in `url`, for an URL out of `list_files(folder)`."""
    if is_local(folder):
        path, base = str(local_path(url)), str(local_path(folder))
        return path.rpartition("/")[2] if path == base else os.path.relpath(path, base)
    return url.removeprefix(folder.rstrip("/") + "/")


def list_files(url: str, *, linked: bool = False) -> list[Entry]:
    """All objects below the folder `url`, sorted; for the URL of one object, that one.

    With `linked`, what is behind linked folders of this machine too: for what only reads.
    """
    return local.list_linked(url) if linked and is_local(url) and url else _store(url).list(url)


def stat(url: str) -> Stat | None:
    """Size, checksum (where the storage knows it) and version of one object; None where there is none."""
    return _store(url).stat(url)


def exists(url: str) -> bool:
    """Whether there is something at `url`."""
    return stat(url) is not None


def open_file(url: str) -> BinaryIO:
    """A buffered reader of one object; raises FileNotFoundError where there is none."""
    return _store(url).open(url)


def read_bytes(url: str, start: int = 0, end: int | None = None) -> bytes:
    """The bytes of one object, or those from `start` to `end` (not included)."""
    return _store(url).read(url, start, end)


def read_versioned(url: str) -> tuple[bytes, str]:
    """The bytes of one small object, and the version that `replace_bytes` asks for."""
    return _store(url).versioned(url)


def buffer(url: str) -> memoryview:
    """The bytes of one object for random access, memory-mapped for local files."""
    return _store(url).buffer(url)


class Source:
    """One object for reads by position, from any thread. A local file is read by system calls, where a map would end
    the process if the file is cut off; it stays readable when its name is deleted.
    """

    def __init__(self, data: memoryview, descriptor: int = -1) -> None:
        self._data = data
        self._descriptor = descriptor
        self.size = len(data)
        if descriptor >= 0:
            self.size = os.fstat(descriptor).st_size
            weakref.finalize(self, os.close, descriptor)

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer where it ends before."""
        if self._descriptor < 0:
            return bytes(self._data[start : start + length])
        data = os.pread(self._descriptor, length, start)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), start + len(data))):
            data += more
        return data


def source(url: str) -> Source:
    """Opens one object for reads by position; raises FileNotFoundError where there is none."""
    if is_local(url):
        return Source(memoryview(b""), os.open(local.regular(local_path(url)), os.O_RDONLY | os.O_CLOEXEC))
    return Source(buffer(url))


def writing(url: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """A writer of one object, which appears whole when the block ends, or not at all."""
    return _store(url).writing(url)


def write_bytes(url: str, data: bytes) -> None:
    """Writes one object whole."""
    with writing(url) as file:
        file.write(data)


def create_bytes(url: str, data: bytes) -> str:
    """Writes one small object where there is none, and returns its version; raises FileExistsError where there is."""
    return _store(url).create(url, data)


def replace_bytes(url: str, data: bytes, version: str) -> str:
    """Writes one small object in place of its `version`; returns the new one's, or raises Changed if it has another."""
    return _store(url).replace(url, data, version)


def upload(path: Path, url: str) -> None:
    """Copies a local file to an object."""
    _store(url).upload(path, url)


def download(url: str, path: Path, progress: Progress | None = None) -> None:
    """Copies an object to a local file, which appears whole or not at all."""
    _store(url).download(url, path, progress)


def delete(url: str) -> None:
    """Removes one object; nothing happens where there is none."""
    _store(url).delete(url)


def delete_partials(url: str) -> None:
    """Removes what killed writers of the local file `url` left beside it; for its only writer. Elsewhere, a small
    object's writer leaves nothing.
    """
    if is_local(url):
        path = local_path(url)
        for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            partial.unlink(missing_ok=True)


def delete_folder(url: str) -> None:
    """Removes the folder `url` with everything below it; nothing happens where there is none."""
    for entry in list_files(url):
        delete(entry.url)
    if is_local(url) and local_path(url).is_dir() and not local_path(url).is_symlink():
        shutil.rmtree(local_path(url))


def check_lasting(url: str, setting: str) -> None:
    """Raises SettingsError, naming `setting`, where what is written at `url` cannot last. Touches nothing."""
    if url.startswith("memory://"):
        raise SettingsError(f"{setting} = {url} ends with this process; give a folder")


def check_writable(url: str, setting: str) -> None:
    """Raises SettingsError, naming `setting`, where no file can be made or removed in the folder `url`.

    Makes the folder. What may pass, as a full disk, is an OSError.
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
    """Whether, in the folder `url`, only the first of two creates one file. What is shared rests on it."""
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
    """Removes what folders the block has made on the way to the folder `url`, where they are empty at its end."""
    path = local_path(url).absolute() if is_local(url) else None
    missing = [folder for folder in (path, *path.parents) if not folder.exists()] if path else []
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def free_bytes(url: str) -> int | None:
    """How many bytes there is room for in the folder `url`, which need not be there; None where nobody knows."""
    if not is_local(url):
        return None
    path = local_path(url).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(there).free


def _probe(url: str) -> str:
    """A file that nobody else has."""
    return join(url, f".probe-{uuid.uuid4().hex}")


def local_folder(url: str) -> Path:
    """The folder of this machine at `url`, made if missing, for what only writes to folders (SavedModel, TensorBoard).

    Raises:
        SettingsError: `url` is not on this machine.
    """
    if not is_local(url):
        raise SettingsError(f"{url} is not on this machine; give a local folder")
    path = local_path(url)
    path.mkdir(parents=True, exist_ok=True)
    return path


def is_link(url: str) -> bool:
    """Whether it is a symbolic link of this machine."""
    return is_local(url) and local_path(url).is_symlink()


def replace_folder(source: Path, url: str) -> None:
    """Moves the finished local folder `source` to `url`, in place of what was there, which goes last."""
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
    """The CRC-32C of `data` as 8 hexadecimal digits."""
    crc = 0
    for at in range(0, len(data), _CRC_CHUNK):
        crc = google_crc32c.extend(crc, bytes(data[at : at + _CRC_CHUNK]))
    return f"{crc:08x}"


def checksum(url: str) -> tuple[int, str]:
    """The size and the crc32c of one object: the storage's own where it keeps one, else read."""
    found = stat(url)
    if found is None:
        raise FileNotFoundError(f"{url} does not exist")
    return found.size, found.crc32c or _read_crc32c(url)


def _read_crc32c(url: str) -> str:
    """As `crc32c`, read in pieces: cheaper than the pages of a memory map."""
    checksum = google_crc32c.Checksum()
    with open_file(url) as file:
        while chunk := file.read(_CRC_CHUNK):
            checksum.update(chunk)
    return checksum.hexdigest().decode()
