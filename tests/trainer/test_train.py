import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from boceto import artefact, console, dataset
from boceto import run as runs
from boceto.errors import SettingsError
from eval_jobs.__main__ import main as evaluate
from trainer import cluster, nets, state
from trainer.batches import TrainingSet
from trainer.nets import Spec
from trainer.saver import Saver
from trainer.settings import Settings, check_groups

# Everything random or remembered at once, so that one comparison covers them all. 48 records are 6 steps an epoch.
RECIPE = ["--dropout", "0.3", "--flip", "--shift", "0.1", "--ema", "0.9", "--clip-norm", "1"]
RECIPE += ["--loss-options", "label_smoothing=0.1", "--weight-decay", "0.01"]


def equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_stopped_and_gone_on_is_the_same_to_the_bit(make_run):
    whole, parts = make_run("whole", train=16, validation=4), make_run("parts")
    flags = [*RECIPE, "--net", "sknet", "--epochs", "4", "--save-every", "4"]
    assert whole.train(*flags)[0] == 0
    assert parts.train(*flags, "--max-steps", "10")[0] == 0
    assert parts.steps()[-1] == 10
    # The lines of steps that will be done again are cut.
    with (parts.folder / "history.jsonl").open("a") as history:
        history.write(runs.line(runs.history(str(parts.folder))[-1].chain, {"step": 11}).text + "\n")
    code, said = parts.train(*flags)
    assert code == 0
    assert "goes on after step 10 of 24" in said
    assert equal(whole.arrays(24), parts.arrays(24))
    assert 11 not in [line["step"] for line in parts.history()]
    ends = [line for line in whole.history() if line["step"] == 24 and "validation_loss" in line]
    assert ends == [line for line in parts.history() if line["step"] == 24 and "validation_loss" in line]


def test_epochs_that_are_raised_end_as_if_they_had_been_given_at_once(make_run):
    whole, parts = make_run("whole", train=5), make_run("parts")  # 15 records: an epoch is no whole number of steps.
    flags = ["--validation-share", "0.2", "--warmup-steps", "4", "--ema", "0.9"]
    assert whole.train(*flags, "--epochs", "6")[0] == 0
    for epochs in ("1", "6"):
        assert parts.train(*flags, "--epochs", epochs)[0] == 0
    last = whole.steps()[-1]
    assert equal(whole.arrays(last), parts.arrays(last))
    first, second = (artefact.load(str(run.folder)) for run in (whole, parts))
    data = "variables/variables.data-00000-of-00001"  # The graph's names differ within one process.
    assert (first.step, first.files[data]) == (second.step, second.files[data])
    assert first.data_options == dataset.load(whole.flags[1]).manifest.options


def test_a_signal_saves_the_step_and_exits_75(make_run, monkeypatch):
    run = make_run()
    read = TrainingSet.read

    def signalled(self, call):
        if call.first == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, call)

    monkeypatch.setattr(TrainingSet, "read", signalled)
    code, said = run.train("--epochs", "800")
    assert code == 75
    assert "saved; run the same command again" in said
    stopped = run.steps()[-1]
    assert 0 < stopped < 2400
    monkeypatch.setattr(TrainingSet, "read", read)
    code, said = run.train("--epochs", "800", "--max-steps", str(stopped + 9))
    assert code == 0
    assert f"goes on after step {stopped} of" in said
    assert run.steps()[-1] == stopped + 9


def test_what_a_job_is_told_is_never_behind_the_checkpoint(make_run, monkeypatch):
    run = make_run()  # 3 steps an epoch.
    told = []

    @contextlib.contextmanager
    def reporting(pod, state, alert):
        told.append(state())
        try:
            yield
        finally:
            told.append(state())

    read = TrainingSet.read

    def signalled(self, call):
        if call.first == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, call)

    monkeypatch.setattr(cluster, "reporting", reporting)
    monkeypatch.setattr(TrainingSet, "read", signalled)
    assert run.train("--epochs", "800", "--log-every", "1")[0] == 75
    monkeypatch.setattr(TrainingSet, "read", read)
    stopped = run.steps()[-1]
    place = f"epoch {-(-stopped // 3)}/800, step {stopped}/2400"
    assert [each["progress"] for each in told] == ["epoch 0/800, step 0/2400", f"{place}, stopped"]
    assert told[1]["checkpoint"] == f"step {stopped}"
    assert run.train("--epochs", "800", "--max-steps", str(stopped + 1))[0] == 0
    assert told[2]["progress"] == f"epoch {-(-stopped // 3)}/{-(-(stopped + 1) // 3)}, step {stopped}/{stopped + 1}"
    assert told[2]["checkpoint"] == f"step {stopped}"


