"""Rows as one run of bytes, for the files between the stages: an Arrow stream behind its crc32c.

The files hold data and nothing else: no byte of them is ever run. Source: https://arrow.apache.org/docs/format/Columnar.html.
"""

from collections.abc import Sequence
from typing import Any

import google_crc32c
import pyarrow as pa

_CHECKSUM = 4


def pack(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> bytes:
    """Returns rows as bytes; each row has the values of `schema` in order."""
    columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(schema)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch(columns, schema=schema))
    body = sink.getvalue().to_pybytes()
    return google_crc32c.value(body).to_bytes(_CHECKSUM, "little") + body


def unpack(data: bytes, schema: pa.Schema) -> list[tuple[Any, ...]]:
    """Returns the rows that `pack` took.

    Raises:
        ValueError: the bytes are damaged, or rows of another schema.
    """
    body = data[_CHECKSUM:]
    if int.from_bytes(data[:_CHECKSUM], "little") != google_crc32c.value(body) or not body:
        raise ValueError("its checksum is wrong")
    try:
        with pa.ipc.open_stream(body) as stream:
            table = stream.read_all()
    except OSError as error:
        raise ValueError(f"it is no Arrow stream: {error}") from error
    if table.schema != schema:
        raise ValueError(f"it has the columns {', '.join(table.schema.names)}, not {', '.join(schema.names)}")
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
