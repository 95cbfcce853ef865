import dataclasses
import json
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from boceto import artefact, checkpoint, contract, dataset, inspection, lease, storage
from boceto import run as runs
from boceto.artefact import Artefact
from boceto.checkpoint import Progress
from boceto.errors import SettingsError
from boceto.inspect import main
from boceto.lease import Heartbeat, Holder
from trainer.checkpoints import Checkpoints

HYPERPARAMETERS = {"net": "sknet", "seed": 0}
LEDGER = "ab" * 16
ARRAYS = {"weights/a": np.arange(6, dtype=np.float32), "m/a": np.ones(6, np.float32)}
MODEL = b"a model"
SECONDS = {"computing": 90.0, "saving": 10.0}


def look(url):
    return inspection.look(str(url), lambda _: None)


def contents(folder):
    """Every name below a folder, its bytes and when it was changed."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def run(data, tmp_path):
    """A finished run with all that may be in one, as the programs write it."""
    run = str(tmp_path / "run")
    digest = dataset.load(data).manifest.digest
    description = runs.Description(run, None)
    described = {
        "stop_criterion": {},
        "hyperparameters": HYPERPARAMETERS,
        "data_digest": digest,
        "settings": {**HYPERPARAMETERS, "data": data},
        "versions": {"boceto": "test"},
        "parameters": 6,
        "records": 24,
        "result": None,
    }
    description.begin(described, 0)
    history = runs.History(run)
    note = lambda steps: description.add(checkpoints=steps)  # noqa: E731 - reads better than a def
    checkpoints = Checkpoints(run, digest, HYPERPARAMETERS, 8, keep=2, note=note)
    for step in (2, 4, 6):
        history.add({"step": step, "loss": 1 / step})
        history.flush()
        checkpoints.save(ARRAYS, Progress(best_step=2, best_accuracy=0.5, **_so_far(step, history)))
        _hold(run, heartbeat=Heartbeat(step, SECONDS, saved=step))
        shutil.copytree(run, tmp_path / f"after {step}" / "run")  # What a kill leaves.
    storage.write_bytes(storage.join(checkpoint.folder_of(run, 5), "arrays-0.safetensors"), b"cut off")
    result = {"step": 6, "exported_step": 2, "parameters": 6, "net": "sknet", "ledger": LEDGER}
    description.add(result=result | {"validation_accuracy": 0.5, "train_accuracy": 0.75, "images_per_second": 0.0})
    export = storage.join(run, artefact.FOLDER)
    storage.write_bytes(storage.join(export, artefact.MODEL, "saved_model.pb"), MODEL)
    storage.write_bytes(storage.join(export, artefact.MODEL, "variables", "variables.index"), b"index")
    files = {"saved_model.pb": storage.crc32c(MODEL), "variables/variables.index": storage.crc32c(b"index")}
    shape = {"height": 16, "width": 16, "channels": 1, "embedding": 8}
    names = dataset.load(data).manifest.classes
    told = Artefact("sknet", 6, names, **shape, step=2, data_digest=digest, files=files,
                    settings={**HYPERPARAMETERS, "data": data},
                    images_per_second=1.5, boceto="test")  # fmt: skip
    storage.write_bytes(storage.join(export, artefact.DESCRIPTION), told.to_json())
    _score(run, data, digest, told)
    _hold(run, released=True, left=runs.left(run))
    return run


def _so_far(step, history):
    return {"step": step, "ledger": LEDGER, "train_accuracy": 0.75, "seconds": SECONDS, "history": history.head}


def _hold(run, **changes):
    holder = Holder("token", socket.gethostname(), "kernel/namespace", 7, "1", 20.0, 0.0, released=False,
                    heartbeat=Heartbeat(6, SECONDS, saved=6))  # fmt: skip
    storage.write_bytes(storage.join(run, lease.NAME), dataclasses.replace(holder, **changes).to_json())


def _score(run, data, digest, told):
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    scores = {
        "format": "boceto-scores",
        "version": 2,
        "boceto": "test",
        "settings": {"data": data},
        "data": {"digest": digest},
        "artefact": dataclasses.asdict(told),
        "trained_with_this_data": True,
        "splits": {"test": {"accuracy": score}},
        "retrieval": {"rankings": {"l2": {"mean_average_precision": score}}},
    }
    folder = storage.join(run, "eval", digest)
    files = {"report.txt": b"report", "neighbours.png": b"png"}
    for name, text in files.items():
        storage.write_bytes(storage.join(folder, name), text)
    scores["files"] = {name: storage.crc32c(text) for name, text in files.items()}
    storage.write_bytes(storage.join(folder, "scores.json"), contract.sealed(scores))


def flip(path, at=-1):
    whole = Path(path).read_bytes()
    at %= len(whole)
    Path(path).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def one(folder, pattern):
    return next(Path(folder).glob(pattern))


def test_a_whole_data_set(data, capsys):
    before = contents(data)
    assert main([data, "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    manifest = dataset.load(data).manifest
    assert (told["kind"], told["whole"], told["damaged"]) == ("data set", True, [])
    assert told["digest"] == manifest.digest
    assert told["classes"] == ["class 0", "class 1", "class 2"]
    assert [shard["state"] for shard in told["shards"]] == ["ok"] * 4
    assert "2 of 2 ok" in said.err
    assert "whole: every byte" in said.err
    assert contents(data) == before


def test_every_damaged_and_missing_shard_is_named(data, capsys):
    shards = sorted(Path(data).glob("*.tfrecord"))
    flip(shards[0], 40)
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    shards[2].unlink()
    assert main([data, "--json"]) == 65
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert sorted(shard["state"] for shard in told["shards"]) == ["DAMAGED", "DAMAGED", "missing", "ok"]
    assert len(told["damaged"]) == 3
    for shard in shards[:3]:
        assert f"DAMAGED: {shard}" in said.err
    assert str(shards[3]) not in said.err


def test_an_index_that_is_not_its_shards_is_damage(data, capsys):
    path = Path(data) / dataset.MANIFEST
    manifest = json.loads(path.read_text())
    shard = manifest["splits"]["train"]["shards"][0]
    index = Path(data) / shard["name"].replace(".tfrecord", ".index")
    flip(index, 16)  # The label of the first record.
    shard["index_crc32c"] = storage.crc32c(index.read_bytes())
    path.write_bytes(contract.sealed(manifest))
    assert main([data, "--json"]) == 65
    assert f"{index} is not the index of {shard['name']}" in capsys.readouterr().err
    index.unlink()
    assert main([data, "--json"]) == 65
    assert f"{index} is missing" in capsys.readouterr().err


def test_what_is_known_of_the_sources_is_said(make_data):
    link = look(make_data()).chain[0]
    assert (link.matches, link.said) == (None, "the sources were not read again: their checksums are in the manifest")


def test_an_unfinished_data_set_is_one(data):
    (Path(data) / dataset.MANIFEST).unlink()
    found = look(data)
    assert found.kind == "data set"
    assert "unfinished" in found.damaged[0]


def test_a_whole_run_with_all_that_is_in_it(run, data, capsys):
    before = contents(run) | contents(data)
    assert main([run, "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    rows = {row["step"]: row for row in told["checkpoints"]}
    assert {step: row["state"] for step, row in rows.items()} == {2: "whole", 4: "whole", 5: "torn", 6: "whole"}
    assert {step: row["marks"] for step, row in rows.items()} == {2: ["best"], 4: [], 5: [], 6: ["newest"]}
    assert rows[6]["ledger"] == LEDGER
    assert rows[6]["bytes"] == sum(path.stat().st_size for path in (Path(run) / "checkpoints" / f"{6:010}").iterdir())
    assert told["seconds"] == SECONDS
    assert "01:30   90.0%" in said.err
    assert told["lease"]["state"] == "released"
    assert told["history_lines"] == 3
    assert [part["kind"] for part in told["parts"]] == ["artefact", "scores"]
    assert told["parts"][1]["map_l2"] == 0.5
    assert {link["matches"] for link in told["chain"]} == {True}
    assert {link["here"] for link in told["chain"]} >= {"run.json", "artefact.json", "scores.json", "checkpoint 6"}
    assert contents(run) | contents(data) == before


DAMAGES = {
    "arrays": ("checkpoints/0000000004/arrays-*", 300, "arrays-"),
    "COMMIT": ("checkpoints/0000000006/COMMIT", 99, "COMMIT is damaged"),
    "model": ("export/saved_model/saved_model.pb", 3, "saved_model.pb has 7 bytes"),
    "variables": ("export/saved_model/variables/variables.index", 0, "variables.index has 5 bytes"),
    "artefact.json": ("export/artefact.json", 0, "artefact.json is not an artefact's description"),
    "run.json": ("run.json", 0, "run.json is not a run's description"),
    "history": ("history.jsonl", 0, "history.jsonl is damaged"),
    "lease": ("lease.json", 0, "lease.json cannot be read"),
    "scores": ("eval/*/scores.json", 0, "scores.json is damaged"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_one_flipped_byte_in_a_run_is_found_and_named(run, capsys, what):
    pattern, at, said = DAMAGES[what]
    path = one(run, pattern)
    flip(path, at)
    assert main([run]) == 65
    assert said in capsys.readouterr().err
    flip(path, at)
    assert main([run]) == 0


@pytest.mark.parametrize("sealed", ["data/dataset.json", "run/export/artefact.json", "run/checkpoints/*6/COMMIT"])
def test_a_flip_anywhere_in_a_sealed_file_is_found(run, tmp_path, sealed):
    path = one(tmp_path, sealed)
    whole = path.read_bytes()
    for at in (*range(0, len(whole), 97), len(whole) - 1):
        flip(path, at)
        found = look(path.parent)
        assert any(str(path) in what for what in found.damaged), at
        path.write_bytes(whole)
    assert look(path.parent).damaged == []


@pytest.mark.parametrize("missing", ["export/artefact.json", "export/saved_model/saved_model.pb", "eval/*/report.txt"])
def test_what_is_missing_is_named(run, missing):
    path = one(run, missing)
    path.unlink()
    assert [what for what in look(run).damaged if str(path) in what]


def _changed(path):
    flip(path, len(path.read_bytes()) // 2)


def _shortened(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def _removed(path):
    path.unlink()


STATES = ("finished", "stopped", "killed")


@pytest.mark.parametrize("state", STATES)
def test_whatever_is_changed_shortened_removed_or_put_back_is_found_and_named(run, tmp_path, state):
    run = run if state == "finished" else str(tmp_path / "after 4" / "run")
    if state == "stopped":
        _hold(run, released=True, left=runs.left(run), heartbeat=Heartbeat(4, SECONDS, saved=4))
    assert look(run).damaged == []
    older = tmp_path / "after 2" / "run"
    for path, (whole, _) in contents(run).items():
        if "0000000005" in path.parts:
            continue  # What a kill in a save has left.
        harms = [_changed, _shortened, _removed]
        before = older / path.relative_to(run)
        # An older lease is that of a trainer which was killed.
        if before.exists() and before.read_bytes() != whole and path.name != lease.NAME:
            harms.append(lambda path, before=before: path.write_bytes(before.read_bytes()))
        for harm in harms:
            harm(path)
            assert any(str(path) in what or path.parent.name in what for what in look(run).damaged), (path, harm)
            path.write_bytes(whole)
    assert look(run).damaged == []


@pytest.mark.parametrize("state", STATES)
def test_removed_checkpoints_are_missed(run, tmp_path, state):
    run = run if state == "finished" else str(tmp_path / "after 4" / "run")
    shutil.rmtree(Path(run) / "checkpoints")
    (Path(run) / lease.NAME).unlink()
    said = look(run).damaged
    assert any("checkpoints/0000000002 is missing: run.json says that it is kept" in what for what in said)
    assert any("lease.json is missing" in what for what in said)


@pytest.mark.parametrize("field", ["step", "exported_step", "parameters", "net", "ledger", "validation_accuracy",
                                   "train_accuracy", "images_per_second"])  # fmt: skip
def test_a_result_that_was_changed_and_sealed_again_disagrees_with_the_rest(run, field):
    _hold(run)  # So that it does not tell how the trainer left the others.
    described = runs.read(run)
    result = described["result"]
    other = "other" if isinstance(result[field], str) else result[field] + 1
    runs.write(run, described | {"result": result | {field: other}})
    assert any("does not fit" in what and field in what for what in look(run).damaged)


def test_every_changed_field_of_scores_is_noticed(run):
    path = one(run, "eval/*/scores.json")
    whole = path.read_text()
    numbers = list(re.finditer(r"0\.\d+|[1-9]\d*", whole))
    assert len(numbers) > 20
    for found in numbers:
        path.write_text(f"{whole[: found.start()]}{float(found[0]) / 2}{whole[found.end() :]}")
        assert any(str(path) in what for what in look(path.parent).damaged), found


def test_a_lost_best_checkpoint_and_none_whole_are_damage(run):
    shutil.rmtree(checkpoint.folder_of(run, 2))
    said = look(run).damaged
    assert said[0] == "checkpoint 6 does not fit the best, 2: it is not whole any more"
    assert "checkpoints/0000000002 is missing: run.json says that it is kept" in said[1]
    for step in (4, 6):
        storage.delete(storage.join(checkpoint.folder_of(run, step), checkpoint.COMMIT))
    assert "none of 3 checkpoints is whole" in look(run).damaged[0]


def test_a_checkpoint(run, capsys):
    folder = checkpoint.folder_of(run, 4)
    assert main([folder, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["step"], told["state"], told["arrays"]) == ("checkpoint", 4, "whole", 2)
    assert told["ledger"] == LEDGER
    flip(one(folder, "arrays-*"))
    found = look(folder)
    assert (found.facts["state"], len(found.damaged)) == ("corrupt", 1)
    torn = look(checkpoint.folder_of(run, 5))
    assert torn.facts["state"] == "torn"
    assert "it has no COMMIT" in torn.damaged[0]
    copy = Path(run) / "copy"
    shutil.copytree(checkpoint.folder_of(run, 6), copy)
    with pytest.raises(SettingsError, match=r"outside of a run; put it back to RUN/checkpoints/<step>"):
        look(copy)


def test_an_artefact_and_scores_by_themselves(run, tmp_path):
    export = storage.join(run, "export")
    assert [link.matches for link in look(export).chain][:2] == [True, True]
    moved = tmp_path / "served"
    shutil.copytree(export, moved)
    found = look(moved)
    assert (found.kind, found.damaged) == ("artefact", [])
    assert [link.matches for link in found.chain] == [None, None]
    scores = one(run, "eval/*")
    assert look(scores).facts["test_accuracy"] == 0.5
    told = json.loads((scores / "scores.json").read_text())
    del told["artefact"]["data_options"]  # As they were written before there were any.
    (scores / "scores.json").write_bytes(contract.sealed(told))
    assert all(link.matches for link in look(scores).chain)
    scores.rename(scores.with_name("other"))
    assert "its folder says otherwise" in look(scores.with_name("other")).damaged[0]


def test_what_does_not_match_is_told(run, data, make_data, capsys):
    other = make_data(name="other", classes=4)
    shutil.rmtree(data)
    Path(other).rename(data)
    assert main([run]) == 0
    said = capsys.readouterr().err
    assert said.count("DOES NOT MATCH") >= 2
    shutil.rmtree(data)
    assert main([run]) == 0
    assert "any more, or not readable from here" in capsys.readouterr().err


def test_an_artefact_of_another_data_set_than_its_run_is_damage(run):
    path = Path(run) / "export" / "artefact.json"
    text = json.loads(path.read_text())
    path.write_bytes(contract.sealed(text | {"data_digest": "0" * 32}))
    found = look(run)
    assert any("artefact.json does not fit data set 000" in what for what in found.damaged)
    assert any(link.here == "scores.json" and link.matches is False for link in found.chain)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"renewed": 4e9}, "holds it"),
        ({"renewed": 0.0}, "is silent, and may be dead"),
        ({"machine": lease.machine(), "process": os.getpid(), "begun": "1"}, "its process is gone"),
        ({"released": True}, "released"),
    ],
)
def test_who_holds_the_lease(run, changes, state):
    _hold(run, **changes)
    assert look(run).details["lease"]["state"] == state


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"{", "line 8: "), (b'{"code": "1"}', "line 8: pod is missing"), (b"[]", "line 8: it is \\[\\], not an object")],
)
def test_how_attempts_ended_is_shown_and_checked(run, capsys, line, said):
    end = {"pod": "a", "started": "s", "ended": "e"}
    ends = [{**end, "code": code, "message": f"end {code}\nmore"} for code in range(7)]
    path = storage.join(run, runs.ATTEMPTS)
    storage.write_bytes(path, "".join(json.dumps(end) + "\n" for end in ends).encode())
    assert main([run, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["attempts"] == ends
    assert "last 5 of 7 attempts" in told.err
    assert [f"end {code}" in told.err for code in range(7)] == [False] * 2 + [True] * 5
    assert "more" not in told.err
    storage.write_bytes(path, storage.read_bytes(path) + line + b"\n")
    (damage,) = look(run).damaged
    assert re.search(rf"attempts.jsonl is damaged: {said}", damage)


@pytest.mark.parametrize("place", ["empty", "other", "nowhere"])
def test_what_is_nothing_of_ours_is_told_with_what_was_looked_for(tmp_path, capsys, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"")
    assert main([str(tmp_path / place)]) == 2
    said = capsys.readouterr().err
    assert "looked for (artefact: artefact.json" in said
    assert "dataset.json" in said
    assert main([]) == 2
    assert "inspect.path is missing; give PATH" in capsys.readouterr().err


def test_a_file_stands_for_its_folder_and_object_storage_is_as_good(run, data, emulator):
    assert look(storage.join(data, dataset.MANIFEST)).url == data
    for entry in storage.list_files(run):
        storage.upload(Path(entry.url), f"{emulator.bucket}/run/{storage.relative(entry.url, run)}")
    found = look(f"{emulator.bucket}/run")
    assert (found.kind, found.damaged) == ("run", [])
    storage.write_bytes(f"{emulator.bucket}/run/export/saved_model/saved_model.pb", b"A MODEL")
    assert "saved_model.pb has 7 bytes" in look(f"{emulator.bucket}/run").damaged[0]


def test_settings_that_do_not_fit_are_told(run):
    description = runs.read(run)
    runs.write(run, {**description, "hyperparameters": {**HYPERPARAMETERS, "seed": 1}})
    said = "does not fit run.json: seed is 0 and 1"
    _hold(run)
    wanted = [*(f"checkpoint {step} {said}" for step in (2, 4, 6)), f"artefact.json {said}"]
    assert look(run).damaged == wanted
    assert look(checkpoint.folder_of(run, 4)).damaged == [f"COMMIT {said}"]
