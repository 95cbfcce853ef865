import google_crc32c
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import columns

SCHEMA = pa.schema({"ink": pa.binary(), "key": pa.string(), "times": pa.int64(), "keys": pa.list_(pa.string())})
TEXTS = st.text(max_size=5)
ROWS = st.lists(st.tuples(st.binary(max_size=20), TEXTS, st.integers(0, 9), st.lists(TEXTS)))


@given(ROWS)
def test_what_is_packed_comes_out_again(rows):
    assert columns.unpack(columns.pack(rows, SCHEMA), SCHEMA) == rows


@given(ROWS, st.data())
def test_a_changed_or_missing_byte_is_noticed(rows, data):
    packed = bytearray(columns.pack(rows, SCHEMA))
    at = data.draw(st.integers(0, len(packed) - 1))
    changed = bytes(packed[:at]) + bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + bytes(packed[at + 1 :])
    for damaged in (changed, bytes(packed[:at])):
        with pytest.raises(ValueError, match="checksum is wrong"):
            columns.unpack(damaged, SCHEMA)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(body):
    checksum = google_crc32c.value(body).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"\w"):
        columns.unpack(checksum + body, SCHEMA)


def test_rows_of_another_schema_are_refused():
    packed = columns.pack([("1",)], pa.schema({"times": pa.string()}))
    with pytest.raises(ValueError, match="it has the columns times, not ink, key, times, keys"):
        columns.unpack(packed, SCHEMA)
