"""Copies files of object storage to this machine once, whole and verified, for all its processes.

    CACHE/<data set digest>/<crc32c>-<name>             a verified copy
    CACHE/<data set digest>/<crc32c>-<name>.lock        locked by the process that makes the copy
    CACHE/<data set digest>/<crc32c>-<name>.partial*    what a download that was killed has left

A copy gets its name when its size and checksum are the expected ones, and is never changed afterwards.
"""

import contextlib
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
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
# What a disk, a quota and a limit on files say when they are full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class File(NamedTuple):
    """What is to be brought: its name, size in bytes and crc32c (8 hexadecimal digits)."""

    name: str
    size: int
    crc32c: str


@dataclass(frozen=True)
class Cache:
    """A folder for copies. `setting` is what errors call it, `tell` is told how far things are, in this thread.

    What `tell` raises ends the copying; what is there stays.
    """

    folder: Path
    setting: str
    tell: Callable[..., None]

    def stage(self, url: str, key: str, files: Sequence[File], *, verify: bool = True) -> list[Path]:
        """Copies `files`, which are in the folder `url`, unless they are in the cache; returns the paths of the copies.

        Copies of the same `key` are shared by all processes. With `verify`, every byte of the copies that are there is
        checked, and damaged copies are replaced; without, only their sizes are checked.

        Raises:
            SettingsError: the cache cannot be written, or its disk has too little room.
            DataError: a file is missing in `url`, or is not the expected one.
            OSError: the disk became full.
            Unavailable: the storage does not answer.
        """
        for file in files:
            if not (_SAFE.fullmatch(file.name) and _CRC.fullmatch(file.crc32c) and _SAFE.fullmatch(key)):
                raise DataError(f"{url} lists {file.name!r} with crc32c {file.crc32c!r}, which is no name of a file")
        folder = self.folder / key
        transfer = _Transfer(url, folder, verify=verify)
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            self._check_room(url, sum(file.size for file in files if not transfer.is_there(file)))
            transfer.run(files, self.tell)
        return [transfer.place(file) for file in files]

    def _check_room(self, url: str, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise SettingsError(
                f"{self.setting} = {self.folder} has {free:,} bytes free, {needed:,} more are needed for the copy of "
                f"{url}; make room, or give another {_flag(self.setting)}"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what to do where the cache's own folder fails."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise OSError(
                    error.errno,
                    f"{self.setting} = {self.folder} is full; make room, or give another {_flag(self.setting)}; "
                    "copies that are whole are kept",
                ) from error
            refused = isinstance(error, PermissionError | NotADirectoryError | FileExistsError)
            if (refused or error.errno == errno.EROFS) and not was_written(error.filename or str(self.folder)):
                raise SettingsError(
                    f"{self.setting} = {self.folder} cannot be written: {error.strerror}; "
                    f"give another {_flag(self.setting)}"
                ) from error
            raise


def cache(folder: str, setting: str, tell: Callable[..., None]) -> Cache:
    """The cache in `folder`, where `~` is the home folder. Touches nothing.

    Raises:
        SettingsError: `folder` is empty or not on this machine, or nobody knows the home folder.
    """
    if not folder or not storage.is_local(folder):
        raise SettingsError(f"{setting} = {folder!r} is no folder of this machine; give one")
    try:
        return Cache(local_path(folder).expanduser().absolute(), setting, tell)
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
        self._url = url
        self._folder = folder
        self._verify = verify
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._done, self._fetched, self._waiting = 0, 0, 0  # Bytes, bytes, threads.

    def place(self, file: File) -> Path:
        """The path of a copy."""
        return self._folder / f"{file.crc32c}-{file.name}"

    def is_there(self, file: File) -> bool:
        """Returns whether there is a copy of the right size."""
        place = self.place(file)
        return place.exists() and place.stat().st_size == file.size

    def run(self, files: Sequence[File], tell: Callable[..., None]) -> None:
        """Copies the files; raises the first error.

        The threads are daemons: a caller that ends does not wait for a storage that is silent.
        """
        total = sum(file.size for file in files)
        tasks = [(Future[None](), file) for file in files]
        waiting, pending = iter(tasks), {future for future, _ in tasks}
        threads = [
            threading.Thread(target=self._work, args=(waiting,), name="staging", daemon=True) for _ in files[:THREADS]
        ]
        for thread in threads:
            thread.start()
        try:
            while pending:
                done, pending = wait(pending, _LOOK_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                tell(self._doing(), self._done / 1e6, total / 1e6, "MB")
        except BaseException:
            self._cancelled.set()
            until = time.monotonic() + _LEAVE_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            raise

    def _work(self, waiting: Iterator[tuple[Future[None], File]]) -> None:
        while not self._cancelled.is_set():
            with self._lock:
                future, file = next(waiting, (None, None))
            if not future or not file:
                return
            try:
                self._bring(file)
                future.set_result(None)
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                future.set_exception(error)

    def _doing(self) -> str:
        waits = "another process copies" if self._waiting else "checking the copy of"
        return f"{'copying' if self._fetched else waits} {self._url}"

    def _bring(self, file: File) -> None:
        if not self._is_whole(file):
            with self._locked(file):
                if not self._is_whole(file):  # Another process may have made the copy meanwhile.
                    self._fetch(file)
                    return
        self._count(file.size)

    def _is_whole(self, file: File) -> bool:
        return self.is_there(file) and (not self._verify or storage.checksum(str(self.place(file)))[1] == file.crc32c)

    @contextlib.contextmanager
    def _locked(self, file: File) -> Iterator[None]:
        """Lets one process at a time make a copy. The lock of a process that is killed is free."""
        path = self._folder / f"{self.place(file).name}.lock"
        with contextlib.ExitStack() as waits:
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                note_written(path)
                if _take(descriptor, path):
                    break
                os.close(descriptor)
                if not self._waiting:
                    waits.enter_context(self._while_waiting())
                if self._cancelled.wait(_LOOK_SECONDS):
                    raise _Cancelled
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # Those who wait for this file see that it is no longer there.
            os.close(descriptor)

    @contextlib.contextmanager
    def _while_waiting(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _fetch(self, file: File) -> None:
        url, place = storage.join(self._url, file.name), self.place(file)
        partial = place.with_name(f"{place.name}.partial")
        for path in self._folder.glob(f"{partial.name}*"):  # Of a process that was killed.
            path.unlink()
        found = storage.stat(url)
        if found is None:
            raise DataError(f"{url} is missing; prepare it again with --overwrite")
        if found.size != file.size:
            raise self._damaged(url, file, f"it has {found.size} bytes")
        if found.crc32c not in {"", file.crc32c}:
            raise self._damaged(url, file, f"its checksum is {found.crc32c}")
        try:
            storage.download(url, partial, self._fetched_more)
            checksum = storage.checksum(str(partial))[1]  # Another object may have come since `stat`.
            if checksum != file.crc32c:
                raise self._damaged(url, file, f"its checksum is {checksum}")
            partial.replace(place)
        except FileNotFoundError:
            raise DataError(f"{url} is missing; prepare it again with --overwrite") from None
        finally:
            partial.unlink(missing_ok=True)

    @staticmethod
    def _damaged(url: str, file: File, what: str) -> DataError:
        return DataError(
            f"{url} is damaged: {what}, its manifest says {file.size} bytes with {file.crc32c}; prepare it again with "
            "--overwrite"
        )

    def _fetched_more(self, count: int) -> None:
        if self._cancelled.is_set():
            raise _Cancelled
        self._count(count, fetched=count)

    def _count(self, done: int, fetched: int = 0) -> None:
        with self._lock:
            self._done += done
            self._fetched += fetched


def _take(descriptor: int, path: Path) -> bool:
    """Locks an open file, if it is free and still what stands at `path`; returns whether it did."""
    try:
        lock(descriptor, path, wait=False)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