def test_a_finished_run_says_so_and_changed_settings_are_refused(make_run):
    run = make_run()
    flags = ["--epochs", "1", "--schedule", "cosine"]
    assert run.train(*flags)[0] == 0
    before = (run.folder / "export" / artefact.DESCRIPTION).stat().st_mtime_ns
    code, said = run.train(*flags)
    assert (code, "is finished: step 3" in said) == (0, True)
    assert (run.folder / "export" / artefact.DESCRIPTION).stat().st_mtime_ns == before
    code, said = run.train(*flags, "--learning-rate", "0.5")
    assert code == 2
    assert f"train.learning_rate = 0.5, but {run.folder} was trained with 0.001" in said
    code, said = run.train("--schedule", "cosine", "--epochs", "2")
    assert code == 2
    assert "train.epochs = 2" in said
    assert "cosine schedule depends on it" in said


def test_a_damaged_export_is_made_again(make_run):
    run = make_run()
    code, said = run.train("--epochs", "1")
    assert code == 0
    assert "1 replica\n" in said
    assert "unknown time" not in said
    summary = next(line for line in said.splitlines() if line.startswith("trained 3 of 3 steps"))
    assert all(word in summary for word in (" loss ", "train accuracy ", " images/s"))
    model = run.folder / "export" / artefact.MODEL / "saved_model.pb"
    whole = artefact.load(str(run.folder))
    model.write_bytes(model.read_bytes() + b"!")
    code, said = run.train("--epochs", "1")
    assert code == 0
    assert "is missing or damaged; it is exported again from the checkpoint" in said
    again = artefact.load(str(run.folder))
    artefact.verify(str(run.folder), again)
    assert again.step == whole.step


def test_a_moved_run_is_told_by_its_new_place(make_run):
    run = make_run()
    assert run.train("--max-steps", "1")[0] == 0
    moved = make_run("moved")
    run.folder.rename(moved.folder)
    code, said = moved.train("--max-steps", "1")
    assert code == 0
    assert f"{moved.folder} is finished: step 1, exported to {moved.folder}/export" in said


def test_a_damaged_description_is_one_line_and_removing_it_helps(make_run):
    run = make_run()
    assert run.train("--max-steps", "1")[0] == 0
    (run.folder / "run.json").write_text('{"format": "boceto-run", "version": 1, "result": 5}')
    code, said = run.train("--max-steps", "1")
    assert code == 65
    assert said.count("\n") == 1
    (run.folder / "run.json").unlink()
    assert run.train("--max-steps", "1")[0] == 0


def test_another_data_set_is_refused(make_run, make_data):
    run = make_run()
    assert run.train("--max-steps", "1")[0] == 0
    other = make_data(name="other", classes=3, train=9)
    code, said = run.train("--data", other)
    assert code == 65
    assert "was trained on data with the digest" in said


def test_replicas_learn_the_same_and_a_torn_checkpoint_is_skipped(make_run):
    run = make_run()
    flags = ["--epochs", "2"]
    assert run.train(*flags, "--replicas", "4")[0] == 0
    undisturbed = run.arrays(6)
    (run.folder / "checkpoints" / f"{6:010}" / "COMMIT").unlink()
    shutil.rmtree(run.folder / "export")
    code, said = run.train(*flags, "--replicas", "2")
    assert code == 0
    assert "0000000006 is torn" in said
    assert "goes on after step 3 of 6" in said
    assert all((array == undisturbed[name]).all() for name, array in run.arrays(6).items())
    for step in (3, 6):
        (run.folder / "checkpoints" / f"{step:010}" / "COMMIT").unlink()
    (run.folder / "run.json").unlink()
    code, said = run.train("--epochs", "2")
    assert code == 65
    assert "none is whole" in said


