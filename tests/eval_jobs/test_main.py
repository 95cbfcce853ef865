import ast
import dataclasses
import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from faulty_store import Fault
from PIL import Image

import eval_jobs
from boceto import artefact, dataset, inspection, storage
from eval_jobs import evaluate as evaluate_module
from eval_jobs import metrics, model
from eval_jobs.__main__ import main
from eval_jobs.means import Mean
from eval_jobs.model import Predictions
from eval_jobs.settings import Settings


@pytest.fixture
def evaluate(capsys):
    """Runs `boceto eval --json`: returns (exit code, result or None, text on standard error)."""

    def run(data, folder, *flags):
        code = main(["--data", data, "--run", folder, "--json", "--bootstrap", "20", *flags])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_an_evaluation_writes_scores_report_and_picture(make_data, make_run, evaluate):
    data = make_data(classes=6, train=4, test=4)
    code, result, err = evaluate(data, make_run(data), "--batch-size", "5")
    assert code == 0
    assert 0 <= result["test_accuracy"] <= result["top5"] <= 1
    assert 0 < result["map"] <= 1
    assert result["images_per_second"] > 0
    assert "mAP" in err
    scores = json.loads(storage.read_bytes(result["scores"]))
    assert scores["splits"]["test"]["accuracy"]["value"] == result["test_accuracy"]
    assert set(scores["retrieval"]["rankings"]) == {"l2", "l2_normalised", "cosine"}
    assert "saved_model.pb" in scores["artefact"]["files"]
    assert scores["data"]["digest"] in result["scores"]
    assert scores["trained_with_this_data"] is True
    report = storage.read_bytes(result["report"]).decode()
    assert all(f"class {label}" in report for label in range(6))
    Image.open(io.BytesIO(storage.read_bytes(result["picture"]))).verify()


def test_flip_scores_the_mean_over_a_drawing_and_its_mirror_image(make_data, make_run, evaluate):
    data = make_data()
    run, test = make_run(data), dataset.load(data).split("test")
    numbers = np.arange(len(test))
    description = artefact.load(run)
    plain, flipped = (model.load(run, description, flip=flip) for flip in (False, True))
    ((_, logits, embedding),) = flipped.batches(test, numbers, 99)
    images = test.images(numbers)
    both = [plain.call(each) for each in (images, np.ascontiguousarray(images[:, :, ::-1]))]
    assert logits == pytest.approx(np.mean([each["logits"] for each in both], axis=0), rel=1e-5)
    assert embedding == pytest.approx(np.mean([each["embedding"] for each in both], axis=0), rel=1e-5)
    assert np.abs(logits - both[0]["logits"]).max() > 1e-3
    said = "Logits and embedding are means over each drawing and its mirror image."
    found = [evaluate(data, run, *flags) for flags in ([], ["--flip"])]
    assert [said in storage.read_bytes(result["report"]).decode() for _, result, _ in found[1:]] == [True]
    assert [said in err for _, _, err in found] == [False, True]
    assert json.loads(storage.read_bytes(found[1][1]["scores"]))["settings"]["flip"] is True


def test_the_report_shows_a_metric_without_a_table_of_its_own(make_data, make_run, evaluate, monkeypatch):
    found = metrics.find()
    ones = Mean(Predictions, lambda batch: np.full(len(batch.labels), 2.5), "always two and a half")
    monkeypatch.setattr(metrics, "find", lambda: found | {"steady": ones})
    data = make_data()
    code, result, err = evaluate(data, make_run(data), "--splits", "test")
    assert code == 0, err
    report = storage.read_bytes(result["report"]).decode()
    assert re.search(r"steady +test +2\.5 \[2\.5, 2\.5\]", report), report


def test_a_metric_may_read_the_embedding(make_data, make_run, evaluate, monkeypatch):
    found = metrics.find()
    largest = Mean(Predictions, lambda batch: batch.embedding.max(axis=1), "the largest number of the embedding")
    monkeypatch.setattr(metrics, "find", lambda: found | {"largest": largest})
    data = make_data()
    code, result, err = evaluate(data, make_run(data), "--splits", "test")
    assert code == 0, err
    assert json.loads(storage.read_bytes(result["scores"]))["splits"]["test"]["largest"]["value"] > 0


def test_the_picture_of_colour_images_is_their_grey(make_data, monkeypatch):
    data = dataset.load(make_data(channels=3, strokes=False))
    test = data.split("test")
    monkeypatch.setattr(evaluate_module.neighbours, "draw", lambda rows: rows)
    evaluation = SimpleNamespace(settings=Settings(data.url, "run", picture_queries=2), data=data)
    embeddings = np.arange(len(test), dtype=np.float32)[:, None]
    sample = evaluate_module.Sample(test, np.arange(len(test)), len(test))
    rows = evaluate_module._picture(evaluation, sample, embeddings)
    query = evaluate_module.neighbours.choose(test.labels, 2, 0)[0]
    assert (rows[0][0].image == test.images(np.array([query]))[0].mean(axis=-1).astype(np.uint8)).all()
    assert (rows[0][0].image != test.images(np.array([query]))[0, ..., 0]).any()


