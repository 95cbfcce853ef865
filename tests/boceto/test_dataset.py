import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from boceto import contract, dataset, records, shard_index, staging, storage, strokes
from boceto.errors import DataError, SettingsError


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
        assert next(train.keys([number])).startswith(f"{label}-".encode())
        assert (images[row, label * 4 : label * 4 + 4, 2:-2] == 255).all()


def test_both_encodings_have_one_digest(make_data):
    raw, png = (dataset.load(make_data(encoding=encoding, name=encoding)) for encoding in ("raw", "png"))
    assert raw.manifest.digest == png.manifest.digest


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_colour_images_of_any_shape_without_strokes(make_data, encoding):
    url = make_data(size=12, width=20, channels=3, strokes=False, encoding=encoding)
    train = dataset.load(url).split("train")
    images = train.images(np.arange(len(train)))
    assert images.shape == (24, 12, 20, 3)
    assert (images[:, :, :, 0] != images[:, :, :, 2]).any()
    assert train.strokes(0) == b""


def test_without_strokes_the_digest_is_over_the_pixels():
    digests = set()
    for content in (b"\0\0\0\0", b"\1\1\1\1"):
        digest = dataset.ShardDigest()
        # Behind its own CRC-32, any content has the same CRC-32.
        image = np.frombuffer(content + zlib.crc32(content).to_bytes(4, "little"), np.uint8)
        digest.add(image.reshape(1, 2, 4, 1), [(0, b"key", b"")])
        digests.add(digest.hexdigest())
    assert len(digests) == 2


def test_a_flipped_byte_is_refused(make_data, tmp_path):
    data = dataset.load(make_data())
    shard = tmp_path / "data" / data.manifest.splits["train"].shards[1].name
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.tfrecord is damaged"):
        data.split("train", verify=True)
    train = data.split("train")
    train.images(np.arange(12))  # Only what is read is checked.
    with pytest.raises(DataError, match=r"train-00001-of-00002\.tfrecord is damaged: the record at byte 0"):
        train.images(np.arange(24))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("classes"), "classes is missing"),
        (lambda m: m.update(version=99), "version 99"),
        (lambda m: m["classes"].reverse(), "digest does not match"),
        (lambda m: m["splits"]["train"]["per_class"].append(1), "not a number a class"),
        (lambda m: m["splits"]["train"]["shards"][0].update(index_bytes=-1), "not a number a class"),
        (lambda m: m["splits"]["train"]["shards"][0].update(name="../../etc/passwd"), "not named as this format names"),
        (lambda m: m["splits"]["train"]["shards"][0].update(records=True), "is True, not a whole number"),
        (lambda m: m["splits"]["train"]["per_class"].__setitem__(0, 9), "do not add up"),
        (lambda m: m["splits"].update(extra={"per_class": [0, 0, 0], "shards": []}), "unknown split"),
        (lambda m: m.update(options=5), "options is 5, not an object"),
        (lambda m: m.update(drawings="x"), "drawings is 'x', not a whole number"),
        (lambda m: m.update(encoding=["raw"]), "encoding is"),
        (lambda m: m.update(channels=2), "no images are 16x16x2"),
    ],
)
def test_a_changed_manifest_is_refused(make_data, tmp_path, change, message):
    path = tmp_path / "data" / "dataset.json"
    url = make_data()
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_bytes(contract.sealed(manifest))
    with pytest.raises(DataError, match=message):
        dataset.load(url)


def test_a_flipped_byte_of_the_manifest_is_refused_wherever_it_is(make_data, tmp_path):
    path = tmp_path / "data" / "dataset.json"
    url = make_data()
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError):
            dataset.load(url)


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_start_reads_no_shard(make_data, tmp_path):
    data = dataset.load(make_data())
    numbers = np.arange(24)
    labels, keys = data.split("train").labels, list(data.split("train").keys(numbers))
    for shard in data.manifest.splits["train"].shards:
        (tmp_path / "data" / shard.name).write_bytes(bytes(shard.bytes))
    train = data.split("train")
    assert (train.labels == labels).all()
    assert list(train.keys(numbers)) == keys
    with pytest.raises(DataError, match="00000-of-00002.tfrecord is damaged: the record at byte 0"):
        train.images(numbers)


