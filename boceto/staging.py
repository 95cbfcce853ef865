"""Brings files of object storage to this machine once, whole and verified, for all its processes.

    CACHE/<data set digest>/<crc32c>-<name>             a verified copy
    CACHE/<data set digest>/<crc32c>-<name>.partial     the beginning of one, locked by the process that writes it

A copy gets its name when size and checksum are the expected ones, and is never changed afterwards: what has that name
was whole. One that was cut off is gone on with, by whoever needs it next.
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
from typing import BinaryIO, NamedTuple

import google_crc32c

from boceto import storage
from boceto.console import clock_time
from boceto.errors import DataError, SettingsError
from boceto.stores.file import local_path, lock, note_written, was_written

DEFAULT = "~/.cache/boceto"
THREADS = 8
CHUNK = 8 << 20
PARTIAL = ".partial"
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
    tell: Callable[[str], None]

    def stage(self, url: str, key: str, files: Sequence[File], *, verify: bool = True) -> list[Path]:
        """Sees to it that copies of `files`, which are in the folder `url`, are in the cache; returns their paths.

        Copies of the same `key` are shared by all processes. With `verify`, every byte of those already there is
        checked, and a damaged one replaced; else their sizes.

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
        job = _Job(url, folder, verify=verify)
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            self._check_room(files, job)
            job.run(files, self.tell)
        return [job.place(file) for file in files]

    def _check_room(self, files: Sequence[File], job: "_Job") -> None:
        needed = sum(job.missing(file) for file in files)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise SettingsError(
                f"{self.setting} = {self.folder} has {free:,} bytes free, {needed:,} more are needed for the copy of "
                f"{job.url}; make room, or give another {_flag(self.setting)}"
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


def cache(folder: str, setting: str, tell: Callable[[str], None]) -> Cache:
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
    """Another thread has failed, or the caller wants no more."""


class _Job:
    """One call of `stage`: several threads, each with a file, and the one that waits for them and tells."""

    def __init__(self, url: str, folder: Path, *, verify: bool) -> None:
        self.url = url
        self._folder = folder
        self._verify = verify
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._done = 0
        self._fetched = 0
        self._waiting = 0

    def place(self, file: File) -> Path:
        """Where the copy of `file` is."""
        return self._folder / f"{file.crc32c}-{file.name}"

    def missing(self, file: File) -> int:
        """How many bytes of `file` are still to be brought."""
        if _size(self.place(file)) == file.size:
            return 0
        return file.size - min(file.size, max(0, _size(self._partial(file))))

    def run(self, files: Sequence[File], tell: Callable[[str], None]) -> None:
        """Brings the files; raises what first went wrong, once no thread writes any more.

        A thread that waits for a storage which is silent is left behind: who wants to end does not wait for it.
        """
        total, started = sum(file.size for file in files), time.monotonic()
        todo = {Future[None](): file for file in files}
        waiting, pending = iter(todo.items()), set(todo)
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
                tell(self._how_far(total, time.monotonic() - started))
        except BaseException:
            self._cancelled.set()
            until = time.monotonic() + _LEAVE_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            raise

    def _work(self, waiting: Iterator[tuple[Future[None], File]]) -> None:
        """A thread: brings one file after the other."""
        while not self._cancelled.is_set():
            with self._lock:
                future, file = next(waiting, (None, None))
            if not future or not file:
                return
            try:
                self._bring(file)
                future.set_result(None)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                future.set_exception(error)

    def _how_far(self, total: int, seconds: float) -> str:
        amount = f"{self._done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        if not self._fetched:
            doing = "another process copies" if self._waiting else "checking the copy of"
            return f"{doing} {self.url}: {amount}"
        speed = self._fetched / seconds if seconds else 0.0
        left = clock_time((total - self._done) / speed) if speed else "?"
        return f"copying {self.url}: {amount}, {speed / 1e6:,.1f} MB/s, {left} left"

    def _partial(self, file: File) -> Path:
        return self.place(file).with_name(self.place(file).name + PARTIAL)

    def _bring(self, file: File) -> None:
        if not self._whole(file):
            with self._owned(self._partial(file)) as partial:
                if self._whole(file):  # Another process has brought it meanwhile.
                    self._partial(file).unlink()
                else:
                    self._complete(file, partial)
                    return
        self._count(file.size)

    def _whole(self, file: File) -> bool:
        place = self.place(file)
        if self._cancelled.is_set() or _size(place) != file.size:
            return False
        return not self._verify or storage.checksum(str(place))[1] == file.crc32c

    @contextlib.contextmanager
    def _owned(self, path: Path) -> Iterator[BinaryIO]:
        """The file at `path`, made if missing, once no other process has it. Whoever is killed gives it back."""
        waits = False
        try:
            while True:
                if self._cancelled.is_set():
                    raise _Cancelled
                with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
                    note_written(path)
                    if _take(file, path):
                        yield file
                        return
                with self._lock:
                    self._waiting += not waits
                waits = True
                self._cancelled.wait(_LOOK_SECONDS)
        finally:
            with self._lock:
                self._waiting -= waits

    def _complete(self, file: File, partial: BinaryIO) -> None:
        """Brings what `partial` lacks of `file`, and gives it its place."""
        self._check_source(file)
        checksum, begun = _checksum_so_far(partial, file.size)
        self._count(begun)
        checksum = self._fetch(file, partial, begun, checksum)
        if begun and checksum != file.crc32c:
            # What was there of an earlier attempt may be what is wrong.
            self._count(-file.size)
            partial.truncate(0)
            checksum = self._fetch(file, partial, 0, google_crc32c.Checksum())
        if checksum != file.crc32c:
            self._partial(file).unlink()
            raise self._damaged(file, f"its checksum is {checksum}")
        os.fsync(partial.fileno())
        self._partial(file).replace(self.place(file))

    def _check_source(self, file: File) -> None:
        """Refuses what cannot become the expected file, before a byte is copied."""
        path = storage.join(self.url, file.name)
        found = storage.stat(path)
        if found is None:
            raise _missing(path)
        if found.size != file.size:
            raise self._damaged(file, f"it has {found.size} bytes")
        if found.crc32c and found.crc32c != file.crc32c:
            raise self._damaged(file, f"its checksum is {found.crc32c}")

    def _damaged(self, file: File, what: str) -> DataError:
        return DataError(
            f"{storage.join(self.url, file.name)} is damaged: {what}, its manifest says {file.size} bytes with "
            f"{file.crc32c}; prepare it again with --overwrite"
        )

    def _fetch(self, file: File, partial: BinaryIO, start: int, checksum: google_crc32c.Checksum) -> str:
        """Appends the bytes from `start` on to `partial`; returns the checksum of all."""
        path = storage.join(self.url, file.name)
        partial.seek(start)

        def append(data: bytes) -> None:
            if self._cancelled.is_set():
                raise _Cancelled
            checksum.update(data)
            _write(partial, data)
            self._count(len(data), fetched=len(data))

        try:
            storage.stream(path, start, append)
        except FileNotFoundError:
            raise _missing(path) from None
        return str(checksum.hexdigest().decode())

    def _count(self, done: int, fetched: int = 0) -> None:
        with self._lock:
            self._done += done
            self._fetched += fetched


def _missing(path: str) -> DataError:
    return DataError(f"{path} is missing; prepare it again with --overwrite")


def _take(file: BinaryIO, path: Path) -> bool:
    """Locks `file` for this process, if it is free and still what stands at `path`: a finished one has moved."""
    try:
        lock(file.fileno(), path, wait=False)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _checksum_so_far(partial: BinaryIO, size: int) -> tuple[google_crc32c.Checksum, int]:
    """The checksum and the length of what is in `partial`, which is emptied where it is longer than `size`."""
    checksum, begun = google_crc32c.Checksum(), 0
    if os.fstat(partial.fileno()).st_size > size:
        partial.truncate(0)
    partial.seek(0)
    while data := partial.read(CHUNK):
        checksum.update(data)
        begun += len(data)
    return checksum, begun


def _write(file: BinaryIO, data: bytes) -> None:
    """Writes all of `data`: a file without a buffer may take a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _size(path: Path) -> int:
    """The size of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
