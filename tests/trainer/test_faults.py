"""What goes wrong outside of a run while it runs: a clear line, the right exit code, and a rerun that goes on."""

import contextlib
import threading
import time
from urllib.parse import quote

import pytest
import requests
from faulty_proxy import FaultyProxy, answer

from boceto import checkpoint, storage
from boceto.stores import gs
from boceto.stores.gs import RetryLimits
from trainer import batches

LONG = ("--epochs", "4000")  # More than it takes to be hit; were it not, the run would end with 0.


@contextlib.contextmanager
def once(happened, action):
    """Does `action` in a thread, as soon as `happened()`."""
    over = threading.Event()

    def watch():
        while not over.is_set():
            if happened():
                action()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def once_saved(run, action):
    """Does `action` in a thread, as soon as the run has a checkpoint."""
    return once(lambda: any((run.folder / checkpoint.FOLDER).glob(f"*/{checkpoint.COMMIT}")), action)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 0x10  # Of the last record.
    with path.open("r+b") as file:  # In place: what is open sees it.
        file.write(data)


def cut(path):
    with path.open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(("damage", "said"), [(flip, "is damaged: the record at byte"), (cut, "was cut off while")])
def test_a_shard_damaged_under_a_run_ends_it_and_a_mended_one_goes_on(make_run, damage, said):
    run = make_run(classes=3, train=8)
    name = "train-00001-of-00002.tfrecord"
    shard = run.folder.parent / "data" / name
    whole = shard.read_bytes()
    with once_saved(run, lambda: damage(shard)):
        code, text = run.train(*LONG)
    assert code == 65
    assert f"{name} {said}" in text
    last = run.steps()[-1]
    checkpoint.load(str(run.folder), last)
    code, text = run.train(*LONG, "--verify")
    assert code == 65
    assert f"{shard} {'is damaged: its checksum' if damage is flip else 'has 100 bytes'}" in text
    assert run.steps()[-1] == last  # Seen before the first step.
    shard.write_bytes(whole)
    code, text = run.train("--max-steps", str(last + 2), *LONG)
    assert code == 0
    assert f"goes on after step {last}" in text


def test_a_shard_deleted_under_a_run_is_missed_by_the_next_one_only(make_run):
    run = make_run(classes=3, train=8)
    shard = run.folder.parent / "data" / "train-00000-of-00002.tfrecord"
    with once_saved(run, shard.unlink):
        assert run.train("--epochs", "30")[0] == 0
    code, text = run.train("--epochs", "31")
    assert code == 65
    assert "train-00000-of-00002.tfrecord is missing; prepare it again" in text


@pytest.mark.parametrize("fails", ["reader", "thread"])
def test_too_little_memory_to_read_ends_the_run_with_what_it_has(make_run, monkeypatch, fails):
    run = make_run(classes=3, train=8)
    assert run.train("--epochs", "1")[0] == 0

    def no_memory(*_):
        if fails == "reader":
            raise MemoryError
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        if fails == "reader":
            broken.setattr(batches.TrainingSet, "read", no_memory)
        else:
            broken.setattr(batches.ThreadPoolExecutor, "submit", no_memory)
        code, text = run.train("--epochs", "2")
    assert code == 1, text
    assert "too little memory to read the records of step 4 with 2 threads; give it more, or run" in text
    assert run.steps() == [3]
    assert run.train("--epochs", "2")[0] == 0


def _bucket_goes(emulator):
    """Deletes the bucket with all that is in it; returns what was in it."""
    bucket = f"{emulator.url}/storage/v1/b/{emulator.bucket[5:]}"
    kept = {}
    while requests.delete(bucket, timeout=60).status_code != 200:
        for item in requests.get(f"{bucket}/o", timeout=60).json().get("items", ()):
            address = f"{bucket}/o/{quote(item['name'], safe='')}"
            found = requests.get(address, params={"alt": "media"}, timeout=60)
            # A file that was written again meanwhile is deleted in the next round.
            gone = requests.delete(address, params={"ifGenerationMatch": item["generation"]}, timeout=60)
            if gone.ok:
                kept[item["name"]] = found.content
    return kept


def _bucket_comes_back(emulator, kept):
    requests.post(f"{emulator.url}/storage/v1/b", json={"name": emulator.bucket[5:]}, timeout=60).raise_for_status()
    del kept["run/lease.json"]  # It names this process, which a run of its own would have ended with.
    for name, content in kept.items():
        storage.write_bytes(storage.join(emulator.bucket, name), content)