def test_an_index_that_is_changed_is_refused(make_data, tmp_path):
    data = dataset.load(make_data())
    path = tmp_path / "data" / data.manifest.splits["train"].shards[1].index
    whole = path.read_bytes()
    for at in range(len(whole)):
        _flip(path, at)
        with pytest.raises(DataError, match="train-00001-of-00002.index is damaged"):
            data.split("train")
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", 2**64 - 1),
        ("offset", 2**63),
        ("bytes", 2**32 - 1),
        ("image", 2**32 - 1),
        ("image_bytes", 2**32 - 1),
        ("image_bytes", 1),
    ],
)
def test_an_index_that_leaves_the_shard_is_refused(make_data, tmp_path, field, value):
    url = make_data(encoding="raw")
    folder = tmp_path / "data"
    manifest = json.loads((folder / "dataset.json").read_text())
    shard = manifest["splits"]["train"]["shards"][1]
    path = folder / shard["name"].replace("tfrecord", "index")
    content = bytearray(path.read_bytes())
    np.frombuffer(content, shard_index.ROW, shard["records"])[field][3] = value
    path.write_bytes(content)
    shard["index_crc32c"] = storage.crc32c(bytes(content))
    (folder / "dataset.json").write_bytes(contract.sealed(manifest))
    with pytest.raises(DataError, match="00001-of-00002.index is no index of train-00001"):
        dataset.load(url).split("train")


@pytest.mark.parametrize("name", ["train-00001-of-00002.index", "train-00001-of-00002.tfrecord"])
def test_a_folder_in_the_place_of_a_file_is_refused(make_data, tmp_path, name):
    data = dataset.load(make_data())
    (tmp_path / "data" / name).unlink()
    (tmp_path / "data" / name).mkdir()
    with pytest.raises(DataError, match=f"{name} is a folder; remove it, then prepare it again"):
        data.split("train")