def test_a_damaged_copy_is_replaced_with_verify(make_data, make_run, evaluate, tmp_path):
    local = make_data()
    url = f"memory://sets/{tmp_path.name}"
    for entry in storage.list_files(local):
        storage.write_bytes(storage.join(url, storage.relative(entry.url, local)), storage.read_bytes(entry.url))
    run, cache = make_run(local), tmp_path / "cache"
    assert evaluate(url, run, "--cache-dir", str(cache))[0] == 0
    for copy in cache.rglob("*.tfrecord"):
        copy.write_bytes(bytes(copy.stat().st_size))
    code, _, err = evaluate(url, run, "--cache-dir", str(cache))
    assert (code, "run the same command again with --verify" in err) == (65, True), err
    code, _, err = evaluate(url, run, "--cache-dir", str(cache), "--verify")
    assert code == 0, err


def test_scores_repeat_byte_for_byte_whatever_the_batch(make_data, make_run, evaluate):
    data = make_data()
    run = make_run(data)
    first, second = (storage.read_bytes(evaluate(data, run, "--batch-size", "12")[1]["scores"]) for _ in range(2))
    assert first == second


def test_a_part_of_train_is_said_in_the_scores(make_data, make_run, evaluate):
    data = make_data()
    _, result, _ = evaluate(data, make_run(data), "--train-records", "5")
    train = json.loads(storage.read_bytes(result["scores"]))["splits"]["train"]
    assert (train["drawings"], train["of"]) == (5, 24)


@pytest.mark.parametrize(
    ("data", "trained", "splits", "scored"),
    [
        ({"test": 0}, {}, "train", {"train": 24}),
        ({"validation": 2}, {}, "validation, test, train", {"test": 12, "train": 24, "validation": 6}),
        ({}, {"validation_share": 0.5, "seed": 3}, "validation", {"validation": 14}),
        ({}, {"validation_share": 0.5, "seed": 3}, "train,validation", {"train": 10, "validation": 14}),
        ({"validation": 2}, {"validation_share": 0.5, "seed": 3}, "train", {"train": 10}),
        ({}, {}, "train,validation", {"train": 24}),
    ],
)
def test_the_chosen_splits_are_scored(  # noqa: PLR0913, PLR0917 - fixtures, and a table's columns
    make_data, make_run, evaluate, data, trained, splits, scored
):
    url = make_data(**data)
    code, result, err = evaluate(url, make_run(url, settings=trained), "--splits", splits)
    assert code == 0, err
    scores = json.loads(storage.read_bytes(result["scores"]))
    assert {name: split["drawings"] for name, split in scores["splits"].items()} == scored
    ranked = next((name for name in ("test", "validation") if name in scored), "")
    assert scores["retrieval"]["split"] == ranked
    assert scores["retrieval"]["queries"] == scored.get(ranked, 0)
    assert (result["map"] is None, result["picture"] is None) == (not ranked,) * 2
    assert ("neighbours.png" in scores["files"]) == bool(ranked)
    found = inspection.look(result["scores"].rpartition("/")[0], lambda _: None)
    assert not found.damaged


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ("train", "none of them has drawings"),
        ("test", "has no drawings in split 'test'; it has none"),
        ("", "eval.splits = '' names no split; choose among test, train, validation"),
        ("test,,train", "eval.splits = 'test,,train' has an empty name; choose among test"),
    ],
)
def test_splits_that_are_not_there_are_refused(make_data, make_run, evaluate, splits, said):
    url = make_data(train=0, test=0)
    code, _, err = evaluate(url, make_run(url), "--splits", splits)
    assert (code, said in err) == (2, True), err


def test_classes_of_one_drawing_are_named(make_data, make_run, evaluate):
    data = make_data(test=1, shards=1)
    code, result, err = evaluate(data, make_run(data))
    assert code == 0
    assert result["images_per_second"] > 0
    assert result["map"] is None
    assert "class 0, class 1, class 2" in err


def test_other_data_is_refused_or_said(make_data, make_run, evaluate):
    data, other = make_data(), make_data(train=6, name="other")
    run = make_run(data)
    code, result, err = evaluate(other, run)
    assert (code, result) == (65, None)
    assert "--allow-other-data" in err
    code, result, err = evaluate(other, run, "--allow-other-data")
    assert code == 0
    assert "NOT the data set" in err
    assert json.loads(storage.read_bytes(result["scores"]))["trained_with_this_data"] is False


def _changed(run):
    path = storage.join(run, "export", "saved_model", "saved_model.pb")
    storage.write_bytes(path, storage.read_bytes(path) + b"\0")


def _missing(run):
    storage.delete(storage.join(run, "export", "saved_model", "saved_model.pb"))