def test_a_loss_that_is_not_finite_ends_the_run(make_run, port):
    run = make_run()
    watched = ("--metrics-port", str(port), "--metrics-linger", "0")
    code, said = run.train("--optimizer", "sgd", "--learning-rate", "1e30", "--epochs", "9", *watched)
    assert code == 65
    assert "boceto_train_not_finite_total 1.0" in (run.folder / "metrics.prom").read_text()
    assert "step " in said
    assert "--learning-rate" in said
    assert "Traceback" not in said


def test_the_metrics_of_a_run_that_goes_on_tell_what_came_before(make_run, port):
    run = make_run()
    assert run.train("--max-steps", "6", "--save-every", "3")[0] == 0
    (run.folder / "checkpoints" / f"{6:010}" / "COMMIT").unlink()
    assert run.train("--max-steps", "9", "--metrics-port", str(port), "--metrics-linger", "0")[0] == 0
    told = (run.folder / "metrics.prom").read_text()
    for line in ("sessions 2.0", "steps_lost_total 3.0", "steps_total 6.0", "step 9.0", "last_step 9.0"):
        assert f"\nboceto_train_{line}\n" in told
    last = run.history()[-1]
    assert f"\nboceto_train_gradient_norm {last['gradient_norm']!r}\n" in told


def test_a_validation_shows_its_progress(make_run, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    code, said = make_run(train=16, validation=4).train("--epochs", "1")
    assert code == 0
    assert "8/12 records" in said


def test_a_validation_loss_that_is_not_finite_ends_the_run(make_run, monkeypatch):
    monkeypatch.setattr("trainer.train.validate", lambda *_: (float("nan"), 0.0))
    code, said = make_run(train=20).train("--validation-share", "0.2", "--epochs", "1")
    assert code == 65
    assert "the validation loss is nan; try a lower --learning-rate" in said
    assert "Traceback" not in said


def test_it_learns_validates_and_stops_when_it_gets_no_better(make_run):
    run = make_run(train=20)
    flags = ["--validation-share", "0.2", "--learning-rate", "0.02", "--patience", "2", "--epochs", "60"]
    code, said = run.train(*flags)
    assert code == 0
    result = json.loads((run.folder / "run.json").read_text())["result"]
    assert result["train_accuracy"] > 0.9
    assert result["validation_accuracy"] > 0.9
    validated = [line for line in run.history() if "validation_loss" in line]
    best = max(validated, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert result["exported_step"] == best["step"]
    assert best["step"] in run.steps()
    if "the run ends here" in said:
        assert validated.index(best) == len(validated) - 3


def test_a_run_that_ends_by_patience_waits_for_its_last_checkpoint(make_run, monkeypatch):
    run = make_run(train=20)
    monkeypatch.setattr("trainer.train.validate", lambda *_: (1.0, 0.5))  # Never better than the first.
    save = Saver.save
    # A save that is not waited for comes too late.
    monkeypatch.setattr(Saver, "save", lambda self, *, wait: wait and save(self, wait=True))
    code, said = run.train("--validation-share", "0.2", "--patience", "2", "--epochs", "60")
    assert code == 0
    assert "no better validation in 2 of them" in said
    validated = [line["step"] for line in run.history() if "validation_loss" in line]
    result = json.loads((run.folder / "run.json").read_text())["result"]
    assert (len(validated), result["step"]) == (3, validated[-1])
    assert run.steps()[-1] == validated[-1]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--embedding",
            "a net of train.width_multiplier = 0.0625 and train.embedding = 1000000000000 does not fit into",
        ),
        ("--batch-size", "train.batch_size = 1000000000000 is too large; use at most 1048576"),
    ],
)
def test_what_no_device_has_memory_for_is_refused_in_one_line(make_run, flag, message):
    code, said = make_run("run").train(flag, str(10**12))
    assert code == 2
    assert said.splitlines()[-1].startswith(f"boceto train: error: {message}")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((100, 8, 4), "train.batch_size = 100 does not divide over 8 groups; use 96 or 104"),
        ((3, 8, 8), "train.batch_size = 3 does not divide over 8 groups; use 8"),
        ((96, 2, 4), "train.groups = 2 do not divide over 4 replicas; use --replicas 2 or fewer"),
        ((96, 6, 2), "train.groups = 6 is no power of two; use 4 or 8"),
        ((96, 8, 3), "train.replicas = 3 is no power of two; use 2 or 4"),
        ((8, 8, 2, 2), "train.batch_size = 8 leaves one record in each of 8 groups"),
    ],
)
def test_batches_groups_and_replicas_that_do_not_divide(numbers, message):
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}"):
        check_groups(*numbers)
    check_groups(96, 8, 4)
    check_groups(16, 8, 4, Settings("d", "r", cutmix=1.0).least_group)


