import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from boceto import checkpoint, lease, storage
from boceto import run as runs
from boceto.lease import Heartbeat, Holder
from boceto.stores import file
from trainer import footprint, limits
from trainer.batches import TrainingSet
from trainer.checkpoints import Checkpoints
from trainer.footprint import Footprint
from trainer.lease import held
from trainer.limits import Memory
from trainer.preflight import main
from trainer.stop import Stop

NAMES = ["devices", "batch", "data set", "run folder", "lease", "checkpoints", "memory", "disk", "save"]


def contents(folder):
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture
def look(run, capsys, monkeypatch):
    """`look("--keep", "1")` -> (exit code, the checks by name, what was said). A call is trained only where `trial`."""
    measure = footprint.measure

    def look(*flags, trial=False):
        found = Footprint({"weights/a": np.ones(10**5, np.float32)}, 10**6, 10**9, 0)
        monkeypatch.setattr(footprint, "measure", measure if trial else lambda *_, **__: found)
        code = main([*run.flags, *flags, "--json"])
        said = capsys.readouterr()
        result = json.loads(said.out)
        assert [check["name"] for check in result["checks"]] == NAMES
        assert result["passed"] == (code == 0)
        return code, {check["name"]: check for check in result["checks"]}, said.err

    return look


def failed(checks):
    return {name: check["said"] for name, check in checks.items() if check["state"] == "FAILED"}


def unchecked(checks):
    return [name for name, check in checks.items() if check["state"] == "not checked"]


def test_all_is_well_and_nothing_is_left_behind(run, look, tmp_path):
    before = contents(tmp_path)
    code, checks, said = look()
    assert code == 0
    assert {check["state"] for check in checks.values()} == {"passed"}
    assert checks["batch"]["said"] == "8 records a step, 8 a device"
    assert checks["checkpoints"]["said"] == "none, it begins with the first step"
    assert "train 24, test 12" in checks["data set"]["said"]
    assert "MB in 0." in checks["save"]["said"]
    assert "save          passed" in said
    assert not run.folder.exists()
    assert contents(tmp_path) == before


def test_a_run_that_goes_on_and_one_that_is_finished(run, look):
    flags = ["--epochs", "4", "--save-every", "2"]
    assert run.train(*flags, "--max-steps", "2")[0] == 0
    before = contents(run.folder)
    code, checks, _ = look(*flags)
    assert code == 0
    assert checks["checkpoints"]["said"] == "it goes on after step 2, whose settings fit"
    assert checks["lease"]["said"].endswith("has given it back")
    assert look(*flags, "--max-steps", "2")[1]["checkpoints"]["said"].startswith("the run is finished after step 2")
    assert contents(run.folder) == before
    code, checks, said = look(*flags, "--learning-rate", "0.5")
    assert code == 2
    assert "train.learning_rate = 0.5" in failed(checks)["checkpoints"]
    assert "boceto preflight: error: checkpoints: train.learning_rate" in said


def test_one_trained_call_says_what_a_run_takes(run, look, tmp_path):
    before = contents(tmp_path)
    flags = ["--net", "sknet", "--save-every", "1", "--keep", "2", "--max-steps", "4", "--ema", "0.9"]
    code, checks, _ = look(*flags, trial=True)
    assert code == 0
    needed, unit = checks["memory"]["said"].split()[:2]
    assert 2e8 < float(needed) * {"MB": 1e6, "GB": 1e9}[unit] < 5e9
    assert contents(tmp_path) == before
    assert run.train(*flags)[0] == 0
    saved = next((run.folder / "checkpoints" / f"{4:010}").glob("arrays-*")).stat().st_size
    assert float(checks["save"]["said"].split(" MB in ")[0]) == pytest.approx(saved / 1e6, rel=0.05, abs=0.05)


@pytest.mark.parametrize(
    ("flags", "free", "said"),
    [
        (["--embedding", str(10**12)], None, "train.embedding = 1000000000000 does not fit into the devices' memory"),
        ([], Memory(10**8, "the container's limit of 0.2 GB"), "MB needed, 100.0 MB free of the container's limit of"),
    ],
)
def test_a_trained_call_for_which_there_is_no_memory(look, monkeypatch, flags, free, said):
    monkeypatch.setattr(limits, "memory", lambda: free)
    code, checks, _ = look("--net", "sknet", *flags, trial=True)
    assert code == 2
    assert said in failed(checks)["memory"]
    assert unchecked(checks) == ["disk", "save"]


