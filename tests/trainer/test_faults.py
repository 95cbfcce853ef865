"""What goes wrong outside of a run while it runs: a clear line, the right exit code, and a rerun that goes on."""

import contextlib
import threading
import time

import pytest

from boceto import checkpoint
from trainer import batches

LONG = ("--epochs", "400")  # More than it takes to be hit; were it not, the run would end with 0.


@contextlib.contextmanager
def once_saved(run, action):
    """Does `action` in a thread, as soon as the run has a checkpoint."""
    over = threading.Event()

    def watch():
        while not over.is_set():
            if any((run.folder / checkpoint.FOLDER).glob(f"*/{checkpoint.COMMIT}")):
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
    assert run.train(*LONG)[0] == 65  # Seen before the first step now.
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
            broken.setattr(batches.Source, "read", no_memory)
        else:
            broken.setattr(batches.ThreadPoolExecutor, "submit", no_memory)
        code, text = run.train("--epochs", "2")
    assert code == 1
    assert "too little memory to read the records of step 4 with 2 threads; give it more, or run" in text
    assert run.steps() == [3]
    assert run.train("--epochs", "2")[0] == 0
