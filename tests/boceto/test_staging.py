"""Staging out of `memory://`, and, where processes are what is tested, out of an emulator."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from boceto import dataset, staging, storage
from boceto.errors import DataError, SettingsError, Stopped

KEY = "0123456789abcdef"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def bucket(emulator):
    return emulator.bucket


@pytest.fixture
def cache(tmp_path):
    return staging.cache(str(tmp_path / "cache"), "train.cache_dir", lambda *_: None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in storage with three files, which are copied in pieces of 1,000 bytes: (URL, files)."""
    in_pieces(monkeypatch, 1000)
    url = f"memory://staging/{tmp_path.name}"
    files = []
    for number, size in enumerate((4500, 0, 3000)):
        data = np.random.default_rng(number).bytes(size)
        storage.write_bytes(storage.join(url, f"shard-{number}"), data)
        files.append(staging.File(f"shard-{number}", size, storage.crc32c(data)))
    return url, files


def in_pieces(monkeypatch, size, before=lambda url, at: None):
    """From now on a download comes in pieces of `size` bytes; `before` is told of each one's URL and offset."""

    def download(url, path, progress):
        data = storage.read_bytes(url)
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(data), size):
                before(url, at)
                piece = data[at : at + size]
                if file.write(piece) < len(piece):
                    file.write(b"!")  # Says why.
                progress(len(piece))

    monkeypatch.setattr(storage, "download", download)


def reads(monkeypatch):
    """What is read from storage from now on, in pieces of 1,000 bytes: a list of (name, start)."""
    seen = []
    in_pieces(monkeypatch, 1000, lambda url, at: seen.append((url.rpartition("/")[2], at)))
    return seen


def whole(url, files, copies):
    return [copy.read_bytes() for copy in copies] == [storage.read_bytes(storage.join(url, f.name)) for f in files]


def test_the_cache_may_be_named_as_a_file_url_and_hold_any_sign(tmp_path):
    folder = tmp_path / "a [1] ~t\\ é"
    assert staging.cache(folder.as_uri(), "train.cache_dir", lambda *_: None).folder == folder
    assert staging.cache(str(folder), "train.cache_dir", lambda *_: None).folder == folder


def test_files_are_copied_once(folder, cache, monkeypatch):
    url, files = folder
    seen = reads(monkeypatch)
    copies = cache.stage(url, KEY, files)
    assert whole(url, files, copies)
    assert len(seen) == 5 + 3
    assert cache.stage(url, KEY, files) == copies
    assert len(seen) == 5 + 3
    assert sorted(path.name for path in copies[0].parent.iterdir()) == sorted(path.name for path in copies)


def test_what_a_killed_process_has_left_goes(folder, cache):
    url, files = folder
    copies = cache.stage(url, KEY, files)
    copies[0].with_name(f"{copies[0].name}.partial").write_bytes(copies[0].read_bytes()[:2300])
    copies[0].unlink()
    assert whole(url, files, cache.stage(url, KEY, files))
    assert sorted(copies) == sorted(copies[0].parent.iterdir())


def test_a_damaged_copy_is_replaced_where_every_byte_is_checked(folder, cache):
    url, files = folder
    copies = cache.stage(url, KEY, files)
    before = copies[0].read_bytes()
    for damage in (before[:-1] + bytes([before[-1] ^ 1]), before[:-1], before + b"!"):
        copies[0].write_bytes(damage)
        assert whole(url, files, cache.stage(url, KEY, files))
    copies[0].write_bytes(bytes(4500))
    assert not whole(url, files, cache.stage(url, KEY, files, verify=False))


def test_every_changed_byte_and_length_is_found_and_named(folder, cache):
    url, files = folder
    path = storage.join(url, "shard-2")
    data = storage.read_bytes(path)
    changes = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (0, 999, 1000, 2999)]
    for changed in [*changes, data[:-1], data + b"!", b""]:
        storage.write_bytes(path, changed)
        with pytest.raises(DataError, match=r"shard-2 is damaged: it.* its manifest says 3000 bytes with"):
            cache.stage(url, KEY, files)
    storage.delete(path)
    with pytest.raises(DataError, match="shard-2 is missing; prepare it again"):
        cache.stage(url, KEY, files)
    storage.write_bytes(path, data)
    assert whole(url, files, cache.stage(url, KEY, files))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b", ".hidden", "a\n"])
def test_names_are_not_trusted(folder, cache, name):
    url, files = folder
    with pytest.raises(DataError, match="which is no name of a file"):
        cache.stage(url, KEY, [files[0]._replace(name=name)])
    with pytest.raises(DataError, match="which is no name of a file"):
        cache.stage(url, KEY, [files[0]._replace(crc32c=name)])
    with pytest.raises(DataError, match="which is no name of a file"):
        cache.stage(url, name, files)
    assert not cache.folder.exists()


