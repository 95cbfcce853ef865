import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from boceto import records

ENCODER = records.Encoder(records.Layout(2, 300, 3, "raw", ["cat", "hot dog"]))


def _shard(*frames):
    return np.frombuffer(b"".join(frames), np.uint8)


@given(st.integers(0, 1), st.binary(max_size=40_000), st.text(max_size=20), st.binary(max_size=300))
def test_a_record_is_the_example_that_tensorflow_would_write(label, encoded, key, strokes):
    record = ENCODER.encode(label, encoded, key, strokes)
    example = tf.train.Example.FromString(record)
    features = example.features.feature
    assert features["image/encoded"].bytes_list.value == [encoded]
    assert features["image/key"].bytes_list.value == [key.encode()]
    assert ("sketch/strokes" in features) == bool(strokes)
    assert not strokes or features["sketch/strokes"].bytes_list.value == [strokes]
    assert features["image/class/label"].int64_list.value == [label]
    assert features["image/width"].int64_list.value == [300]
    assert features["image/channels"].int64_list.value == [3]
    assert example.SerializeToString(deterministic=True) == record


def test_tensorflow_reads_the_frames(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"".join(records.frame(b"x" * size) for size in (0, 1, 70_000)))
    assert [len(record) for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()] == [0, 1, 70_000]


def test_the_index_finds_what_was_written():
    frames = [records.frame(ENCODER.encode(n % 2, b"e" * n, f"k{n}", b"s" * (n % 3))) for n in range(3000)]
    shard = _shard(*frames)
    index = records.index(shard)
    assert index.label.tolist() == [n % 2 for n in range(3000)]
    assert index.image[:, 1].tolist() == list(range(3000))
    at, length = index.key[2999]
    assert shard[at : at + length].tobytes() == b"k2999"
    assert (index.shape == (2, 300, 3)).all()


def test_records_that_tensorflow_wrote_are_found_whatever_their_order():
    example = tf.train.Example()
    for name, value in (
        ("image/width", 3),
        ("image/height", 4),
        ("image/channels", 1),
        ("image/class/label", 1),
        ("extra", -7),
    ):
        example.features.feature[name].int64_list.value.append(value)
    for name in ("image/encoded", "image/format", "image/key", "image/class/text"):
        example.features.feature[name].bytes_list.value.append(name.encode())
    index = records.index(_shard(records.frame(example.SerializeToString())))
    assert (index.label[0], index.shape[0].tolist(), index.strokes[0, 1]) == (1, [4, 3, 1], -1)


@pytest.mark.parametrize("cut", [1, 11, 20, -1])
def test_a_cut_shard_is_refused(cut):
    frame = records.frame(ENCODER.encode(0, b"e", "k", b""))
    with pytest.raises(ValueError, match="record 1 is cut off"):
        records.index(_shard(frame, frame[:cut]))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_index_read_out_of_bounds(content):
    for shard in (_shard(content), _shard(records.frame(content))):
        try:
            records.index(shard)
        except ValueError as error:
            assert "record" in str(error)


@given(st.data())
def test_a_changed_byte_is_refused_or_stays_within_the_shard(data):
    shard = _shard(records.frame(ENCODER.encode(1, b"e" * 50, "key", b"ss"))).copy()
    shard[data.draw(st.integers(0, len(shard) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        index = records.index(shard)
    except ValueError:
        return
    for where in (index.image, index.key):
        assert (where[:, 0] >= 0).all()
        assert (where.sum(axis=1) <= len(shard)).all()


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match="record 0 has no feature image/class/label"):
        example = tf.train.Example()
        example.features.feature["image/channels"].int64_list.value.append(1)
        example.features.feature["image/key"].bytes_list.value.append(b"k")
        records.index(_shard(records.frame(example.SerializeToString())))
