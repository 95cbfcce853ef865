import io
import json

import numpy as np
import pytest
import safetensors.numpy

from boceto import checkpoint, contract, lease, storage
from boceto import run as runs
from boceto.checkpoint import COMMIT, Progress
from boceto.console import Console
from boceto.errors import DataError, Stopped
from boceto.lease import Heartbeat, Holder
from trainer.checkpoints import Checkpoints, Damaged
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
    return storage.join(checkpoint.folder_of(run, step), name)


def arrays_url(run, step):
    return url(run, step, checkpoint.commit(run, step).arrays.name)


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


def test_a_foreign_file_stays_and_is_reported(run, log):
    alerts = []
    checkpoints = Checkpoints(run, "data", {"seed": 0}, 8, keep=1, alert=alerts.append)
    save(checkpoints, 1)
    foreign = url(run, 1, "notes.txt")
    storage.write_bytes(foreign, b"mine")
    save(checkpoints, 2, 3)
    assert checkpoint.files(run)[1] == [foreign]
    assert alerts == [f"{foreign} is no file of Boceto's: it stays, its checkpoint is removed"]
    save(checkpoints, 4)
    assert (len(alerts), checkpoints.newest(log)[0].step) == (1, 4)


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_ones_beyond_the_saved_step_make_room_for_it(run, log, keep):
    checkpoints = Checkpoints(run, "data", {"seed": 0}, 8, keep)
    save(checkpoints, 1, 2)
    save(Checkpoints(run, "data", {"seed": 0}, 8, 9), 4, 5)
    for step in (4, 5):
        storage.write_bytes(arrays_url(run, step), b"damaged")
    save(checkpoints, 3)
    assert checkpoints.newest(log)[0].step == 3
    steps = {storage.relative(entry.url, run).split("/")[1] for entry in storage.list_files(run)}
    assert steps == {f"{step:010}" for step in range(4 - keep, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrays": []}, r"arrays is \[\], not an object"),
        ({"arrays": {"name": "../arrays-0.safetensors", "bytes": 1, "crc32c": ""}}, "arrays.name is '../arrays-0"),
        ({"arrays": {"name": "a", "bytes": "x", "crc32c": ""}}, "arrays.bytes is 'x', not a whole number"),
        ({"settings": 5}, "settings is 5, not an object"),
        ({"settings": {"seed": 1}}, "settings_digest is not the settings'"),
        ({"progress": {"step": "x"}}, "progress.step is 'x', not a whole number"),
        ({"progress": {"step": 1}}, "it is of step 2 and progress.step 1, not 2"),
    ],
)
def test_a_field_of_another_type_is_named(checkpoints, run, change, message):
    save(checkpoints, 2)
    commit = json.loads(storage.read_bytes(url(run, 2, COMMIT)))
    storage.write_bytes(url(run, 2, COMMIT), contract.sealed(commit | change))
    with pytest.raises(DataError, match=f"0000000002/COMMIT is damaged: {message}"):
        checkpoint.load(run, 2)


