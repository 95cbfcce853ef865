import numpy as np
import pytest

from boceto import dataset
from boceto.errors import DataError


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_what_was_written_is_read_in_any_order(make_data, encoding):
    data = dataset.load(make_data(classes=3, train=8, test=4, encoding=encoding))
    train = data.split("train")
    assert len(train) == 24
    numbers = np.array([23, 0, 7, 7])
    images = train.images(numbers)
    assert images.shape == (4, 16, 16, 1)
    assert (images[2] == images[3]).all()
    for row, number in enumerate(numbers):
        label = train.labels[number]
        assert train.keys([number])[0].startswith(f"{label}-".encode())
        assert (images[row, label * 4 : label * 4 + 4, 2:-2] == 255).all()


def test_both_encodings_have_one_digest(make_data):
    raw, png = (dataset.load(make_data(encoding=encoding, name=encoding)) for encoding in ("raw", "png"))
    assert raw.manifest.digest == png.manifest.digest


def test_a_flipped_byte_is_refused(make_data, tmp_path):
    data = dataset.load(make_data())
    shard = tmp_path / "data" / data.manifest.splits["train"].shards[1].name
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.tfrecord is damaged"):
        data.split("train")
