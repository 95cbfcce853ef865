"""Named arrays in one plain file, the safetensors format: any tool reads it, and no code can hide in it.

A uint64 (little-endian) with the header's length, the header as JSON (name -> dtype, shape, offsets), then the arrays'
bytes. Source: https://github.com/huggingface/safetensors#format.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import contract

_CHUNK = 1 << 20
_LENGTH = 8
_ALIGNED = 8
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
_NAMES = {np.dtype(form): name for name, form in _DTYPES.items()}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Entry:
    """The header's entry of one array."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def write(file: BinaryIO, arrays: Arrays) -> tuple[int, str]:
    """Writes `arrays` to `file`. Returns the number of bytes, and their crc32c (hex)."""
    checksum = google_crc32c.Checksum()
    size = 0
    for chunk in _chunks(arrays):
        checksum.update(chunk)
        file.write(chunk)
        size += len(chunk)
    return size, checksum.hexdigest().decode()


def _chunks(arrays: Arrays) -> Iterator[bytes]:
    header, at = {}, 0
    for name, array in arrays.items():
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text)) % _ALIGNED)
    yield len(text).to_bytes(_LENGTH, "little") + text
    for array in arrays.values():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for first in range(0, len(data), _CHUNK):
            yield data[first : first + _CHUNK].tobytes()


def read(data: memoryview) -> dict[str, NDArray[Any]]:
    """Returns the arrays in the bytes of a whole file, as read-only views of the bytes.

    Raises:
        ValueError: the header is broken, or does not fit the bytes.
    """
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or start > len(data):
        raise ValueError("it is cut off, or no safetensors file")
    arrays, end = {}, 0
    for name, entry in contract.decode(bytes(data[_LENGTH:start])).items():
        found = contract.read(_Entry, entry)
        dtype = np.dtype(_DTYPES.get(found.dtype, "V"))
        count = math.prod(found.shape)
        offsets = [end, end + count * dtype.itemsize]
        if not dtype.itemsize or min(found.shape, default=0) < 0 or found.data_offsets != offsets:
            raise ValueError(f"the header's entry for {name} does not fit: {entry}")
        if offsets[1] > len(data) - start:
            raise ValueError(f"it is cut off within {name}")
        arrays[name] = np.frombuffer(data, dtype, count, start + end).reshape(found.shape)
        end = offsets[1]
    if end != len(data) - start:
        raise ValueError("it has more bytes than its header says")
    return arrays