def test_too_small_a_disk_is_said_before_a_byte_is_copied(folder, cache):
    url, files = folder
    with pytest.raises(
        SettingsError, match=r"train.cache_dir = .*cache has [\d,]+ bytes free, 1,000,000,000,004,500 .*--cache-dir"
    ):
        cache.stage(url, KEY, [files[0], files[2]._replace(size=10**15)])
    assert not list((cache.folder / KEY).iterdir())


FULL = """
import resource, sys
from boceto import console, staging, storage
storage.write_bytes("memory://a/b", bytes(9000))
resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))
cache = staging.cache(sys.argv[1], "train.cache_dir", lambda *_: None)
file = staging.File("b", 9000, storage.crc32c(bytes(9000)))
sys.exit(console.run_program("train", lambda _: (cache.stage("memory://a", "key", [file]), False)))
"""


def test_a_disk_that_gets_full_is_one_line_and_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"train.cache_dir = {tmp_path} is full; make room, or give another --cache-dir" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "key").iterdir()) == []


def test_a_folder_that_cannot_be_one_is_refused_by_its_setting(folder, tmp_path):
    url, files = folder
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        cache = staging.cache(str(place), "eval.cache_dir", lambda *_: None)
        with pytest.raises((SettingsError, FileNotFoundError), match=rf"{place}"):
            cache.stage(url, KEY, files)
    for wrong in ("", "gs://bucket/cache"):
        with pytest.raises(SettingsError, match="train.cache_dir = .* is no folder of this machine"):
            staging.cache(wrong, "train.cache_dir", lambda *_: None)