def test_a_bucket_that_goes_under_a_run_is_a_fault_and_the_run_goes_on_when_it_is_back(make_run, emulator, monkeypatch):
    run = make_run(classes=3, train=8)
    far = f"{emulator.bucket}/run"
    kept, send, writes = {}, gs.Store._send, threading.Lock()

    def sends(store, *words):  # Nothing is written while the bucket goes, so that `kept` is of one moment.
        with writes:
            return send(store, *words)

    def goes():
        with writes:
            kept.update(_bucket_goes(emulator))

    monkeypatch.setattr(gs.Store, "_send", sends)

    def saved():
        return any(checkpoint.is_committed(urls) for urls in checkpoint.files(far).values())

    with once(saved, goes):
        code, text = run.train(*LONG, "--run", far)
    assert code == 1, text
    assert f"{emulator.bucket}: the bucket existed and is gone; make it again" in text.splitlines()[-1]
    assert "Traceback" not in text
    _bucket_comes_back(emulator, kept)
    last = max(checkpoint.files(far))
    code, text = run.train("--max-steps", str(last + 3), *LONG, "--run", far)
    assert code == 0, text
    assert run.train("--max-steps", str(last + 3), *LONG)[0] == 0
    assert (
        checkpoint.commit(far, last + 3).progress.ledger == checkpoint.commit(str(run.folder), last + 3).progress.ledger
    )


def test_a_staged_copy_damaged_under_a_run_ends_it_and_is_replaced_by_the_next_one(make_run, emulator, tmp_path):
    run = make_run(classes=3, train=8)
    far, cache = f"{emulator.bucket}/data", tmp_path / "cache"
    for entry in storage.list_files(str(tmp_path / "data")):
        name = storage.relative(entry.url, str(tmp_path / "data"))
        storage.write_bytes(storage.join(far, name), storage.read_bytes(entry.url))
    flags = ("--data", far, "--cache-dir", str(cache))

    def damage():
        flip(next(cache.glob("*/*train-00001-of-00002.tfrecord")))

    with once_saved(run, damage):
        code, text = run.train(*LONG, *flags)
    assert code == 65
    assert "train-00001-of-00002.tfrecord is damaged" in text
    assert "run the same command again with --verify" in text
    assert run.train("--verify", "--max-steps", str(run.steps()[-1] + 1), *LONG, *flags)[0] == 0


@pytest.mark.parametrize("place", ["/sys/boceto", "/dev/full", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(make_run, emulator, tmp_path, place):
    (tmp_path / "file").write_text("in the way of a folder")
    run, there = make_run(classes=3, train=8), str(tmp_path / place)
    code, text = run.train("--run", there)
    assert code == 2
    assert f"train.run = {there} cannot be written" in text
    storage.upload(tmp_path / "data" / "dataset.json", f"{emulator.bucket}/data/dataset.json")
    code, text = run.train("--data", f"{emulator.bucket}/data", "--cache-dir", there)
    assert code == 2
    assert f"train.cache_dir = {there}" in text
    assert "give another --cache-dir" in text


def test_a_quota_that_stays_used_up_is_a_fault_and_the_run_goes_on_when_there_is_more(make_run, emulator, monkeypatch):
    run = make_run(classes=3, train=8)
    far = f"{emulator.bucket}/run"
    hasty = RetryLimits(deadline=0.5, first_delay=0.01, longest_delay=0.1)
    with FaultyProxy(emulator.url) as proxy:
        store = gs.Store(hasty, proxy.url)
        monkeypatch.setattr(gs, "Store", lambda: store)
        storage._of_scheme.cache_clear()

        def saved():
            return any(checkpoint.is_committed(urls) for urls in checkpoint.files(far).values())

        with once(saved, lambda: proxy.add(answer(429), method="POST", count=10**6)):
            code, text = run.train(*LONG, "--run", far)
        assert code == 1, text
        assert "the quota is used up within 0.5 s" in text
        assert "(2 in a row); it is tried again" in text
        tries = [request for request in proxy.log if request.status == 429]
        assert len(tries) > 20
        proxy.clear()
        storage.delete(f"{far}/lease.json")  # It names this process, which a run of its own would have ended with.
        last = max(step for step, urls in checkpoint.files(far).items() if checkpoint.is_committed(urls))
        code, text = run.train("--max-steps", str(last + 3), *LONG, "--run", far)
        assert code == 0
        assert f"goes on after step {last}" in text
