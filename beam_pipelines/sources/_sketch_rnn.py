"""sketch-rnn's form of the drawings: `.npz` with the arrays `train`, `valid` and `test`.

Source: https://github.com/googlecreativelab/quickdraw-dataset#sketch-rnn-quickdraw-dataset and
https://github.com/hardmaru/sketch-rnn-datasets. A drawing is int16[N, 3]: how far the pen moves (dx, dy), and whether
it is lifted behind this point. The points are placed as in Google's simplified form, 0..255 from the top left; they are
thinned already.
"""

import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_pipelines.sources import Drawing, Filtered, Refused, _pickled
from boceto.entry import MAX_RAW, Found, Refusal
from boceto.gzip_text import CUT, DAMAGED, LINE
from boceto.simplified import pack_placed

PARTS = ("train", "valid", "test")
MAX_BYTES = 1 << 29  # Of an unpacked array: four times the largest of QuickDraw's 345 categories, about.
_PIECE = 1 << 18
_LONGEST = 1 << 16  # Of a header that numpy writes, bytes.
_AXES = 3  # dx, dy, pen
_MAGIC = b"PK"
_SHOWN = 60
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, NotImplementedError)
# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: magic, version, length and text of the header.
_HEADER = re.compile(rb"\{'descr': '\|O\d?', 'fortran_order': \w+, 'shape': \((\d{1,9})L?,\), \}\s*")
_TYPE = re.compile(r"[<>|=]?(?:[iu][1248]|f[248])")


def read(file: BinaryIO, size: int) -> Iterator[Found]:
    """The drawings of a file of `size` bytes, in order: of train, of valid, of test."""
    try:
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        if size:
            yield _no_archive(file, size, str(error))
        return
    members = {info.filename: info for info in archive.infolist()}
    names = [f"{part}.npy" for part in PARTS if f"{part}.npy" in members]
    if not names:
        has = ", ".join(members)[:_SHOWN] or "nothing"
        yield Refused(1, "wrong_type", "", f"the file has no array train, valid or test, but {has}")
    number = 1
    for name in names:
        for item in _of_member(archive, members[name], size):
            if isinstance(item, Refused):
                yield item._replace(line=number)
                number += item.lost
            else:
                yield item
                number += 1


def _no_archive(file: BinaryIO, size: int, why: str) -> Refused:
    """A file that is cut off has lost its end, where the list of its arrays stands."""
    file.seek(0)
    about = max(1, size // LINE)
    if file.read(len(_MAGIC)) == _MAGIC:
        return Refused(1, CUT, "", f"the file ends before its list of arrays ({why}); fetch it again", about)
    return Refused(1, DAMAGED, "", f"it is no .npz file: {why}; fetch it again", about)


def _of_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> Iterator[Found]:
    """The drawings of one array; what is behind a place that is no drawing is refused as a whole."""
    part = info.filename.removesuffix(".npy")
    about, count, found = max(1, min(info.compress_size, size) // LINE), 0, 0
    try:
        _check(archive, info)
        with archive.open(info) as member:
            file = io.BufferedReader(member, _PIECE)  # type: ignore[type-var]
            count = min(_length(file), info.file_size)
            for numbers in _pickled.arrays(file):
                if found == count:
                    raise _pickled.Foreign(f"it has more than the {count:,} entries of its header")
                found += 1
                yield _of_numbers(numbers, f"{part}[{found - 1}]")
        if found < count:
            raise _pickled.Foreign(f"{count - found:,} of its {count:,} entries are no arrays of numbers")
    except _BROKEN as error:
        yield Refused(0, DAMAGED, part, f"{part} cannot be unpacked: {error}; fetch it again", about)
    except _pickled.Foreign as error:
        lost = max(1, count - found) if count else about
        yield Refused(0, "foreign_pickle", part, f"{part}: {error}; nothing of it was run", lost)


def _check(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Reads an array once, for its checksum: damage can turn a drawing into another that nobody drew."""
    if info.file_size > MAX_BYTES:
        raise ValueError(f"it has {info.file_size:,} bytes, more than {MAX_BYTES:,}")
    if info.header_offset < 0:
        raise ValueError("its place is before the file's begin")
    if info.flag_bits & 1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError("it is encrypted, or packed in a way that numpy does not use")
    with archive.open(info) as member:
        while member.read(_PIECE):
            pass


def _length(file: IO[bytes]) -> int:
    """The number of objects in the array whose header begins here."""
    start = file.read(8)
    header = file.read(min(_LONGEST, int.from_bytes(file.read(2 if start[6:7] == b"\1" else 4), "little")))
    match = _HEADER.fullmatch(header)
    if not start.startswith(b"\x93NUMPY") or not match:
        raise _pickled.Foreign(f"it is no row of drawings, int16[N, 3] each, but {header[:_SHOWN].decode('latin-1')!r}")
    return int(match[1])


def _of_numbers(numbers: _pickled.Numbers | _pickled.Again, where: str) -> Found:
    if isinstance(numbers, _pickled.Again):
        return Filtered("a drawing that stands in its file before")
    try:
        return Drawing(_ink(numbers)), None
    except Refusal as refusal:
        return refusal.of(0, where)


def _ink(numbers: _pickled.Numbers) -> bytes:
    points = _points(numbers)
    if not len(points):
        raise Refusal("no_strokes", "the array is empty")
    if not np.isfinite(points).all():
        raise Refusal("not_finite", "a number is not finite")
    if (abs(points) >= MAX_RAW).any():
        raise Refusal("out_of_range", f"a move is beyond {MAX_RAW:g}")
    lifted = points[:, 2]
    if (odd := lifted[lifted * lifted != lifted]).size:
        raise Refusal("out_of_range", f"the pen is {odd[0]:g}, and neither 0 nor 1")
    places = points[:, :2].cumsum(axis=0)
    if (places == places[0]).all():
        raise Refusal("one_point", "all points are one")
    stops = [*(np.flatnonzero(lifted[:-1]) + 1).tolist(), len(places)]
    try:
        return pack_placed([places[start:stop] for start, stop in itertools.pairwise([0, *stops])])
    except ValueError:
        raise Refusal("too_many_points", "a stroke has too many points") from None


def _points(numbers: _pickled.Numbers) -> NDArray[np.float64]:
    """The array of a drawing, float64[N, 3]."""
    shape = numbers.shape
    if not (isinstance(shape, tuple) and list(map(type, shape)) == [int, int] and shape[1] == _AXES):
        raise Refusal("wrong_type", f"the array has the shape {shape!r:.{_SHOWN}}, and not (N, 3)")
    if not _TYPE.fullmatch(numbers.type):
        raise Refusal("wrong_type", f"the array is of {numbers.type!r:.{_SHOWN}}, and not of numbers")
    dtype = np.dtype(numbers.type)
    if len(numbers.data) != shape[0] * _AXES * dtype.itemsize:
        raise Refusal("uneven_stroke", f"the array has {len(numbers.data):,} bytes, which do not fit {shape}")
    found = np.frombuffer(numbers.data, dtype).reshape(shape, order="F" if numbers.by_column else "C")
    return found.astype(np.float64)
