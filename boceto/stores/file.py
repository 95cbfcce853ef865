"""The files and folders of this machine."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from boceto.errors import SettingsError
from boceto.stores import Changed, Entry, Stat

_BUFFER = 1 << 18
# The errors of a file system without an operation.
_LACKS = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
# The folders that this process, or its parent before a fork, has written to.
_written: set[Path] = set()


def local_path(url: str) -> Path:
    """Returns the path of a path or a `file://` URL.

    Raises:
        SettingsError: the URL names another machine, as `file://data` does, or no file.
    """
    if not url.startswith("file://"):
        return Path(url)
    host, slash, path = url.removeprefix("file://").partition("/")  # A file's name may hold `?` and `#`.
    if host not in {"", "localhost"} or not slash:
        raise SettingsError(f"{url} is no file of this machine; write file:///folder, or a path")
    return Path(slash + unquote(path))


def regular(path: Path) -> Path:
    """Returns `path` if it is a file or a folder.

    Raises:
        FileNotFoundError: it does not exist.
        SettingsError: it is a pipe, a device or a socket. A reader could wait for it without end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SettingsError(f"{path} is a pipe, a device or a socket; give a regular file or a folder")
    return path


class Store:
    """The adapter. It writes a file under a temporary name in the same folder, flushes it, and renames it."""

    def list(self, url: str, *, linked: bool = False) -> list[Entry]:
        """Returns the files below a folder. linked: links to folders are followed."""
        folder = local_path(url)
        if folder.is_file():
            return [Entry(str(folder), folder.stat().st_size)]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            regular(folder)
        return sorted(
            Entry(path, size) for path in _files(str(folder), linked=linked) if (size := _size(path)) is not None
        )

    def stat(self, url: str) -> Stat | None:
        try:
            found = local_path(url).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(found.st_size, "", f"{found.st_ino}-{found.st_mtime_ns}")

    def fetch(self, url: str, file: BinaryIO, progress: Callable[[int], None]) -> None:
        with open_file(url) as source:
            while chunk := source.read(_BUFFER):
                file.write(chunk)
                progress(len(chunk))

    def read(self, url: str, start: int, end: int | None) -> bytes:
        with open_file(url) as file:
            file.seek(start)
            return file.read(-1 if end is None else max(0, end - start))

    def versioned(self, url: str) -> tuple[bytes, str]:
        data = regular(local_path(url)).read_bytes()
        return data, _version(data)

    @contextlib.contextmanager
    def writing(self, url: str) -> Iterator[BinaryIO]:
        with _new_file(local_path(url), Path.replace) as file:
            yield file

    def create(self, url: str, data: bytes) -> str:
        with _new_file(local_path(url), _make_new) as file:
            file.write(data)
        return _version(data)

    def replace(self, url: str, data: bytes, version: str) -> str:
        path = local_path(url)
        with _locked(path.parent):
            try:
                unchanged = self.versioned(url)[1] == version
            except FileNotFoundError:
                unchanged = False
            if not unchanged:
                raise Changed(f"{path} was changed by another process")
            with self.writing(url) as file:
                file.write(data)
        return _version(data)

    def delete(self, url: str) -> None:
        local_path(url).unlink(missing_ok=True)


def open_file(url: str) -> BinaryIO:
    """Returns a buffered reader of one file."""
    return regular(local_path(url)).open("rb", _BUFFER)


@contextlib.contextmanager
def _new_file(path: Path, give_name: Callable[[Path, Path], object]) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`. `give_name` names it `path` when the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            note_written(path)
            yield file
            file.flush()
            _sync(file.fileno())
            give_name(partial, path)
            with _descriptor(path.parent) as folder:  # A new name is lasting only after that.
                _sync(folder)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # As of a full disk.
    finally:
        partial.unlink(missing_ok=True)


def note_written(path: Path) -> None:
    """Remembers that this process has written to the folder of `path`: see `was_written`."""
    _written.add(path.absolute().parent)


def was_written(path: str | bytes | int) -> bool:
    """Returns whether this process has written to the folder of `path`, or to a folder above it.

    If it has, a later refusal can be temporary (a file system became read-only), and the path itself is right.
    """
    return not isinstance(path, int) and not _written.isdisjoint(Path(os.fsdecode(path)).absolute().parents)


def _make_new(partial: Path, path: Path) -> None:
    """Gives the whole file `partial` the name `path`, if that name is free. Of several processes, one succeeds.

    A file system without hard links gets a lock, which only the processes of this machine see.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise FileExistsError(f"{path} is there already") from None
    except OSError:
        with _locked(path.parent):
            if os.path.lexists(path):
                raise FileExistsError(f"{path} is there already") from None
            partial.replace(path)


def lock(descriptor: int, path: Path, *, wait: bool = True) -> None:
    """Locks the file or folder `path`, open as `descriptor`, for this process.

    Raises:
        BlockingIOError: another process has locked it, and `wait` is false.
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
    """Lets one process at a time run the block."""
    with _descriptor(folder) as descriptor:
        lock(descriptor, folder)
        yield


@contextlib.contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _LACKS:  # Some file systems choose the time themselves.
            raise


def _files(folder: str, *, linked: bool) -> Iterator[str]:
    """Yields the paths of the files below `folder`. linked: each folder is read once, so that loops of links end."""
    seen = set()
    for root, folders, names in os.walk(folder, onerror=_not_gone, followlinks=linked):
        if linked:
            place = _place(root)
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
        folders.sort()
        yield from (os.path.join(root, name) for name in names)  # noqa: PTH118 - the same


def _place(folder: str) -> tuple[int, int] | None:
    """Returns the device and the inode of a folder, or None if it was removed meanwhile."""
    try:
        found = os.stat(folder)  # noqa: PTH116 - a Path a file costs more than the call
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _not_gone(error: OSError) -> None:
    """Raises the error of a folder that cannot be read. A missing folder counts as empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _size(path: str) -> int | None:
    """Returns the size of a file, or None if the file is a broken link or was removed meanwhile."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a Path a file costs more than the call
    except FileNotFoundError:
        return None


def _version(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
