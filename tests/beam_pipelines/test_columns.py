import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import columns

KINDS = {"ink": bytes, "key": str, "times": int, "keys": list}
ROWS = st.lists(
    st.tuples(st.binary(max_size=20), st.text(max_size=5), st.integers(0, 9), st.lists(st.text(max_size=3)))
)


def _pack(rows):
    return columns.pack(
        dict(zip(KINDS, zip(*rows, strict=True), strict=True)) if rows else {name: [] for name in KINDS}
    )


@given(ROWS)
def test_what_is_packed_comes_out_again(rows):
    found = columns.unpack(_pack(rows), KINDS)
    assert list(zip(*found.values(), strict=True)) == rows


@given(ROWS, st.data())
def test_a_changed_or_missing_byte_is_noticed(rows, data):
    packed = bytearray(_pack(rows))
    at = data.draw(st.integers(0, len(packed) - 1))
    changed = bytes(packed[:at]) + bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + bytes(packed[at + 1 :])
    for damaged in (changed, bytes(packed[:at])):
        with pytest.raises(ValueError, match="checksum is another"):
            columns.unpack(damaged, KINDS)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(body):
    checksum = columns.google_crc32c.value(body).to_bytes(4, "little")
    with pytest.raises(ValueError, match="^its? "):
        columns.unpack(checksum + body, KINDS)


@pytest.mark.parametrize("wrong", [{"key": [1]}, {"keys": [[1]]}, {"times": ["1"]}, {"ink": [b"", b""]}, {"ink": None}])
def test_columns_of_another_kind_are_refused(wrong):
    right = {"ink": [b"a"], "key": ["b"], "times": [1], "keys": [["c"]]}
    with pytest.raises(ValueError, match="its column"):
        columns.unpack(columns.pack({name: value for name, value in {**right, **wrong}.items() if value}), KINDS)
