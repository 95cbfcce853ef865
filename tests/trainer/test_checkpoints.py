import io
import json

import numpy as np
import pytest

from boceto import storage
from boceto.console import Console
from boceto.errors import DataError
from trainer.checkpoints import ARRAYS, COMMIT, Checkpoints, Progress
from trainer.log import Log

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def log(said):
    return Log(Console(said), "text")


@pytest.fixture(params=["memory", "files"])
def run(request, tmp_path):
    return f"memory://checkpoints/{tmp_path.name}" if request.param == "memory" else str(tmp_path)


@pytest.fixture
def checkpoints(run):
    return Checkpoints(run, "data", {"seed": 0}, 8, keep=2)


def save(checkpoints, *steps, **progress):
    for step in steps:
        checkpoints.save({"weights/a": ARRAY + step}, Progress(step=step, **progress))


def url(run, step, name):
    return storage.join(run, "checkpoints", f"{step:010}", name)


def test_what_was_saved_is_restored(checkpoints, log):
    assert checkpoints.newest(log) is None
    save(checkpoints, 3, train_accuracy=0.5)
    commit, arrays = checkpoints.newest(log)
    assert (commit.step, commit.position, commit.data_digest, commit.settings) == (3, 24, "data", {"seed": 0})
    assert commit.progress == Progress(step=3, train_accuracy=0.5)
    assert (arrays["weights/a"] == ARRAY + 3).all()
    assert arrays["weights/a"].dtype == np.float32


def test_the_newest_and_the_best_are_kept(checkpoints, run):
    save(checkpoints, 1, 2, 3, 4, 5, best_step=2)
    names = [storage.relative(entry.url, run) for entry in storage.list_files(run)]
    assert [name for name in names if name.endswith(COMMIT)] == [
        f"checkpoints/{step:010}/{COMMIT}" for step in (2, 4, 5)
    ]


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_ones_beyond_the_saved_step_make_room_for_it(run, log, keep):
    checkpoints = Checkpoints(run, "data", {"seed": 0}, 8, keep)
    save(checkpoints, 1, 2)
    save(Checkpoints(run, "data", {"seed": 0}, 8, 9), 4, 5)
    for step in (4, 5):
        storage.write_bytes(url(run, step, ARRAYS), b"damaged")
    save(checkpoints, 3)
    assert checkpoints.newest(log)[0].step == 3
    steps = {storage.relative(entry.url, run).split("/")[1] for entry in storage.list_files(run)}
    assert steps == {f"{step:010}" for step in range(4 - keep, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": []}, r"files is \[\], not an object"),
        ({"files": {}}, "files has no arrays.npz"),
        ({"files": {ARRAYS: {"bytes": "x", "crc32c": ""}}}, "files.arrays.npz.bytes is 'x', not a whole number"),
        ({"settings": 5}, "settings is 5, not an object"),
        ({"progress": {"step": "x"}}, "progress.step is 'x', not a whole number"),
        ({"progress": {"step": 1}}, "it is of step 2 and progress.step 1, not 2"),
    ],
)
def test_a_field_of_another_type_is_named(checkpoints, run, change, message):
    save(checkpoints, 2)
    commit = json.loads(storage.read_bytes(url(run, 2, COMMIT)))
    storage.write_bytes(url(run, 2, COMMIT), json.dumps(commit | change).encode())
    with pytest.raises(DataError, match=f"0000000002/COMMIT is damaged: {message}"):
        checkpoints.load(2)


def _torn(run):
    storage.delete(url(run, 2, COMMIT))


def _cut_off(run):
    storage.write_bytes(url(run, 2, ARRAYS), storage.read_bytes(url(run, 2, ARRAYS))[:-10])


def _flipped(run):
    data = bytearray(storage.read_bytes(url(run, 2, ARRAYS)))
    data[100] ^= 1
    storage.write_bytes(url(run, 2, ARRAYS), bytes(data))


def _no_json(run):
    storage.write_bytes(url(run, 2, COMMIT), b'{"format": "boceto-ch')


def _no_arrays(run):
    storage.delete(url(run, 2, ARRAYS))


@pytest.mark.parametrize("damage", [_torn, _cut_off, _flipped, _no_json, _no_arrays])
def test_a_damaged_one_is_skipped_with_a_warning(checkpoints, run, log, said, damage):
    save(checkpoints, 1, 2)
    damage(run)
    commit, arrays = checkpoints.newest(log)
    assert commit.step == 1
    assert (arrays["weights/a"] == ARRAY + 1).all()
    assert said.getvalue().startswith("warning: ")
    assert "0000000002" in said.getvalue()


def test_none_whole_is_an_error_and_no_new_start(checkpoints, run, log):
    save(checkpoints, 2)
    _flipped(run)
    with pytest.raises(DataError, match="1 checkpoints and none is whole"):
        checkpoints.newest(log)


def test_the_beginning_of_a_first_save_is_no_checkpoint(checkpoints, run, log):
    storage.write_bytes(url(run, 2, f"{ARRAYS}.123-456.partial"), b"PK")
    assert checkpoints.newest(log) is None


def test_a_first_save_without_its_commit_is_no_checkpoint_but_two_are_an_error(checkpoints, run, log, said):
    save(checkpoints, 1)
    storage.delete(url(run, 1, COMMIT))
    assert checkpoints.newest(log) is None
    assert "torn" in said.getvalue()
    save(checkpoints, 2)
    storage.delete(url(run, 2, COMMIT))
    with pytest.raises(DataError, match="2 checkpoints and none is whole"):
        checkpoints.newest(log)


def test_what_is_not_finite_is_not_saved(checkpoints, log):
    with pytest.raises(DataError, match=r"step 4: weights/a is not finite.*--learning-rate"):
        checkpoints.save({"weights/a": ARRAY + np.inf}, Progress(step=4))
    assert checkpoints.newest(log) is None


def test_the_same_state_is_the_same_bytes(run):
    first, second = (storage.join(run, name) for name in "ab")
    for folder in (first, second):
        save(Checkpoints(folder, "data", {"seed": 0}, 8, keep=2), 2)
    for name in (ARRAYS, COMMIT):
        assert storage.read_bytes(url(first, 2, name)) == storage.read_bytes(url(second, 2, name))