def test_a_folder_that_refuses_is_a_setting_until_it_was_written_and_a_fault_then(folder, cache, monkeypatch):
    def refused(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    url, files = folder
    for error, match in ((SettingsError, "cache_dir = .* cannot be written: Read-only"), (OSError, "Read-only")):
        with monkeypatch.context() as broken:
            broken.setattr(os, "open", refused)
            with pytest.raises(error, match=match):
                cache.stage(url, KEY, files)
        cache.stage(url, KEY, files[:1])


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert staging.cache(staging.DEFAULT, "s", lambda *_: None).folder == Path("/home/someone/.cache/boceto")


def test_progress_is_told_and_can_end_it(folder, tmp_path, monkeypatch):
    url, files = folder
    told = []
    staging.cache(str(tmp_path / "a"), "s", lambda *words: told.append(words)).stage(url, KEY, files)
    text, done, total, unit = told[-1]
    assert (url in text, done, unit) == (True, total, "MB")
    in_pieces(monkeypatch, 1000, lambda url, at: time.sleep(0.3))

    def stop(text, *_):
        raise Stopped(text)

    with pytest.raises(Stopped, match=f"(copying|checking the copy of) {url}"):
        staging.cache(str(tmp_path / "b"), "s", stop).stage(url, KEY, files)
    assert whole(url, files, staging.cache(str(tmp_path / "b"), "s", lambda *_: None).stage(url, KEY, files))


STAGE = """
import sys, time, json
from boceto import staging, storage
download = storage.download
def counted(url, path, progress):
    done = 0
    def told(count):
        nonlocal done
        for _ in range((done + count >> 16) - (done >> 16)):
            print("read\\n", end="", flush=True)
            time.sleep(0.01)
        done += count
        progress(count)
    download(url, path, told)
storage.download = counted
cache = staging.cache(sys.argv[1], "train.cache_dir", lambda *_: None)
files = [staging.File(*file) for file in json.loads(sys.argv[3])]
cache.stage(sys.argv[2], "key", files)
print("done", flush=True)
"""


@pytest.fixture
def stage_apart(bucket, tmp_path):
    """Starts a process that stages two files of 4 MiB in 64 pieces each; returns it. `.copies()` are their contents."""
    data = [np.random.default_rng(number).bytes(4 << 20) for number in range(2)]
    for number, content in enumerate(data):
        storage.write_bytes(f"{bucket}/shard-{number}", content)
    files = json.dumps([(f"shard-{number}", 4 << 20, storage.crc32c(content)) for number, content in enumerate(data)])
    started = []

    def start():
        command = [sys.executable, "-c", STAGE, str(tmp_path / "cache"), bucket, files]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return started[-1]

    def copies():
        paths = (tmp_path / "cache" / "key").iterdir()
        return [path.read_bytes() for path in sorted(paths, key=lambda path: path.name.partition("-")[2])] == data

    yield start, copies
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_share_the_work_and_copy_nothing_twice(stage_apart):
    start, copies = stage_apart
    outputs = [process.communicate(timeout=300)[0].splitlines() for process in [start(), start(), start()]]
    assert [lines[-1] for lines in outputs] == ["done"] * 3
    assert sum(len(lines) - 1 for lines in outputs) == 128
    assert copies()


def test_a_killed_process_gives_its_files_back(stage_apart):
    start, copies = stage_apart
    first, second = start(), None
    for number, line in enumerate(first.stdout):
        if number == 30:
            second = start()
        if number == 60:
            assert line.startswith("read")
            break
    os.kill(first.pid, signal.SIGKILL)
    lines = second.communicate(timeout=300)[0].splitlines()
    assert lines[-1] == "done"
    assert len(lines) - 1 <= 128
    assert copies()
    third = start().communicate(timeout=300)[0]
    assert third == "done\n"
    assert copies()


def _in_memory(folder, tmp_path):
    url = f"memory://sets/{tmp_path.name}"
    for entry in storage.list_files(folder):
        storage.write_bytes(storage.join(url, storage.relative(entry.url, folder)), storage.read_bytes(entry.url))
    return url


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_staged_data_set_is_the_local_one(make_data, tmp_path, cache, encoding):
    local = dataset.load(make_data(encoding=encoding))
    url = _in_memory(local.url, tmp_path)
    staged, unstaged = dataset.load(url, cache), dataset.load(url)
    expected = local.split("train")
    for data in (staged, unstaged):
        train = data.split("train")
        assert (train.labels == expected.labels).all()
        assert (train.images(np.arange(24)) == expected.images(np.arange(24))).all()
    # The test split was not asked for.
    assert len(list((cache.folder / local.manifest.digest).iterdir())) == 4  # Two shards, each with its index.
    storage.delete_folder(url)
    assert len(staged.split("train")) == 24
    with pytest.raises(DataError, match="memory://.*test-0000.-of-00002.(tfrecord|index) is missing"):
        staged.split("test")


def test_a_damaged_copy_of_an_index_is_replaced(make_data, tmp_path, cache):
    data = dataset.load(_in_memory(make_data(), tmp_path), cache)
    data.split("train")
    copies = sorted(cache.folder.rglob("*.index"))
    whole_files = [copy.read_bytes() for copy in copies]
    for copy, content in zip(copies, whole_files, strict=True):
        copy.write_bytes(bytes(len(content)))
    assert len(data.split("train")) == 24
    assert [copy.read_bytes() for copy in copies] == whole_files


def test_an_error_under_the_lock_stays_the_error(folder, cache, monkeypatch):
    def fails(*_):
        raise BlockingIOError("busy")

    monkeypatch.setattr(storage, "download", fails)
    with pytest.raises(BlockingIOError, match="busy"):
        cache.stage(folder[0], "key", folder[1])


def test_two_encodings_of_one_digest_do_not_meet_in_the_cache(make_data, tmp_path, cache):
    for encoding in ("raw", "png", "raw"):
        local = make_data(encoding=encoding, name=encoding)
        url = _in_memory(local, tmp_path)
        images = dataset.load(url, cache).split("test").images(np.arange(12))
        assert (images == dataset.load(local).split("test").images(np.arange(12))).all()


def test_any_flipped_byte_of_a_data_set_is_found(make_data, tmp_path, cache):
    url = _in_memory(make_data(classes=2, train=2, test=0, shards=1), tmp_path)
    for name in ("dataset.json", "train-00000-of-00001.tfrecord", "train-00000-of-00001.index"):
        path = storage.join(url, name)
        whole_file = storage.read_bytes(path)
        for at in range(0, len(whole_file), max(1, len(whole_file) // 150)):
            changed = bytearray(whole_file)
            changed[at] ^= 1 << at % 8
            storage.write_bytes(path, bytes(changed))
            staging_again = staging.cache(str(tmp_path / f"cache-{name}-{at}"), "s", lambda *_: None)
            try:
                split = dataset.load(url, staging_again).split("train")
            except DataError:
                continue
            assert name == "dataset.json"  # A note, such as the seed, may say something else: what is read may not.
            storage.write_bytes(path, whole_file)
            assert (split.images(np.arange(4)) == dataset.load(url).split("train").images(np.arange(4))).all()
        storage.write_bytes(path, whole_file)


def test_who_is_asked_to_stop_does_not_wait_for_a_silent_storage(folder, tmp_path, monkeypatch):
    url, files = folder
    silent, go = threading.Event(), threading.Event()

    def falls_silent(_, start):
        if start >= 2000:
            silent.set()
            go.wait(600)

    def tell(*_):
        if silent.is_set():
            raise Stopped("asked to")

    began = time.monotonic()
    with monkeypatch.context() as broken:
        in_pieces(broken, 1000, falls_silent)
        with pytest.raises(Stopped):
            staging.cache(str(tmp_path / "cache"), "s", tell).stage(url, KEY, files)
        assert time.monotonic() - began < 300  # And not the 600 of the silence.
        go.set()
        for thread in threading.enumerate():
            if thread.name.startswith("staging"):
                thread.join()
    assert whole(url, files, staging.cache(str(tmp_path / "cache"), "s", lambda *_: None).stage(url, KEY, files))
