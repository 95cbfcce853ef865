"""Files and folders of this machine."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from boceto.errors import SettingsError
from boceto.stores import Changed, Entry, Progress, Stat

_BUFFER = 1 << 18
_CHUNK = 1 << 20
_HERE, _NEW = -100, 1  # AT_FDCWD and RENAME_NOREPLACE of rename(2)
# What a file system answers that lacks an operation.
_LACKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
# The folders that this process, or the one that it was forked from, has written to.
_written: set[Path] = set()


def local_path(url: str) -> Path:
    """The path behind a path or a `file://` URL.

    Raises:
        SettingsError: the URL names another machine, as `file://data` does, or nothing.
    """
    if not url.startswith("file://"):
        return Path(url)
    host, slash, path = url.removeprefix("file://").partition("/")  # A file's name may hold `?` and `#`.
    if host not in {"", "localhost"} or not slash:
        raise SettingsError(f"{url} is no file of this machine; write file:///folder, or a path")
    return Path(slash + unquote(path))


def regular(path: Path) -> Path:
    """`path`, where a file or folder is.

    Raises:
        FileNotFoundError: there is nothing.
        SettingsError: it is a pipe, a device or a socket, which a reader could wait for without end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SettingsError(f"{path} is a pipe, a device or a socket; give a regular file or a folder")
    return path


class Store:
    """The adapter. A file is written under a name of its own beside its place, flushed, and moved there."""

    def list(self, url: str) -> list[Entry]:
        folder = local_path(url)
        if folder.is_file():
            return [Entry(str(folder), folder.stat().st_size)]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            regular(folder)
        return sorted(Entry(path, size) for path in _files(str(folder)) if (size := _size(path)) is not None)

    def stat(self, url: str) -> Stat | None:
        try:
            found = local_path(url).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(found.st_size, "", f"{found.st_ino}-{found.st_mtime_ns}")

    def open(self, url: str) -> BinaryIO:
        return regular(local_path(url)).open("rb", _BUFFER)

    def read(self, url: str, start: int, end: int | None) -> bytes:
        with self.open(url) as file:
            file.seek(start)
            return file.read(-1 if end is None else max(0, end - start))

    def versioned(self, url: str) -> tuple[bytes, str]:
        data = regular(local_path(url)).read_bytes()
        return data, _version(data)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        path = local_path(url)
        with partial_file(path) as (partial, file):
            yield file
            _to_disk(file)
            partial.replace(path)
            _folder_to_disk(path.parent)

    def create(self, url: str, data: bytes) -> str:
        path = local_path(url)
        with partial_file(path) as (partial, file):
            file.write(data)
            _to_disk(file)
            try:
                _make_new(partial, path)
            except FileExistsError:
                raise FileExistsError(f"{path} is there already") from None
            partial.unlink(missing_ok=True)
            _folder_to_disk(path.parent)
        return _version(data)

    def replace(self, url: str, data: bytes, version: str) -> str:
        path = local_path(url)
        with _locked(path.parent):
            try:
                unchanged = self.versioned(url)[1] == version
            except FileNotFoundError:
                unchanged = False
            if not unchanged:
                raise Changed(f"{path} was changed by someone else")
            with self.writing(url) as file:
                file.write(data)
        return _version(data)

    def upload(self, path: Path, url: str) -> None:
        with path.open("rb") as source, self.writing(url) as target:
            _copy(source, target, None)

    def download(self, url: str, path: Path, progress: Progress | None) -> None:
        with self.open(url) as source, self.writing(str(path)) as target:
            _copy(source, target, progress)

    def delete(self, url: str) -> None:
        local_path(url).unlink(missing_ok=True)

    def buffer(self, url: str) -> memoryview:
        with regular(local_path(url)).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            try:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except OSError:  # Some file systems map nothing.
                return memoryview(file.read())


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside `path` to write in, which is gone afterwards unless it was moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            note_written(path)
            yield partial, file
    finally:
        partial.unlink(missing_ok=True)


def note_written(path: Path) -> None:
    """Remembers that the folder of `path` could be written: see `was_written`."""
    _written.add(path.absolute().parent)


def was_written(path: str | bytes | int) -> bool:
    """Whether this process has written to the folder of `path`, or to one above it. Then a refusal may pass, as that of
    a file system that became read-only, and no other path is needed.
    """
    return not isinstance(path, int) and not _written.isdisjoint(Path(os.fsdecode(path)).absolute().parents)


def _make_new(partial: Path, path: Path) -> None:
    """Gives the whole file `partial` the name `path`, which nothing may have: of several that try, one does.

    By a hard link; where the file system has none, by a rename that replaces nothing; where it has neither, by a look
    and a rename under a lock, which only the processes of this machine see.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        if _renamed_new(partial, path):
            return
        with _locked(path.parent):
            if os.path.lexists(path):
                raise FileExistsError from None
            partial.replace(path)


def _renamed_new(partial: Path, path: Path) -> bool:
    """renameat2(2); False where the system or the file system lacks it."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_HERE, os.fsencode(partial), _HERE, os.fsencode(path), _NEW) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError
    return False


def lock(descriptor: int, path: Path, *, wait: bool = True) -> None:
    """Locks what stands at `path`, and is open as `descriptor`, for this process.

    Raises:
        BlockingIOError: another process has it locked, and `wait` is false.
        SettingsError: its file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _LACKS:
            raise
        raise SettingsError(
            f"{path}: its file system has no locks ({error.strerror}); give a folder on another one"
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time into the block."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    _sync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    """A new name lasts only when its folder has been flushed too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _LACKS:  # Some file systems leave it to themselves when.
            raise


def _copy(source: BinaryIO, target: BinaryIO, progress: Progress | None) -> None:
    while chunk := source.read(_CHUNK):
        target.write(chunk)
        if progress:
            progress(len(chunk))


def list_linked(url: str) -> list[Entry]:
    """As `Store.list`, with what is behind linked folders. Each folder is listed once, so that loops end."""
    folder = local_path(url)
    if not folder.is_dir():
        return Store().list(url)
    return sorted(Entry(path, size) for path in _files(str(folder), linked=True) if (size := _size(path)) is not None)


def _files(folder: str, *, linked: bool = False) -> Iterator[str]:
    """The files below `folder`."""
    tops, seen = [folder], set()
    for top in tops:  # It grows.
        for root, folders, names in os.walk(top, onerror=_not_gone):
            if linked:
                tops += sorted(filter(os.path.islink, (os.path.join(root, name) for name in folders)))  # noqa: PTH118
                found = os.stat(root)  # noqa: PTH116
                if (found.st_dev, found.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((found.st_dev, found.st_ino))
            yield from (os.path.join(root, name) for name in names)  # noqa: PTH118


def _not_gone(error: OSError) -> None:
    """A folder that is not there is empty; one that cannot be read must not look so."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _size(path: str) -> int | None:
    """The size of a file; None for a link to nowhere, or a file that has gone since its folder was listed."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path a file costs more than the call
    except FileNotFoundError:
        return None


def _version(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
