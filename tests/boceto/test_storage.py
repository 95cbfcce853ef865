"""One contract, every adapter; gs:// is a real emulator over HTTP."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import socket
import threading

import numpy as np
import pytest

from boceto import storage
from boceto.errors import DataError, SettingsError


@pytest.fixture(params=["path", *sorted(storage.schemes())])
def folder(request, tmp_path):
    """A folder of each adapter in `boceto.stores`: who adds one says here where its folders lie."""
    if request.param == "gs":
        return storage.join(request.getfixturevalue("emulator").bucket, "a", "folder")
    return {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}[request.param]


def test_what_is_written_is_read_listed_and_deleted(folder):
    url = storage.join(folder, "a folder", "one two.txt")
    assert not storage.exists(url)
    storage.write_bytes(url, b"hello")
    storage.write_bytes(storage.join(folder, "b"), b"")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"hello"
    assert storage.read_bytes(storage.join(folder, "b")) == b""
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


@pytest.mark.parametrize("url", ["file://", "file://data/runs"])
def test_a_file_of_another_machine_is_refused(url):
    with pytest.raises(SettingsError, match=f"{url} is no file of this machine; write file:///folder, or a path"):
        storage.list_files(url)


@pytest.mark.parametrize("url", ["", "gs://", "file://", "memory:///"])
def test_what_an_unset_variable_leaves_is_refused(url):
    with pytest.raises(SettingsError, match="names no"):
        storage.join(url, "train-00000-of-00001.tfrecord")


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        storage.list_files(str(tmp_path / "loop"))


def test_the_checksum_is_crc32c():
    # RFC 3720, B.4: 32 bytes of zeros, and 32 rising bytes.
    assert storage.crc32c(bytes(32)) == "8a9136aa"
    assert storage.crc32c(memoryview(bytes(range(32)))) == "46dd794e"
    assert storage.crc32c(bytes(3 << 20)) == storage.crc32c(memoryview(bytearray(3 << 20)))


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


def _lacks(*names):
    """Puts in place of what a file system lacks what it then answers."""

    def lacking(name):
        def answer(*_, **__):
            raise OSError(number, os.strerror(number))

        number = {"link": errno.EPERM, "flock": errno.ENOSYS, "fsync": errno.EINVAL}[name]
        return answer

    for name in names:
        setattr({"flock": fcntl}.get(name, os), name, lacking(name))


@pytest.fixture
def lacking(monkeypatch):
    for module, name in ((os, "link"), (fcntl, "flock"), (os, "fsync")):
        monkeypatch.setattr(module, name, getattr(module, name))
    return _lacks


def _creates(url, start, won):
    """One of several processes on a file system without links."""
    _lacks("link")
    start.wait()
    data = b"%d" % os.getpid() * 10_000
    try:
        storage.create_bytes(url, data)
        won.put(data)
    except FileExistsError:
        won.put(None)


def test_only_one_process_creates_where_there_are_no_links(tmp_path):
    fork = multiprocessing.get_context("fork")
    start, won = fork.Barrier(9), fork.Queue()
    for number in range(3):
        url = str(tmp_path / f"new {number}")
        others = [fork.Process(target=_creates, args=(url, start, won)) for _ in range(8)]
        for other in others:
            other.start()
        start.wait()
        seen = {storage.read_bytes(url) for _ in range(1000) if storage.exists(url)}
        for other in others:
            other.join()
        (data,) = [data for data in (won.get() for _ in others) if data]
        assert seen | {storage.read_bytes(url)} == {data}  # Whole whenever it was there.
    assert len(storage.list_files(str(tmp_path))) == 3


def test_what_a_file_system_lacks_is_done_without_or_told(lacking, tmp_path):
    url = str(tmp_path / "a")
    lacking("link", "fsync")
    version = storage.create_bytes(url, b"first")
    assert storage.read_bytes(url) == b"first"
    assert storage.preconditions_honoured(str(tmp_path))
    version = storage.replace_bytes(url, b"second", version)
    lacking("flock")
    with pytest.raises(SettingsError, match="its file system has no locks .*; give a folder on another one"):
        storage.replace_bytes(url, b"third", version)
    assert storage.read_bytes(url) == b"second"
    assert len(storage.list_files(str(tmp_path))) == 1


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
    storage.upload(here, storage.join(folder, "there"))
    storage.download(storage.join(folder, "there"), tmp_path / "elsewhere" / "back", seen.append)
    assert (tmp_path / "elsewhere" / "back").read_bytes() == here.read_bytes()
    assert sum(seen) == 3_000_000
    with pytest.raises(FileNotFoundError):
        storage.download(storage.join(folder, "nowhere"), tmp_path / "elsewhere" / "no")
    assert not (tmp_path / "elsewhere" / "no").exists()


def test_an_object_lists_itself(folder):
    url = storage.join(folder, "data")
    storage.write_bytes(url, b"one")
    assert [(entry.url, entry.size) for entry in storage.list_files(url)] == [(url.removeprefix("file://"), 3)]


def test_a_large_file_is_copied_both_ways(folder, tmp_path):
    rng = np.random.default_rng(0)
    here = tmp_path / "elsewhere" / "here"
    here.parent.mkdir()
    here.write_bytes(rng.bytes(70 << 20))
    seen = []
    storage.upload(here, storage.join(folder, "there"))
    assert [storage.relative(entry.url, folder) for entry in storage.list_files(folder) if "there" in entry.url] == [
        "there"
    ]
    assert storage.checksum(storage.join(folder, "there")) == storage.checksum(str(here))
    storage.download(storage.join(folder, "there"), tmp_path / "elsewhere" / "back", seen.append)
    assert (tmp_path / "elsewhere" / "back").read_bytes() == here.read_bytes()
    assert sum(seen) == 70 << 20
    assert (
        storage.read_bytes(storage.join(folder, "there"), 40 << 20, (40 << 20) + 3)
        == here.read_bytes()[40 << 20 : (40 << 20) + 3]
    )


def test_a_file_is_read_here_and_there(folder):
    data = np.random.default_rng(1).bytes(9 << 20)
    storage.write_bytes(storage.join(folder, "data"), data)
    with storage.open_file(storage.join(folder, "data")) as file:
        assert file.read(5) == data[:5]
        file.seek(-7, 2)
        assert file.read() == data[-7:]
        file.seek(100)
        assert file.read(8 << 20) == data[100 : 100 + (8 << 20)]
        file.seek(0)
        assert file.read() == data
        assert file.read(1) == b""
    with pytest.raises(FileNotFoundError):
        storage.open_file(storage.join(folder, "nothing"))


def test_a_folder_is_probed_for_writing_and_for_preconditions(folder):
    if storage.is_local(folder) or folder.startswith("gs://"):
        storage.check_writable(folder, "output")
    assert storage.preconditions_honoured(folder)
    assert storage.list_files(folder) == []


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, OSError), (errno.EIO, OSError), (errno.EROFS, SettingsError)]
)
def test_what_may_pass_is_no_setting(tmp_path, monkeypatch, number, kind):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage, "write_bytes", fails)
    with pytest.raises(kind, match=f"train.run = {tmp_path} cannot be written: {os.strerror(number)}"):
        storage.check_writable(str(tmp_path), "train.run")


def test_a_folder_is_deleted_with_all_that_is_below(folder):
    for name in ("one", "two/three"):
        storage.write_bytes(storage.join(folder, "data", name), b"")
    storage.write_bytes(storage.join(folder, "data2"), b"")
    storage.delete_folder(storage.join(folder, "data"))
    assert [storage.relative(entry.url, folder) for entry in storage.list_files(folder)] == ["data2"]


@pytest.mark.parametrize("name", ["train-00000-of-00001.tfrecord", "variables/variables.index", "a b", "..a", "ñ"])
def test_a_name_of_a_manifest_lies_below_its_folder(name):
    assert storage.below("gs://bucket/data/", name) == f"gs://bucket/data/{name}"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "gs://other/x", "file:///x"),
        *("..\\x", "C:\\x", "%2e%2e/x", "..?x", "..#x", "a\nb", "a\0b"),
    ],
)
def test_a_name_of_a_manifest_that_leads_elsewhere_is_refused(name):
    with pytest.raises(DataError, match="gs://bucket/data: a manifest there names .*, which is no file below it"):
        storage.below("gs://bucket/data", name)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    reads = (storage.open_file, storage.read_bytes, storage.read_versioned, storage.open_random)
    for read in (*reads, storage.list_files):
        with pytest.raises(SettingsError, match=f"{kind} is a pipe, a device or a socket"):
            read(str(path))


def test_linked_folders_are_listed_where_asked_and_loops_end(tmp_path):
    for name in ("in/a/one", "other/two", "other/deep/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "more").symlink_to("../other")
    (tmp_path / "in" / "again").symlink_to("../other/deep")
    (tmp_path / "other" / "back").symlink_to("../in")
    folder = str(tmp_path / "in")
    listed = [storage.relative(entry.url, folder) for entry in storage.list_files(folder, linked=True)]
    assert listed == ["a/one", "again/three", "more/two"]
    assert [storage.relative(entry.url, folder) for entry in storage.list_files(folder)] == ["a/one"]


@pytest.mark.parametrize("name", ["what?", "a#b", "100%", "r [1]", "a\\b"])
def test_an_url_of_a_file_may_hold_any_sign(tmp_path, name):
    (tmp_path / name).write_bytes(b"here")
    assert storage.read_bytes(f"file://{tmp_path}/{name}") == b"here"


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_that_is_removed_while_it_is_listed_counts_as_empty(tmp_path, monkeypatch, linked):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    walk = os.walk

    def walking(*words, **more):
        for found in walk(*words, **more):
            if found[0] == str(tmp_path / "a"):
                shutil.rmtree(found[0])
            yield found

    monkeypatch.setattr(os, "walk", walking)
    found = storage.list_files(str(tmp_path), linked=linked)
    assert [entry.url for entry in found] == [str(tmp_path / "b" / "file")]