@pytest.mark.parametrize(("harm", "message"), [(_changed, "crc32c"), (_missing, "is missing")])
def test_a_damaged_artefact_is_refused(make_data, make_run, evaluate, harm, message):
    data = make_data()
    run = make_run(data)
    harm(run)
    code, _, err = evaluate(data, run)
    assert code == 65
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["class 0", "cat", "class 2"]}, "class 1 as 'cat', the data set as 'class 1'"),
        ({"classes": ["class 0"]}, "1 classes, the data set has 3"),
        ({"height": 28}, "16x16x1, the net takes 28x16x1"),
        ({"embedding": 9}, "'embedding' is (12, 8), artefact.json says [B, 9]"),
        ({"fault": float("nan")}, "12 of 12 hold NaN"),
        ({"files": {}}, "lists no saved_model.pb"),
    ],
)
def test_what_does_not_belong_together_is_refused(make_data, make_run, evaluate, changes, message):
    data = make_data()
    code, result, err = evaluate(data, make_run(data, **changes), "--allow-other-data", "--batch-size", "16")
    assert (code, result) == (65, None)
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [tf.errors.ResourceExhaustedError(None, None, "no memory"), OSError(errno.EMFILE, "Too many open files")]
)
def test_a_model_for_which_the_machine_has_no_room_is_not_damaged(make_data, make_run, evaluate, monkeypatch, error):
    def fails(*_):
        raise error

    data = make_data()
    run = make_run(data)
    monkeypatch.setattr(tf.saved_model, "load", fails)
    code, _, text = evaluate(data, run)
    assert code == 1
    assert "the same command may be run again" in text


def test_a_run_without_export_is_refused(make_data, evaluate, tmp_path):
    code, _, err = evaluate(make_data(), str(tmp_path / "nothing"))
    assert code == 65
    assert "has not exported yet" in err


def test_a_wrong_flag_is_refused(evaluate):
    code, _, err = evaluate("data", "run", "--batch-size", "0")
    assert code == 2
    assert "eval.batch_size = 0 is too small" in err


def test_evaluation_knows_no_net_and_no_keras():
    for path in Path(eval_jobs.__file__).parent.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {"keras", "trainer", "beam_pipelines"}
        assert "tf.keras" not in path.read_text("utf-8")


def test_a_run_that_cannot_be_written_is_refused_before_anything_is_computed(make_data, make_run, evaluate, tmp_path):
    data = make_data()
    run = make_run(data)
    (tmp_path / "run" / "eval").write_text("in the way")
    code, _, err = evaluate(data, run)
    assert code == 2, err
    assert "eval.run" in err
    assert err.count("\n") == 1


class Writer(tf.Module):
    """A net that writes a file: when it is called, or already when it is loaded."""

    def __init__(self, path, *, loaded):
        super().__init__()
        self.path = path
        self.net = None
        self.table = Initialised(path) if loaded else None

    def serve(self, images):
        if self.table is None:
            tf.io.write_file(self.path, "pwned")
        zeros = tf.zeros([tf.shape(images)[0], 8])
        return {"logits": zeros[:, :3], "embedding": zeros}


class Initialised(tf.saved_model.experimental.TrackableResource):
    """What TensorFlow runs while it loads."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    @tf.function(input_signature=[])
    def _create_resource(self):
        tf.io.write_file(self.path, "pwned")
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    @tf.function(input_signature=[])
    def _initialize(self):
        return tf.constant(1)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_program_that_writes_files_is_not_run(make_data, make_run, evaluate, tmp_path, loaded):
    data = make_data()
    run = make_run(data)
    folder, victim = storage.join(run, artefact.FOLDER, artefact.MODEL), tmp_path / "victim"
    storage.delete_folder(folder)
    net = Writer(str(victim), loaded=loaded)
    serve = tf.function(net.serve, input_signature=[tf.TensorSpec([None, 16, 16, 1], tf.uint8, name="images")])
    tf.saved_model.save(net, folder, {"serving_default": serve})
    victim.unlink(missing_ok=True)
    files = {
        storage.relative(entry.url, folder): storage.checksum(entry.url)[1] for entry in storage.list_files(folder)
    }
    described = dataclasses.replace(artefact.load(run), files=files)
    storage.write_bytes(storage.join(run, artefact.FOLDER, artefact.DESCRIPTION), described.to_json())
    code, _, err = evaluate(data, run)
    assert (code, victim.exists()) == (65, False)
    assert "saved_model.pb is not loaded: it would reach files, the network or Python (WriteFile)" in err
    found = inspection.look(storage.join(run, artefact.FOLDER), lambda _: None)
    assert "REACHES OUTSIDE by WriteFile" in found.facts["program"]


@pytest.mark.parametrize(
    "fault",
    [Fault("term-before", r"/report\.txt$", "write"), Fault("term-after", r"/scores\.json$", "write")],
    ids=["report", "scores"],
)
def test_an_evaluation_that_is_asked_to_stop_ends_in_one_line_and_goes_on(make_data, make_run, evaluate, fault):
    data = make_data()
    run = make_run(data)
    launcher = Path(__file__).parent.parent / "faulty_boceto.py"
    command = [sys.executable, launcher, fault.to_json(), "eval", "--data", data, "--run", run, "--bootstrap", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines()[-1] == "boceto eval: stopped; run the same command again"
    assert "Traceback" not in done.stderr
    assert evaluate(data, run)[0] == 0
