"""Settings that cannot lead to what they ask for are refused at the start, in words."""

import dataclasses

import numpy as np
import pytest

from boceto import checkpoint, storage
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.errors import SettingsError
from boceto.settings import build
from trainer.batches import StepRange, TrainingSet
from trainer.checkpoints import NotFinite
from trainer.meter import MOST_SKIPPED, GoodputTimer, Meter
from trainer.saver import TrainState
from trainer.settings import Settings


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ((), "nothing is held for validation"),
        (("--validation-share", "0.2", "--validate-every", "0"), "train.validate_every = 0"),
    ],
)
def test_patience_without_a_validation_is_refused(make_run, flags, why):
    code, said = make_run().train("--patience", "3", *flags)
    assert code == 2
    assert f"train.patience = 3 can never act: {why}; use --validation-share 0.1" in said


def test_patience_with_a_validation_split_is_not_refused(make_run):
    assert make_run(validation=2).train("--patience", "3", "--max-steps", "1")[0] == 0


def test_fewer_epochs_or_steps_than_were_done_are_refused_and_change_nothing(make_run):
    run = make_run()  # 3 steps an epoch.
    assert run.train("--epochs", "2")[0] == 0
    before = (run.folder / "run.json").read_bytes()
    for flags, named in (
        (("--epochs", "1"), "train.epochs = 1 ends with step 3"),
        (("--epochs", "2", "--max-steps", "4"), "train.max_steps = 4 ends with step 4"),
    ):
        code, said = run.train(*flags)
        assert code == 2
        assert f"{named}, and {run.folder} has come to step 6; use a larger one, or another --run" in said
    assert (run.folder / "run.json").read_bytes() == before
    assert run.train("--epochs", "2")[0] == 0


@pytest.mark.parametrize("dangles", [False, True])
def test_an_export_that_is_a_link_is_refused_and_left_alone(make_run, tmp_path, dangles):
    run, mine = make_run(), tmp_path / "mine"
    run.folder.mkdir()
    if not dangles:
        mine.mkdir()
        (mine / "kept").write_text("kept")
    (run.folder / "export").symlink_to(mine)
    code, said = run.train("--max-steps", "1")
    assert code == 2
    assert f"{run.folder}/export is a link, and an export replaces the folder; remove the link" in said
    assert (run.folder / "export").is_symlink()
    assert dangles or (mine / "kept").read_text() == "kept"
    (run.folder / "export").unlink()
    assert run.train("--max-steps", "1")[0] == 0


FLOATS = [field.name for field in dataclasses.fields(Settings) if field.type in {float, float | None}]


@pytest.mark.parametrize("name", FLOATS)
def test_a_number_that_float32_cannot_hold_is_refused(name):
    with pytest.raises(SettingsError, match=rf"^train\.{name} = 1e\+300 is too large; use at most [0-9]"):
        build(Settings, "train", {"data": "d", "run": "r", name: "1e300"})


def test_there_are_such_settings_and_what_float32_holds_is_taken():
    assert {"learning_rate", "weight_decay", "clip_norm", "grace", "wait"} <= {*FLOATS}
    assert build(Settings, "train", {"data": "d", "run": "r", "learning_rate": "1e38"}).learning_rate == 1e38


class Scalars:
    def __init__(self, norm):
        self.norm = norm

    def numpy(self):
        return np.array([[1.0, 1, self.norm]], np.float32)


class Numbers(TrainingSet):
    def __len__(self):
        return 8000


def meter(progress=None):
    return Meter(Numbers(None, None, 0, 8), TrainState(None, progress or Progress()), GoodputTimer())


def test_a_run_whose_gradients_are_never_finite_ends_in_words_over_all_its_sessions():
    running = meter()
    for step in range(MOST_SKIPPED - 1):
        running.add(StepRange(step, step + 1), Scalars(np.inf), [b"digest"])
    progress = running.settle()
    assert progress.skipped == MOST_SKIPPED - 1
    again = meter(progress)
    with pytest.raises(NotFinite, match=rf"step {MOST_SKIPPED}: the gradients of {MOST_SKIPPED} steps in a row are"):
        again.add(StepRange(MOST_SKIPPED - 1, MOST_SKIPPED), Scalars(np.nan), [b"digest"])
    fine = meter(progress)
    fine.add(StepRange(MOST_SKIPPED - 1, MOST_SKIPPED), Scalars(1.0), [b"digest"])
    assert fine.settle().skipped == 0


def test_float16_that_skips_every_step_does_not_end_as_if_it_had_trained(make_run, monkeypatch):
    # A first loss scale that no gradient bears, and too few steps to come down from it.
    monkeypatch.setattr("trainer.state.FIRST_LOSS_SCALE", 2.0**100)
    run = make_run()
    code, said = run.train("--precision", "float16", "--max-steps", "3")
    assert code == 65
    assert "the gradients of all 3 steps are not finite, so nothing was trained; try a lower --learning-rate" in said
    assert not (run.folder / "export").exists()
    assert checkpoint.commit(str(run.folder), 3).progress.skipped == 3


def forget(run, name):
    """Takes a hyperparameter away from all that a run has saved, as if it were younger than the run."""
    folder = str(run.folder)
    described = runs.read(folder)
    del described["hyperparameters"][name], described["settings"][name]
    runs.write(folder, described)
    for step in run.steps():
        commit = checkpoint.commit(folder, step)
        settings = {key: value for key, value in commit.settings.items() if key != name}
        older = dataclasses.replace(commit, settings=settings, settings_digest=checkpoint.settings_digest(settings))
        storage.write_bytes(storage.join(checkpoint.folder_of(folder, step), checkpoint.COMMIT), older.to_json())


@pytest.mark.parametrize(
    ("name", "other"), [("clip_norm", "1.0"), ("init_digest", ""), ("groups", ""), ("mixup", "0.2")]
)
def test_a_run_that_is_older_than_a_hyperparameter_goes_on_with_its_default_alone(make_run, name, other):
    whole, parts = make_run("whole"), make_run("parts")
    flags = ("--dropout", "0.2", "--max-steps")
    assert whole.train(*flags, "6")[0] == 0
    assert parts.train(*flags, "4")[0] == 0
    forget(parts, name)
    if other:
        code, said = parts.train(*flags, "6", f"--{name.replace('_', '-')}", other)
        assert code == 2
        assert f"train.{name} = {other}, but {parts.folder} was trained with 0.0; give the old value" in said
    assert parts.train(*flags, "6")[0] == 0
    expected, found = whole.arrays(6), parts.arrays(6)
    assert all((found[key] == expected[key]).all() for key in expected)
    assert runs.read(str(parts.folder))["hyperparameters"] == runs.read(str(whole.folder))["hyperparameters"]
