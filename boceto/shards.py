"""Reads one shard, record by record. The checksum of a record is checked whenever the record is read.

Shards are not mapped into memory: a program that touches a map beyond the end of a file that was cut off meanwhile, or
a block that the disk cannot read, is ended by SIGBUS without a word. What is read by position is an error that says so.
"""

import errno
import os
import resource
from dataclasses import dataclass

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import storage
from boceto.errors import DataError, SettingsError


@dataclass(frozen=True)
class ShardFile:
    """An open shard at `path`. remedy: what its reader may do when it is not as it was."""

    path: str
    remedy: str
    _source: storage.RandomAccess

    @property
    def size(self) -> int:
        """Bytes."""
        return self._source.size

    def whole(self) -> NDArray[np.uint8]:
        """All of it, uint8[bytes].

        Raises:
            DataError: it ends before its end.
        """
        return np.frombuffer(self._read(0, self.size), np.uint8)

    def frame(self, offset: int, length: int, crc32c: int) -> bytes:
        """Reads the frame of a record, `length` bytes at `offset`, which has this crc32c.

        Raises:
            DataError: the bytes have another crc32c.
        """
        data = self._read(offset, length)
        if google_crc32c.value(data) != crc32c:
            raise DataError(
                f"{self.path} is damaged: the record at byte {offset} does not have the checksum that its index says; "
                f"{self.remedy}"
            )
        return data

    def _read(self, start: int, length: int) -> bytes:
        try:
            data = self._source.read(start, length)
        except OSError as error:
            raise OSError(error.errno, f"{self.path} cannot be read: {os.strerror(error.errno or 0)}") from error
        if len(data) != length:
            raise DataError(
                f"{self.path} was cut off while it was in use: of {length} bytes at {start} there are {len(data)}; "
                f"{self.remedy}"
            )
        return data


def open_shard(path: str, remedy: str) -> ShardFile:
    """The shard at `path`, which stays readable when its name is deleted.

    Raises:
        DataError: there is none, or it is a folder.
        SettingsError: this process may not have so many files open.
    """
    try:
        return ShardFile(path, remedy, storage.open_random(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {remedy}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; remove it, then {remedy}") from error
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise SettingsError(
            f"{path}: this process may have {most} files open, and the data set has more shards; raise the limit "
            "(ulimit -n)"
        ) from error