def test_every_flipped_byte_is_noticed(checkpoints, run):
    save(checkpoints, 2)
    for path in (url(run, 2, COMMIT), arrays_url(run, 2)):
        whole = storage.read_bytes(path)
        for at in range(len(whole)):
            storage.write_bytes(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(DataError, match="damaged|missing"):
                checkpoint.load(run, 2)
        storage.write_bytes(path, whole)
    assert checkpoint.load(run, 2)[0].step == 2


def _torn(run):
    storage.delete(url(run, 2, COMMIT))


def _cut_off(run):
    storage.write_bytes(arrays_url(run, 2), storage.read_bytes(arrays_url(run, 2))[:-10])


def _flipped(run):
    data = bytearray(storage.read_bytes(arrays_url(run, 2)))
    data[100] ^= 1
    storage.write_bytes(arrays_url(run, 2), bytes(data))


def _no_json(run):
    storage.write_bytes(url(run, 2, COMMIT), b'{"format": "boceto-ch')


def _no_arrays(run):
    storage.delete(arrays_url(run, 2))


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


def test_a_finished_run_whose_checkpoints_are_gone_is_an_error_and_no_new_start(checkpoints, run, log):
    described = {"stop_criterion": {}, "hyperparameters": {}, "data_digest": "0", "records": 8, "checkpoints": []}
    runs.write(run, described | {"result": None})
    assert checkpoints.newest(log) is None
    runs.write(run, described | {"result": {"step": 5}})
    with pytest.raises(DataError, match=r"has no whole checkpoint, but run\.json says that the run was finished"):
        checkpoints.newest(log)


def test_a_torn_one_alone_is_an_error_where_the_lease_tells_of_a_whole_one(checkpoints, run, log):
    save(checkpoints, 4)
    storage.delete(url(run, 4, COMMIT))
    holder = Holder("token", "here", "", 7, "", 1.0, 0.0, released=True, heartbeat=Heartbeat(6, saved=4))
    storage.write_bytes(storage.join(run, lease.NAME), holder.to_json())
    with pytest.raises(DataError, match=r"has no whole checkpoint, but lease\.json says that step 4 was saved"):
        checkpoints.newest(log)
    assert any(entry.url.endswith(".safetensors") for entry in storage.list_files(run))


def test_the_beginning_of_a_first_save_is_no_checkpoint(checkpoints, run, log):
    storage.write_bytes(url(run, 2, "arrays-0.safetensors.123-456.partial"), b"PK")
    assert checkpoints.newest(log) is None


def test_a_first_save_without_its_commit_is_no_checkpoint_but_two_are_an_error(checkpoints, run, log, said):
    storage.write_bytes(url(run, 1, "arrays-0.safetensors"), b"whole or not")
    assert checkpoints.newest(log) is None
    assert "torn" in said.getvalue()
    assert not checkpoint.files(run)  # Or a second kill in a first save would leave two.
    for step in (1, 2):
        storage.write_bytes(url(run, step, "arrays-0.safetensors"), b"whole or not")
    with pytest.raises(DataError, match="2 checkpoints and none is whole"):
        checkpoints.newest(log)
    save(checkpoints, 3)
    assert list(checkpoint.files(run)) == [3]


def test_every_so_many_steps_one_is_kept(run):
    checkpoints = Checkpoints(run, "data", {}, 8, keep=1, keep_every=4)
    save(checkpoints, *range(1, 11))
    assert list(checkpoint.files(run)) == [4, 8, 10]


def test_nothing_is_removed_before_the_next_one_is_verified(checkpoints, run, monkeypatch):
    save(checkpoints, 1, 2)
    monkeypatch.setattr(storage, "checksum", lambda path: (0, "00000000"))
    with pytest.raises(Damaged, match="is the disk sound"):
        save(checkpoints, 3)
    monkeypatch.undo()
    assert [step for step, urls in checkpoint.files(run).items() if checkpoint.is_committed(urls)] == [1, 2]


def test_who_lost_the_run_commits_and_removes_nothing(checkpoints, run):
    save(checkpoints, 1, 2)

    def lost():
        raise Stopped("taken over")

    with pytest.raises(Stopped):
        save(Checkpoints(run, "data", {"seed": 0}, 8, 1, 0, lost), 3)
    assert [step for step, urls in checkpoint.files(run).items() if checkpoint.is_committed(urls)] == [1, 2]


def test_the_safetensors_library_reads_the_arrays(checkpoints, run):
    save(checkpoints, 2)
    found = safetensors.numpy.load(storage.read_bytes(arrays_url(run, 2)))
    assert (found["weights/a"] == ARRAY + 2).all()


def test_what_is_not_finite_is_not_saved(checkpoints, log):
    with pytest.raises(DataError, match=r"step 4: weights/a is not finite.*--learning-rate"):
        checkpoints.save({"weights/a": ARRAY + np.inf}, Progress(step=4))
    assert checkpoints.newest(log) is None


def test_the_same_state_is_the_same_bytes(run):
    first, second = (storage.join(run, name) for name in "ab")
    for folder in (first, second):
        save(Checkpoints(folder, "data", {"seed": 0}, 8, keep=2), 2)
    assert storage.read_bytes(arrays_url(first, 2)) == storage.read_bytes(arrays_url(second, 2))


@pytest.mark.parametrize(
    "case",
    [
        ({"epoch_correct": 10**400}, "progress.epoch_correct is too large"),
        ({"epoch_correct": 9}, "epoch_correct is 9, not a number from 0 to 8"),
        ({"epoch_records": -8}, "epoch_records is -8"),
        ({"best_step": 2**60}, "progress.best_step is too large"),
        ({"validations_since_best": -(10**400)}, "progress.validations_since_best is too large"),
        ({"train_accuracy": 1e300}, "train_accuracy is 1e+300, not a number from -1 to 1"),
        ({"ledger": "spoiled"}, "ledger is 'spoiled'"),
        ({"seconds": {"computing": 1e308}}, "computing is 1e+308"),
        ({"seconds": {"computing": -1.0}}, "computing is -1.0"),
        ({"seconds": {"computing": 4e11, "waiting": 4e11}}, "seconds is 800000000000.0"),
        ({"seconds": {"lowest": 1e12}}, "seconds is 1000000000000.0"),
        ({"skipped": 2**53}, "progress.skipped is too large"),
        ({"window": {"steps": -1}}, "steps is -1"),
        ({"window": {"steps": 10**400}}, "progress.window.steps is too large"),
    ],
)
def test_a_sealed_commit_with_impossible_numbers_is_damaged(checkpoints, run, log, said, case):
    changes, named = case
    save(checkpoints, 1, 2, epoch_records=8)
    path = url(run, 2, COMMIT)
    entry = json.loads(storage.read_bytes(path))
    entry["progress"] |= changes
    storage.write_bytes(path, contract.sealed({name: value for name, value in entry.items() if name != "seal"}))
    assert checkpoints.newest(log)[0].step == 1
    assert f"{path} is damaged: {named}" in said.getvalue()


@pytest.mark.parametrize("number", ["1e400", "-1e999", "NaN", "Infinity"])
def test_no_number_in_a_document_is_too_large_for_the_next_one(number):
    with pytest.raises(ValueError, match="is no finite number"):
        contract.decode(f'{{"result": {{"accuracy": {number}}}}}'.encode())
