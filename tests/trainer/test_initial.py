import shutil

import numpy as np
import pytest

from boceto import storage
from boceto.checkpoint import Progress
from trainer.checkpoints import Checkpoints

STEPS = ("--max-steps", "2", "--save-every", "1")


@pytest.fixture
def source(make_run):
    """A run over drawings of two classes, with batch norm's statistics and an average."""
    run = make_run("source", classes=2)
    assert run.train(*STEPS, "--ema", "0.5")[0] == 0
    return run


@pytest.fixture
def tuned(source, make_run, make_data):
    """A run over drawings of three classes."""
    run = make_run("tuned")
    run.flags += ["--data", make_data(name="other", classes=3)]
    return run


def exported(source, bucket):
    return str(source.folder)


def export_folder(source, bucket):
    return f"{source.folder}/export/"


def copied_artefact(source, bucket):
    copy = source.folder.parent / "best model"
    shutil.move(source.folder / "export", copy)
    shutil.rmtree(source.folder)
    return str(copy)


def artefact_in_object_storage(source, bucket):
    for entry in storage.list_files(str(source.folder / "export")):
        name = storage.relative(entry.url, str(source.folder / "export"))
        storage.write_bytes(f"{bucket}/models/v1/{name}", storage.read_bytes(entry.url))
    return f"{bucket}/models/v1"


def checkpoints(source, bucket):
    shutil.rmtree(source.folder / "export")
    return str(source.folder)


def object_storage(source, bucket):
    for entry in storage.list_files(str(source.folder)):
        name = storage.relative(entry.url, str(source.folder))
        storage.write_bytes(f"{bucket}/source/{name}", storage.read_bytes(entry.url))
    return f"{bucket}/source"


@pytest.mark.parametrize(
    "place",
    [exported, export_folder, copied_artefact, artefact_in_object_storage, checkpoints, object_storage],
)
def test_a_run_starts_from_weights_of_other_classes(source, tuned, emulator, place):
    origin = source.arrays(2)
    code, said = tuned.train(*STEPS, "--init", place(source, emulator.bucket), "--learning-rate", "0", "--ema", "0.9")
    assert code == 0, said
    assert "that begin as in a new run: fc_2/kernel, fc_2/bias; arrays that are not used" in said
    found = tuned.arrays(2)
    for name in (name for name in found if name.startswith("weights/") and "fc_2" not in name):
        average = origin[name.replace("weights/", "ema/")]
        np.testing.assert_array_equal(found[name], average, name)
        np.testing.assert_allclose(found[name.replace("weights/", "ema/")], average, rtol=1e-6)
    assert any(name.startswith("statistics/") for name in found)
    assert (tuned.folder / "export" / "artefact.json").exists()


def test_a_run_goes_on_exactly_without_its_source(source, tuned, make_run, tmp_path):
    flags = ["--init", str(source.folder), "--dropout", "0.2"]
    whole = make_run("whole")
    whole.flags = [*tuned.flags, "--run", str(whole.folder)]
    assert whole.train(*flags, "--max-steps", "4")[0] == 0
    assert tuned.train(*flags, *STEPS)[0] == 0
    shutil.copytree(source.folder, tmp_path / "copy")
    assert source.train("--max-steps", "3", "--save-every", "1", "--ema", "0.5")[0] == 0
    for other, why in (
        ([], "train.init = '': "),
        (["--init", str(source.folder / "export")], "has started from other weights; give the old --init"),
        (["--init", str(tmp_path / "copy"), "--dropout", "0.3"], "train.dropout = 0.3"),
        (["--init", str(tmp_path / "nowhere")], "nowhere is not there; give the folder of a run or of an artefact"),
    ):
        code, said = tuned.train("--dropout", "0.2", *other, "--max-steps", "4")
        assert (code, why in said) == (2, True), said
    shutil.rmtree(source.folder)
    code, said = tuned.train(*flags, "--max-steps", "4")
    assert code == 0, said
    expected, found = whole.arrays(4), tuned.arrays(4)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_what_holds_no_weights_that_fit_is_refused(tuned, tmp_path):
    storage.write_bytes(str(tmp_path / "empty" / "file"), b"")
    Checkpoints(str(tmp_path / "foreign"), "data", {}, 8, 3).save(
        {"weights/x": np.ones(3, np.float32)}, Progress(step=1)
    )
    for name, why in (
        ("empty", "holds no weights: it has neither an export nor a checkpoint"),
        ("foreign", "none of its 1 arrays that are no biases fits this net"),
    ):
        code, said = tuned.train(*STEPS, "--init", str(tmp_path / name))
        assert (code, why in said) == (2, True), said
