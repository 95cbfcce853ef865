"""Copies files of object storage to this machine once, whole and verified, for all its processes.

    CACHE/<data set digest>/<crc32c>-<name>             a verified copy
    CACHE/<data set digest>/<crc32c>-<name>.partial     locked by the process that downloads it, or left by a killed one

A copy gets its name when its size and checksum are the expected ones, and is never changed afterwards.
"""

import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from boceto import storage
from boceto.errors import DataError, SettingsError
from boceto.stores.file import local_path, lock, note_written, was_written

DEFAULT = "~/.cache/boceto"
THREADS = 8
_SAFE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
_CRC = re.compile(r"[0-9a-f]{8}")
_LOOK_SECONDS = 0.2
_LEAVE_SECONDS = 1.0
# The errors of a disk, a quota and a limit on files that are full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EROFS)


class File(NamedTuple):
    """A file to copy: its name, size in bytes and crc32c (8 hexadecimal digits).

    verify: every byte of a copy that is there is always checked.
    """

    name: str
    size: int
    crc32c: str
    verify: bool = False


@dataclass(frozen=True)
class Cache:
    """A folder for copies. setting: its name in errors. progress: `Console.progress`, called by the caller's thread.

    An error of `progress` ends the copying; finished copies stay.
    """

    folder: Path
    setting: str
    progress: Callable[..., None]

    def stage(self, url: str, key: str, files: Sequence[File], *, verify: bool = True) -> list[Path]:
        """Copies `files`, which are in the folder `url`, unless they are in the cache; returns the paths of the copies.

        Copies of the same `key` are shared by all processes. With `verify`, every byte of the copies that are there is
        checked, and damaged copies are replaced; without, only their sizes are checked, but for files with `verify`.

        Raises:
            SettingsError: the cache cannot be written, or its disk has too little room.
            DataError: a file is missing in `url`, or is not the expected one.
            OSError: the disk became full.
            Unavailable: the storage does not answer.
        """
        for file in files:
            if not (_SAFE.fullmatch(file.name) and _CRC.fullmatch(file.crc32c) and _SAFE.fullmatch(key)):
                raise DataError(f"{url} lists {file.name!r} with crc32c {file.crc32c!r}, which is no name of a file")
        with self._explained():
            transfer = _Transfer(url, self.folder / key, verify=verify)
            transfer.folder.mkdir(parents=True, exist_ok=True)
            needed = sum(file.size for file in files if not transfer.has_size(file))
            if needed > (free := shutil.disk_usage(self.folder).free):
                raise SettingsError(
                    f"{self.setting} = {self.folder} has {free:,} bytes free, {needed:,} more are needed for the copy "
                    f"of {url}; make room, or give another {_flag(self.setting)}"
                )
            transfer.run(files, self.progress)
        return [transfer.path(file) for file in files]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds the setting and the remedy to the errors of the cache's own folder."""
        try:
            yield
        except OSError as error:
            place, remedy = f"{self.setting} = {self.folder}", f"give another {_flag(self.setting)}"
            if error.errno in _FULL:
                raise OSError(
                    error.errno, f"{place} is full; make room, or {remedy}; copies that are whole are kept"
                ) from error
            if error.errno in _REFUSED and not was_written(error.filename or str(self.folder)):
                raise SettingsError(f"{place} cannot be written: {error.strerror}; {remedy}") from error
            raise


def cache(folder: str, setting: str, progress: Callable[..., None]) -> Cache:
    """Returns the cache in `folder`, where `~` is the home folder. Touches nothing.

    Raises:
        SettingsError: `folder` is empty or not on this machine, or the home folder is unknown.
    """
    if not folder or not storage.is_local(folder):
        raise SettingsError(f"{setting} = {folder!r} is no folder of this machine; give one")
    try:
        return Cache(local_path(folder).expanduser().absolute(), setting, progress)
    except RuntimeError as error:
        raise SettingsError(f"{setting} = {folder}: {error}; give another {_flag(setting)}") from error


def _flag(setting: str) -> str:
    """`train.cache_dir` -> `--cache-dir`."""
    return "--" + setting.rpartition(".")[2].replace("_", "-")


class _Cancelled(Exception):  # noqa: N818 - it is no error
    """Another thread has failed, or the caller has ended the copying."""


class _Transfer:
    """One call of `stage`: threads that copy a file each, and the caller's thread, which waits and reports."""

    def __init__(self, url: str, folder: Path, *, verify: bool) -> None:
        self.folder = folder
        self._url = url
        self._verify = verify
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._bytes, self._doing = 0, "checking the copy of"

    def path(self, file: File) -> Path:
        """Returns the path of a copy."""
        return self.folder / f"{file.crc32c}-{file.name}"

    def has_size(self, file: File) -> bool:
        """Returns whether there is a copy of the right size."""
        path = self.path(file)
        return path.exists() and path.stat().st_size == file.size

    def run(self, files: Sequence[File], progress: Callable[..., None]) -> None:
        """Copies the files, and raises the first error. After an error it does not wait for a silent storage."""
        total = sum(file.size for file in files)
        pool = ThreadPoolExecutor(THREADS, "staging")
        pending = {pool.submit(self._bring, file) for file in files}
        try:
            while pending:
                done, pending = wait(pending, _LOOK_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress(f"{self._doing} {self._url}", self._bytes / 1e6, total / 1e6, "MB")
        except BaseException:
            self._cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
            wait(pending, _LEAVE_SECONDS)
            raise
        pool.shutdown()

    def _bring(self, file: File) -> None:
        partial = self.path(file).with_name(f"{self.path(file).name}.partial")
        if not self._is_whole(file):
            with self._locked(partial):
                try:
                    if not self._is_whole(file):  # Else another process has made the copy meanwhile.
                        self._download(file, partial)
                        return
                finally:
                    partial.unlink(missing_ok=True)
        self._count(file.size)

    def _is_whole(self, file: File) -> bool:
        if not self.has_size(file):
            return False
        return not (self._verify or file.verify) or storage.checksum(str(self.path(file)))[1] == file.crc32c

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Lets one process at a time write a file. The lock of a process that was killed is free."""
        while True:
            with contextlib.closing(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")) as file:
                note_written(path)
                is_ours = False
                with contextlib.suppress(BlockingIOError, FileNotFoundError):
                    lock(file.fileno(), path, wait=False)
                    is_ours = os.path.samestat(os.fstat(file.fileno()), path.stat())  # Else it has become the copy.
                if is_ours:
                    yield
                    return
            self._doing = "another process copies"
            if self._cancelled.wait(_LOOK_SECONDS):
                raise _Cancelled

    def _download(self, file: File, partial: Path) -> None:
        url = storage.join(self._url, file.name)
        try:
            storage.download(url, partial, self._arrived)
        except FileNotFoundError:
            raise DataError(f"{url} is missing; prepare it again with --overwrite") from None
        found = storage.checksum(str(partial))
        if found != (file.size, file.crc32c):
            raise DataError(
                f"{url} is damaged: it has {found[0]} bytes with crc32c {found[1]}, its manifest says {file.size} "
                f"bytes with {file.crc32c}; prepare it again with --overwrite"
            )
        partial.replace(self.path(file))

    def _arrived(self, count: int) -> None:
        if self._cancelled.is_set():
            raise _Cancelled
        self._doing = "copying"
        self._count(count)

    def _count(self, count: int) -> None:
        with self._lock:
            self._bytes += count
