"""Columns of equal length as one run of bytes, for the files between the stages. They hold data and nothing else: no
byte of them is ever run, whoever wrote it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import orjson

Column = Sequence[Any]  # of bytes, of texts, of whole numbers, or of lists of texts

_SIZE, _CHECKSUM = 8, 4


def pack(columns: Mapping[str, Column]) -> bytes:
    """Named columns -> bytes."""
    sizes = {name: [len(value) for value in values] for name, values in columns.items() if _is_binary(values)}
    plain = {name: values for name, values in columns.items() if name not in sizes}
    head = orjson.dumps({"plain": plain, "sizes": sizes})
    body = b"".join([len(head).to_bytes(_SIZE, "little"), head, *(b"".join(columns[name]) for name in sizes)])
    return google_crc32c.value(body).to_bytes(_CHECKSUM, "little") + body


def _is_binary(values: Column) -> bool:
    return bool(values) and isinstance(values[0], bytes)


def unpack(data: bytes, kinds: Mapping[str, type]) -> dict[str, list[Any]]:
    """Bytes -> the columns of `kinds`: name -> the type of its values (a list holds texts).

    Raises:
        ValueError: the bytes are none of these, or damaged.
    """
    body = data[_CHECKSUM:]
    if not body or int.from_bytes(data[:_CHECKSUM], "little") != google_crc32c.value(body):
        raise ValueError("its checksum is another")
    at = _SIZE + int.from_bytes(body[:_SIZE], "little")
    try:
        head = orjson.loads(body[_SIZE:at])
        found = dict(head["plain"])
        for name, sizes in head["sizes"].items():
            ends = list(itertools.accumulate(sizes, initial=at))
            found[name] = [body[begin:end] for begin, end in itertools.pairwise(ends)]
            at = ends[-1]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it holds no columns: {error}") from error
    columns = {name: found.get(name) for name in kinds}
    for name, kind in kinds.items():
        values = columns[name]
        if not isinstance(values, list) or not set(map(type, values)) <= {kind}:
            raise ValueError(f"its column {name!r} is no list of {kind.__name__}")
        if kind is list and not set(map(type, itertools.chain.from_iterable(values))) <= {str}:
            raise ValueError(f"its column {name!r} holds more than texts")
    if at != len(body) or len({len(values) for values in columns.values() if values is not None}) > 1:
        raise ValueError("its columns are cut off or differ in length")
    return columns  # type: ignore[return-value]
