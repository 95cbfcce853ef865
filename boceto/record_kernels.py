"""The compiled part of `boceto.records`: TFRecord frames and the protobuf wire format, bounds checked at every step."""

import numpy as np

from boceto.kernels import kernel


@kernel()
def find_frames(shard, overhead):
    """int64[N, 2], (offset, length) of each frame's data; a broken frame ends it with offset -1."""
    found = 0
    offsets = np.empty((1024, 2), np.int64)
    at = 0
    size = shard.size
    while at < size:
        if found == offsets.shape[0]:
            offsets = np.concatenate((offsets, np.empty_like(offsets)))
        length = 0
        whole = at + overhead <= size
        if whole:
            for byte in range(7, -1, -1):
                length = (length << 8) | np.int64(shard[at + byte])
            whole = 0 <= length <= size - at - overhead
        offsets[found, 0] = at + 12 if whole else -1
        offsets[found, 1] = length
        found += 1
        if not whole:
            break
        at += overhead + length
    return offsets[:found]


@kernel()
def _read_varint(data, at, end):
    """(value, next position); the position is -1 where the varint is broken."""
    value = np.int64(0)
    shift = 0
    while at < end and shift < 63:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, -1


@kernel()
def _open(data, at, end, tag):
    """(start, end) of a length-delimited field that must have `tag`; start is -1 where it has not."""
    if at >= end or data[at] != tag:
        return -1, -1
    length, start = _read_varint(data, at + 1, end)
    if start < 0 or length > end - start:
        return -1, -1
    return start, start + length


@kernel()
def _value(data, at, end):
    """A Feature of one value -> (offset, length) of bytes, (value, 0) of an integer, (-1, -1) otherwise."""
    start, stop = _open(data, at, end, 0x0A)
    if start >= 0:
        return _bytes_value(data, start, stop)
    start, stop = _open(data, at, end, 0x1A)
    if start < 0:
        return -1, -1
    first, last = _open(data, start, stop, 0x0A)  # Packed, as every current writer does it; else tag 0x08.
    if first < 0:
        if start >= stop or data[start] != 0x08:
            return -1, -1
        first, last = start + 1, stop
    number, after = _read_varint(data, first, last)
    if after != last:
        return -1, -1
    return number, 0


@kernel()
def _bytes_value(data, at, end):
    start, stop = _open(data, at, end, 0x0A)
    if start < 0 or stop != end:
        return -1, -1
    return start, stop - start


@kernel()
def _which(data, at, end, names, ends):
    """The number of the feature name in data[at:end], or -1."""
    begin = 0
    for position in range(ends.size):
        if ends[position] - begin == end - at:
            same = True
            for offset in range(end - at):
                if data[at + offset] != names[begin + offset]:
                    same = False
                    break
            if same:
                return position
        begin = ends[position]
    return -1


@kernel()
def parse(data, frames, names, ends, fields):
    """Fills fields[N, names, 2]; returns the number of the first record that is no Example, or -1."""
    for record in range(frames.shape[0]):
        first = frames[record, 0]
        at, end = _open(data, first, first + frames[record, 1], 0x0A)
        if at < 0:
            return record
        while at < end:
            entry, stop = _open(data, at, end, 0x0A)
            if entry < 0:
                return record
            name, name_end = _open(data, entry, stop, 0x0A)
            if name < 0:
                return record
            feature, feature_end = _open(data, name_end, stop, 0x12)
            if feature < 0:
                return record
            position = _which(data, name, name_end, names, ends)
            if position >= 0:
                value, length = _value(data, feature, feature_end)
                if length < 0:
                    return record
                fields[record, position, 0] = value
                fields[record, position, 1] = length
            at = stop
    return -1