def _without_indexes(url, tmp_path):
    """The data set as an older Boceto wrote it."""
    path = tmp_path / "data" / "dataset.json"
    manifest = json.loads(path.read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            del shard["index_bytes"], shard["index_crc32c"]
    path.write_bytes(contract.sealed(manifest))
    for index in path.parent.glob("*.index"):
        index.unlink()
    return dataset.load(url, staging.cache(str(tmp_path / "cache"), "train.cache_dir", lambda text: None))


def test_shards_without_an_index_are_indexed_once(make_data, tmp_path):
    url = make_data()
    numbers = np.arange(24)
    expected = dataset.load(url).split("train")
    images = expected.images(numbers)
    data = _without_indexes(url, tmp_path)
    for _ in range(2):
        train = data.split("train")
        assert (train.images(numbers) == images).all()
        assert list(train.keys(numbers)) == list(expected.keys(numbers))
    shards = [tmp_path / "data" / shard.name for shard in data.manifest.splits["train"].shards]
    content = [shard.read_bytes() for shard in shards]
    for shard, whole in zip(shards, content, strict=True):
        shard.write_bytes(bytes(len(whole)))
    assert len(data.split("train")) == 24  # The shards are not read again.
    kept = list((tmp_path / "cache").rglob("*.index"))
    assert len(kept) == 2
    _flip(kept[0], 20)
    with pytest.raises(DataError, match="tfrecord is damaged"):
        data.split("train")
    for shard, whole in zip(shards, content, strict=True):
        shard.write_bytes(whole)
    assert (data.split("train").images(numbers) == images).all()


def test_a_pipe_in_the_place_of_a_kept_index_is_replaced(make_data, tmp_path):
    data = _without_indexes(make_data(), tmp_path)
    data.split("train")
    kept = next((tmp_path / "cache").rglob("*.index"))
    whole = kept.read_bytes()
    kept.unlink()
    os.mkfifo(kept)
    assert len(data.split("train")) == 24
    assert kept.is_file()
    assert kept.read_bytes() == whole


def test_a_shard_without_index_that_is_not_what_its_manifest_says_is_refused(make_data, tmp_path):
    data = _without_indexes(make_data(), tmp_path)
    name = data.manifest.splits["train"].shards[0].name
    _flip(tmp_path / "data" / name, 100)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        data.split("train")


def test_what_is_no_data_set_says_what_to_do(tmp_path, make_data):
    with pytest.raises(DataError, match=r"does not exist or is empty: there is no dataset\.json; run `boceto prepare"):
        dataset.load(str(tmp_path / "nothing"))
    url = make_data()
    (tmp_path / "data" / "dataset.json").unlink()
    with pytest.raises(DataError, match="holds an unfinished data set"):
        dataset.load(url)


def test_a_missing_shard_and_an_empty_split_are_named(make_data, tmp_path):
    data = dataset.load(make_data())
    with pytest.raises(SettingsError, match="no drawings in split 'validation'; it has train, test"):
        data.split("validation")
    for name in ("test-00001-of-00002.index", "test-00001-of-00002.tfrecord"):
        (tmp_path / "data" / name).unlink()
        with pytest.raises(DataError, match=f"{name} is missing; prepare it again"):
            data.split("test")


def test_counts_that_are_not_the_records_are_refused(make_data, tmp_path):
    url = make_data()
    path = tmp_path / "data" / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["per_class"] = [9, 7, 8]
    path.write_bytes(contract.sealed(manifest))
    with pytest.raises(DataError, match="other drawings a class"):
        dataset.load(url).split("train")


def test_strokes_come_back(make_data):
    train = dataset.load(make_data()).split("train")
    label, number = map(int, next(train.keys([3])).split(b"-"))
    assert strokes.unpack(train.strokes(3))[0].tolist() == [[label, number], [9, 9]]


def _opened(make_data, encoding="raw"):
    data = dataset.load(make_data(encoding=encoding))
    return data, data.split("train"), data.manifest.splits["train"].shards[1].name


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_byte_that_is_flipped_under_a_reader_is_refused_with_the_shards_name(make_data, tmp_path, encoding):
    data, train, name = _opened(make_data, encoding)
    path = tmp_path / "data" / name
    whole = path.read_bytes()
    found = records.index(np.frombuffer(whole, np.uint8))
    first = data.manifest.splits["train"].shards[0].records
    start, length = found.frames[2].tolist()
    for at in range(start - 12, start + length + 4, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        for read in (lambda: train.images(np.array([0, first + 2])), lambda: train.strokes(first + 2)):
            with pytest.raises(DataError, match=f"{name} is damaged.*prepare it again with --overwrite"):
                read()
    train.images(np.array([0, first + 1]))


def test_a_shard_that_is_cut_off_under_a_reader_is_an_error_and_ends_no_process(make_data, tmp_path):
    data, train, name = _opened(make_data)
    with (tmp_path / "data" / name).open("r+b") as file:
        file.truncate(4096)
    last = data.manifest.splits["train"].records - 1
    with pytest.raises(DataError, match=f"{name} was cut off while it was in use"):
        train.images(np.array([last]))


def test_a_shard_that_is_deleted_under_a_reader_stays_readable(make_data, tmp_path):
    _, train, name = _opened(make_data)
    numbers = np.arange(len(train))
    before = train.images(numbers)
    (tmp_path / "data" / name).unlink()
    assert (train.images(numbers) == before).all()


def test_more_shards_than_the_process_may_open_are_refused_in_words(make_data):
    script = (
        "import resource, sys\n"
        "from boceto import dataset\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "try:\n"
        "    dataset.load(sys.argv[1]).split('train')\n"
        "except dataset.SettingsError as error:\n"
        "    print(error)\n"
    )
    words = [sys.executable, "-c", script, make_data(classes=1, train=60, test=60, shards=60)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "this process may have 40 files open, and the data set has more shards; raise the limit (ulimit -n)" in said


def test_a_file_is_no_data_set(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="file is a file; give the folder of a data set"):
        dataset.load(str(tmp_path / "file"))
