"""TensorBoard's events of a run that is killed, goes on, or cannot write them."""

import json
import resource

import pytest
import tensorflow as tf
from soak import points
from tensorboard.backend.event_processing import plugin_event_multiplexer as event_multiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

from boceto import storage
from boceto.checkpoint import Progress, WindowSums
from trainer.curves import TensorBoard


def open_board(folder, progress, told):
    return TensorBoard(str(folder), progress, told.append, hyperparameters={"net": "sknet"}, wanted=True)


@pytest.mark.parametrize("far", [False, True])
def test_the_events_of_a_run_that_is_killed_and_goes_on_hold_each_point_once(make_run, emulator, tmp_path, far):
    run, whole = make_run("run", train=16, validation=4), make_run("whole")
    folder = f"{emulator.bucket}/run" if far else str(run.folder)
    flags = ("--epochs", "2", "--log-every", "4", "--save-every", "5", "--tensorboard")
    assert whole.train(*flags)[0] == 0
    assert run.train(*flags, "--max-steps", "10", "--run", folder)[0] == 0
    assert run.train(*flags, "--run", folder)[0] == 0
    for entry in storage.list_files(folder) if far else ():
        storage.download(entry.url, run.folder / "near" / storage.relative(entry.url, folder))
    near = run.folder / "near" if far else run.folder
    lines = [json.loads(line) for line in (near / "history.jsonl").read_text().splitlines()]
    found = points(near / "tensorboard")
    assert len(found) == len(set(found))
    assert [step for tag, step in found if tag == "train/loss"] == [line["step"] for line in lines if "loss" in line]
    assert set(points(tmp_path / "whole" / "tensorboard")) == set(found)


def test_events_beyond_the_checkpoint_and_a_torn_one_are_cut_off(tmp_path):
    told = []
    board = open_board(tmp_path, Progress(), told)
    for step in (2, 4, 5):
        board.write(step, {"train/loss": 1.0, "validation/loss": 1.0})
    path = next((tmp_path / "tensorboard").glob("*/train/*"))
    path.write_bytes(path.read_bytes() + b"torn")
    # At step 4 the window is still open: the point was one of a run that ended there.
    open_board(tmp_path, Progress(step=4, validated=4, window=WindowSums(2)), told)
    left = [("train/loss", 2), ("validation/loss", 2), ("validation/loss", 4)]
    assert points(tmp_path / "tensorboard") == left
    assert told == []


def test_events_that_cannot_be_written_cost_a_warning(tmp_path):
    told = []
    board = open_board(tmp_path, Progress(), told)
    board.write(1, {"train/loss": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        size = next((tmp_path / "tensorboard").glob("*/train/*")).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        for step in (2, 3):
            board.write(step, {"train/loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(told) == 1
    assert "tensorboard" in told[0]
    assert "this session writes no more curves, and goes on without them" in told[0]


def test_a_run_whose_events_have_no_place_trains_all_the_same(make_run):
    run = make_run()
    run.folder.mkdir()
    (run.folder / "tensorboard").write_text("in the way")
    code, said = run.train("--max-steps", "2", "--tensorboard")
    assert code == 0
    assert "goes on without them" in said


def test_a_full_disk_under_the_events_is_no_matter_of_the_devices(make_run, monkeypatch):
    run = make_run()

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "Failed to flush 7 events; No space left on device")

    create = tf.summary.create_file_writer

    def created(*given, **named):
        writer = create(*given, **named)
        monkeypatch.setattr(type(writer), "flush", full)
        return writer

    monkeypatch.setattr(tf.summary, "create_file_writer", created)
    code, said = run.train("--max-steps", "2", "--tensorboard")
    assert code == 0
    assert "No space left on device; this session writes no more curves" in said
    assert "memory" not in said


def test_tensorboard_shows_the_run_by_its_name_with_one_curve_over_the_other(make_run):
    run = make_run("first", train=16, validation=4)
    flags = ("--epochs", "2", "--log-every", "4", "--tensorboard", "--learning-rate", "0.002")
    assert run.train(*flags, "--max-steps", "2")[0] == 0
    assert run.train(*flags)[0] == 0
    events = event_multiplexer.EventMultiplexer()
    events.AddRunsFromDirectory(str(run.folder / "tensorboard"))
    events.Reload()
    assert set(events.Runs()) == {"first", "first/train", "first/validation"}
    tags = [set(events.Runs()[f"first/{split}"]["tensors"]) for split in ("train", "validation")]
    assert tags[0] & tags[1] == {"loss", "accuracy"}
    assert len(events.Tensors("first", "_hparams_/session_start_info")) == 1  # Over two sessions.
    found = events.SummaryMetadata("first", "_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(found).session_start_info
    assert start.hparams["learning_rate"].number_value == 0.002
    assert start.hparams["net"].string_value == "small"