def test_a_batch_that_does_not_divide(look):
    code, checks, said = look("--replicas", "3")
    assert code == 2
    assert failed(checks) == {"batch": "train.replicas = 3 is no power of two; use 2 or 4"}
    assert unchecked(checks) == ["memory", "disk", "save"]
    assert "needs: batch" in said


def test_modes_that_exclude_each_other(look):
    code, checks, _ = look("--xla", "on", "--deterministic", "on")
    assert (code, unchecked(checks)[0]) == (2, "batch")
    assert "exclude each other" in failed(checks)["devices"]


def test_a_flipped_byte_and_a_missing_data_set_are_told(look, tmp_path):
    shard = min((tmp_path / "data").glob("test-*.tfrecord"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    code, checks, _ = look()
    assert code == 65
    assert f"{shard} is damaged" in failed(checks)["data set"]
    code, checks, _ = look("--data", str(tmp_path / "nowhere"))
    assert code == 65
    assert "run `boceto prepare" in failed(checks)["data set"]
    assert unchecked(checks) == ["checkpoints", "memory", "disk", "save"]


def test_pictures_without_strokes_are_told_before_they_are_drawn_anew(look, make_data):
    pictures = make_data(name="pictures", strokes=False)
    code, checks, _ = look("--data", pictures, "--augment", "stroke")
    assert (code, list(failed(checks))) == (2, ["data set"])
    assert "train.augment = 'stroke' needs drawings with strokes" in failed(checks)["data set"]
    assert look("--data", pictures)[0] == 0


def test_a_run_folder_that_cannot_be_written(look, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    code, checks, _ = look("--run", str(tmp_path / "file" / "run"))
    assert code == 2
    assert "cannot be written" in failed(checks)["run folder"]
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_storage_that_ignores_preconditions(look, monkeypatch, run):
    def create(self, url, data):
        self.replace_anyway(url, data)

    def replace_anyway(self, url, data):
        with self.writing(url) as target:
            target.write(data)

    monkeypatch.setattr(file.Store, "create", create)
    monkeypatch.setattr(file.Store, "replace_anyway", replace_anyway, raising=False)
    code, checks, _ = look()
    assert code == 2
    assert "two trainers could spoil one run" in failed(checks)["run folder"]
    assert "save" in unchecked(checks)
    assert not run.folder.exists()


def test_who_holds_the_run_is_told_and_not_disturbed(run, look):
    with held(str(run.folder), 60.0, Stop(), print, dict):
        before = contents(run.folder)
        code, checks, _ = look()
        assert contents(run.folder) == before
    assert code == 2
    assert "is training this run; wait for it, or give another --run" in failed(checks)["lease"]
    assert unchecked(checks) == ["memory", "disk", "save"]


def elsewhere(run, **changes):
    holder = Holder("token", "far", "kernel/namespace", 7, "1", 1.0, 0.0, released=False, heartbeat=Heartbeat(5))
    storage.write_bytes(storage.join(str(run.folder), lease.NAME), dataclasses.replace(holder, **changes).to_json())


def test_a_lease_of_elsewhere_is_watched_for_its_term(run, look):
    elsewhere(run)
    assert "process 7 on far has not renewed it for its term" in look()[1]["lease"]["said"]
    over = threading.Event()

    def renew():
        while not over.wait(0.2):
            elsewhere(run, renewed=time.time(), term=60.0)

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        assert "process 7 on far is training this run" in failed(look()[1])["lease"]
    finally:
        over.set()
        renewing.join()


def test_a_training_under_way_is_not_changed_by_it(make_run, monkeypatch):
    alone, watched = make_run("alone"), make_run("watched")
    flags = ["--max-steps", "6", "--dropout", "0.3", "--save-every", "1"]
    assert alone.train(*flags)[0] == 0
    read, codes = TrainingSet.read, []

    def looked_at(self, call):
        if call.first == 4:
            codes.append(main([*watched.flags, *flags]))
        return read(self, call)

    monkeypatch.setattr(TrainingSet, "read", looked_at)
    assert watched.train(*flags)[0] == 0
    assert codes == [2]
    first, second = alone.arrays(6), watched.arrays(6)
    assert all((first[name] == second[name]).all() for name in first)
    assert alone.steps() == watched.steps()


def test_checkpoints_that_do_not_do(run, look, make_data):
    assert run.train("--max-steps", "2", "--save-every", "1")[0] == 0
    other = make_data(name="other", train=9)
    code, checks, _ = look("--data", other)
    assert code == 65
    assert "was trained on data with the digest" in failed(checks)["checkpoints"]
    commits = sorted(run.folder.glob("checkpoints/*/COMMIT"))
    commits[-1].write_bytes(b"{")
    code, checks, _ = look()
    assert code == 0
    assert "after step 1" in checks["checkpoints"]["said"]
    assert "COMMIT is damaged" in checks["checkpoints"]["said"]
    commits[0].unlink()
    before = contents(run.folder)
    code, checks, _ = look()
    assert code == 65
    assert "none is whole" in failed(checks)["checkpoints"]
    assert contents(run.folder) == before


def test_what_a_kill_left_of_a_first_save_stays(run, look):
    torn = storage.join(checkpoint.folder_of(str(run.folder), 3), "arrays-0.safetensors")
    storage.write_bytes(torn, b"cut off")
    code, checks, _ = look()
    assert code == 0
    assert checks["checkpoints"]["said"].startswith("none, it begins with the first step; ")
    assert storage.read_bytes(torn) == b"cut off"


def test_a_damaged_description(run, look):
    storage.write_bytes(storage.join(str(run.folder), runs.DESCRIPTION), b"{")
    code, checks, _ = look()
    assert code == 65
    assert "run.json is not a run's description" in failed(checks)["checkpoints"]


def test_too_little_memory(look, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: Memory(10**8, "the container's limit of 0.2 GB"))
    code, checks, _ = look()
    assert code == 2
    said = failed(checks)["memory"]
    assert said.startswith(
        "1.0 GB needed, 100.0 MB free of the container's limit of 0.2 GB; use a smaller --batch-size"
    )


def test_too_little_room(look):
    assert look("--keep", str(10**12))[0] == 0  # There will be no more of them than epochs.
    code, checks, _ = look("--keep", str(10**12), "--epochs", str(10**9))
    assert code == 2
    assert "make room, use a smaller --keep, or another --run" in failed(checks)["disk"]
    assert unchecked(checks) == ["save"]


def test_a_save_that_is_too_slow_or_fails_leaves_nothing(look, monkeypatch, run):
    save = Checkpoints.save

    def slow(self, arrays, progress):
        save(self, arrays, progress)
        time.sleep(1.1)

    monkeypatch.setattr(Checkpoints, "save", slow)
    code, checks, _ = look("--grace", "1")
    assert code == 2
    assert "more than train.grace = 1 s" in failed(checks)["save"]

    for number, expected in ((28, 2), (5, 1)):

        def fails(self, arrays, progress, number=number):
            save(self, arrays, progress)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Checkpoints, "save", fails)
        code, checks, _ = look()
        assert code == expected
        assert os.strerror(number) in failed(checks)["save"]
        assert not run.folder.exists()


def test_settings_of_training_count_and_unknown_ones_do_not(run, tmp_path, capsys):
    config = tmp_path / "boceto.toml"
    config.write_text(f'[train]\ndata = "{tmp_path}/data"\nrun = "{run.folder}"\nbatch-size = 7\nreplicas = 2\n')
    assert main(["--config", str(config)]) == 2
    assert "train.batch_size = 7 does not divide over 2 groups; use 6 or 8" in capsys.readouterr().err
    assert main(["--colour", "red"]) == 2
    assert "see `boceto preflight --help`" in capsys.readouterr().err


def test_object_storage(look, emulator, tmp_path):
    for entry in storage.list_files(str(tmp_path / "data")):
        storage.upload(Path(entry.url), f"{emulator.bucket}/data/{Path(entry.url).name}")
    before = storage.list_files(emulator.bucket)
    cache = tmp_path / "cache"
    flags = ["--data", f"{emulator.bucket}/data", "--run", f"{emulator.bucket}/run", "--cache-dir", str(cache)]
    code, checks, _ = look(*flags)
    assert code == 0
    assert checks["disk"]["said"].endswith(f"{emulator.bucket}/run, which has no end")
    assert len(list(cache.rglob("*.tfrecord"))) == 4
    assert storage.list_files(emulator.bucket) == before