def test_the_settings_of_the_assignment():
    defaults = Settings(data="d", run="r")
    assert (defaults.optimizer, defaults.learning_rate, defaults.batch_size, defaults.epochs) == ("adam", 1e-3, 256, 30)
    assert (defaults.net, defaults.width_multiplier, defaults.embedding, defaults.seed) == ("sknet", 1.0, 0, 0)


LOADER = """
import sys
import numpy as np
import tensorflow as tf
before = set(sys.modules)  # TensorFlow may import Keras for itself.
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
outputs = served(images=tf.constant(np.load(sys.argv[2])))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
assert not [name for name in set(sys.modules) - before if name.partition(".")[0] == "keras"]
assert not [name for name in sys.modules if name.partition(".")[0] in ("trainer", "boceto")]
"""


def test_the_artefact_needs_neither_keras_nor_our_nets(make_run, tmp_path):
    run = make_run(train=16, validation=4)
    flags = ("--net", "sknet", "--epochs", "2", "--ema", "0.5", "--precision", "bfloat16")
    assert run.train(*flags)[0] == 0
    described = artefact.load(str(run.folder))
    data = dataset.load(str(tmp_path / "data"))
    assert described.classes == data.manifest.classes
    assert described.data_digest == data.manifest.digest
    model = run.folder / "export" / artefact.MODEL
    assert set(described.files) >= {"saved_model.pb", "variables/variables.index"}

    assert evaluate(["--data", str(tmp_path / "data"), "--run", str(run.folder)]) == 0  # Its ops are all harmless.

    images = data.split("test").images(np.arange(6))
    np.save(tmp_path / "images.npy", images)
    paths = [str(model), str(tmp_path / "images.npy"), str(tmp_path / "outputs.npz")]
    subprocess.run([sys.executable, "-c", LOADER, *paths], check=True, cwd=tmp_path, capture_output=True)
    with np.load(tmp_path / "outputs.npz") as outputs:
        logits, embedding = outputs["logits"], outputs["embedding"]
    assert (logits.dtype, logits.shape) == (np.float32, (6, 3))
    assert (embedding.dtype, embedding.shape) == (np.float32, (6, 8))

    net = nets.build("sknet", Spec(3, 16, 16, 0.0625, 8))
    values = state.export_weights(run.arrays(described.step))
    for variable in net.variables:
        variable.assign(values[variable.path])
    assert logits == pytest.approx(net(tf.constant(images), training=False)["logits"].numpy(), abs=1e-5)


def test_logs_and_run_json(make_run):
    run = make_run()
    code, said = run.train("--epochs", "1", "--log-format", "json", "--validate-every", "0", "--metrics-port", "0")
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    points = [line for line in lines if line["message"] == "progress"]
    assert {"step", "steps", "epoch", "loss", "accuracy", "learning_rate", "images_per_second", "waiting"} <= points[
        -1
    ].keys()
    described = json.loads((run.folder / "run.json").read_text())
    assert described["result"]["step"] == 3
    assert described["settings"]["batch_size"] == 8
    assert {"boceto", "keras", "python"} <= described["versions"].keys()


def test_the_command_itself_with_xla_on_two_replicas(make_run):
    # A process of its own: XLA excludes the determinism that the other tests have switched on in this one.
    plain, compiled = make_run("plain"), make_run("compiled")
    flags = ["--epochs", "1", "--log-every", "1", "--replicas", "2", "--net", "sknet"]
    assert plain.train(*flags)[0] == 0
    command = [sys.executable, "-m", "boceto", "train", *compiled.flags, *flags, "--xla", "on", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert {"net", "parameters", "step", "train_accuracy", "images_per_second", "artefact"} <= result.keys()
    assert result["step"] == 3
    assert "oneDNN" not in done.stderr
    losses = [[line["loss"] for line in run.history() if "loss" in line] for run in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
