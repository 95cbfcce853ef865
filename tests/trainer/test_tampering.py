"""What `boceto train` and `boceto eval` do with a run one of whose files was changed, removed or put back.

All is real but the steps and the export: a toy step over numpy, and a SavedModel of a few bytes.
"""

import contextlib
import dataclasses
import re
import shutil

import pytest
from toy_train import State, keys_of

from boceto import artefact, ledger, storage
from boceto import run as runs
from boceto.artefact import Artefact
from boceto.checkpoint import Progress
from boceto.errors import Stopped
from eval_jobs.__main__ import main as evaluate
from trainer import train
from trainer.checkpoints import Checkpoints
from trainer.saver import Saver, TrainState

LAST = 6
FLAGS = ["--max-steps", str(LAST), "--lease", "1"]
stops = set()


def _toy(job):
    """As `train.run`, with a checkpoint every other step."""
    settings, digest = job.settings, job.data.manifest.digest
    checkpoints = Checkpoints(settings.run, digest, settings.hyperparameters, settings.batch_size, 2, 0,
                              job.lease.confirm, lambda steps: job.description.add(checkpoints=steps))  # fmt: skip
    found, state, progress = train.restore(job), State(), Progress()
    if found:
        state.restore(found[1])
        progress = found[0].progress
        job.log.line(f"goes on after step {progress.step}")
    records = job.data.manifest.splits["train"].records
    job.description.begin({**train.describe(settings, job.data), "parameters": 5, "records": records}, progress.step)
    history = runs.History(settings.run, alert=job.log.alert, confirm=job.lease.confirm)
    history.resume(progress)
    kept = TrainState(state, progress)
    saver = Saver(checkpoints, kept, job.log, job.telemetry, 3)
    job.lease.heartbeat = lambda: dataclasses.replace(job.lease.before, step=progress.step, saved=saver.saved)
    with contextlib.closing(saver):
        for step in range(progress.step + 1, LAST + 1):
            state.step(keys_of(step))
            rolled = ledger.roll(progress.ledger or ledger.EMPTY, ledger.digest(keys_of(step)))
            history.add({"step": step})
            if step % 2 == 0:
                history.offer()
                progress = dataclasses.replace(progress, history=history.head)
            progress = dataclasses.replace(progress, step=step, ledger=rolled)
            if step % 2 == 0:
                kept.progress = progress
                saver.save(wait=True)
            if step in stops:
                raise Stopped("stopped")
    return _export(job, progress)


def _export(job, progress):
    manifest, url = job.data.manifest, storage.join(job.settings.run, artefact.FOLDER)
    model = b"step %d" % progress.step
    storage.write_bytes(storage.join(url, artefact.MODEL, "saved_model.pb"), model)
    said = {"net": "sknet", "parameters": 5}
    told = Artefact(
        **said, classes=manifest.classes, height=manifest.height, width=manifest.width, channels=1,
        embedding=8, step=progress.step, data_digest=manifest.digest, settings=dataclasses.asdict(job.settings),
        files={"saved_model.pb": storage.crc32c(model)}, images_per_second=0.0, boceto="test",
    )  # fmt: skip
    storage.write_bytes(storage.join(url, artefact.DESCRIPTION), told.to_json())
    return said | {"step": progress.step, "exported_step": progress.step, "ledger": progress.ledger, "artefact": url}


def equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def restore(run, whole):
    shutil.rmtree(run.folder)
    shutil.copytree(whole, run.folder)


@pytest.fixture
def run(make_run, monkeypatch, tmp_path):
    """A finished run, and beside it what it was after the steps 2 and 4, where it was stopped, and at the end."""
    monkeypatch.setattr(train, "run", _toy)
    run = make_run()
    for step in (2, 4, LAST):
        stops.clear()
        stops.update({step} - {LAST})
        assert run.train(*FLAGS)[0] == (0 if step == LAST else 75)
        shutil.copytree(run.folder, tmp_path / f"after {step}")
    stops.clear()
    return run


def _change(path, _):
    whole = path.read_bytes()
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def _remove(path, _):
    path.unlink()


def _put_back(path, older):
    path.write_bytes(older.read_bytes())


def _harms(folder, older):
    """Every way to harm a file of `folder`: (its name, what does it, both in words)."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, before = path.relative_to(folder), older / path.relative_to(folder)
        differs = before.exists() and before.read_bytes() != path.read_bytes()
        for harm in (_change, _remove, *[_put_back] * differs):
            yield name, harm, re.sub("-[0-9a-f]{8}", "", f"{harm.__name__[1:]} {name}")


# What train tells, where it tells more than it would of a whole run: refused where that is an error.
WHOLE = {4: "goes on after step 4\n", 6: " is finished: step 6, exported to "}
SKIPPED = "; it is skipped\ngoes on after step 2\n"
AGAIN = "it is exported again from the checkpoint: "
WITHOUT = "run.json is missing: it is written anew, for a run that goes on from its checkpoints\n"
TOLD = {
    (4, "change checkpoints/0000000004/COMMIT"): SKIPPED,
    (4, "change checkpoints/0000000004/arrays.safetensors"): SKIPPED,
    (4, "remove checkpoints/0000000004/COMMIT"): SKIPPED,
    (4, "remove checkpoints/0000000004/arrays.safetensors"): SKIPPED,
    (4, "change history.jsonl"): "error: {path} is damaged: ",
    (4, "put_back history.jsonl"): "error: {path} is damaged: ",
    (4, "remove history.jsonl"): "{path} is missing: what it said up to step 4 is lost, and it begins anew\n",
    (4, "change lease.json"): "someone whose lease cannot be read held this run's lease",
    (4, "change run.json"): "error: {path} is not a run's description: ",
    (4, "remove run.json"): WITHOUT,
    (
        6,
        "remove checkpoints/0000000006/COMMIT",
    ): "0000000006 is gone: the run is finished, and cannot go on\n",
    (6, "change export/artefact.json"): AGAIN,
    (6, "remove export/artefact.json"): AGAIN,
    (6, "change export/saved_model/saved_model.pb"): AGAIN,
    (6, "remove export/saved_model/saved_model.pb"): AGAIN,
    (6, "change run.json"): "error: {path} is not a run's description: ",
    (6, "remove run.json"): WITHOUT,
    (6, "put_back run.json"): "goes on after step 6\n",
}


@pytest.mark.parametrize("state", [4, LAST])
def test_train_goes_on_exactly_or_exports_again_or_refuses_by_name(run, tmp_path, state):
    whole, older = tmp_path / f"after {state}", tmp_path / f"after {state - 2}"
    arrays, result = run.arrays(LAST), runs.read(str(run.folder))["result"]
    told = {words for at, words in TOLD if at == state}
    for name, harm, words in _harms(whole, older):
        restore(run, whole)
        harm(run.folder / name, older / name)
        expected = TOLD.get((state, words), WHOLE[state]).format(path=run.folder / name)
        code, said = run.train(*FLAGS)
        refused = expected.startswith("error: ")
        assert (code, expected in said, "error: " in said) == (65 if refused else 0, True, refused), (words, said)
        if not refused:
            assert runs.read(str(run.folder))["result"] == result, words
            assert state == LAST or equal(run.arrays(LAST), arrays), words
            artefact.verify(str(run.folder), artefact.load(str(run.folder)))
        told.discard(words)
    assert not told


def test_eval_refuses_a_harmed_description_or_export_by_name(run, tmp_path, capsys):
    whole, older = tmp_path / f"after {LAST}", tmp_path / "after 4"
    for name, harm, words in _harms(whole, older):
        if name.parts[0] not in {"run.json", "export"} or words in {"remove run.json", "put_back run.json"}:
            continue  # An export is one without its run, and with one that is not finished.
        restore(run, whole)
        harm(run.folder / name, older / name)
        code = evaluate(["--data", run.flags[1], "--run", str(run.folder)])
        assert (code, f"error: {run.folder / name} " in (said := capsys.readouterr().err)) == (65, True), (words, said)


def test_eval_refuses_an_export_that_is_not_the_one_of_the_result(run, capsys):
    told = artefact.load(str(run.folder))
    changes = {"step": 4, "parameters": 6, "net": "skresnet", "settings": told.settings | {"seed": 1}}
    for name, value in changes.items():
        other = dataclasses.replace(told, **{name: value})
        storage.write_bytes(str(run.folder / "export" / artefact.DESCRIPTION), other.to_json())
        assert evaluate(["--data", run.flags[1], "--run", str(run.folder)]) == 65
        word = "exported_step" if name == "step" else name
        assert f"artefact.json does not fit run.json: {word} is {value}" in capsys.readouterr().err
    code, said = run.train(*FLAGS)
    assert (code, AGAIN in said) == (0, True)
    assert artefact.load(str(run.folder)) == told


@pytest.mark.parametrize("tells", ["run.json", "run.json, its checkpoints", "export/", "history.jsonl", "lease.json"])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(run, tmp_path, tells):
    restore(run, tmp_path / f"after {LAST if tells in {'run.json', 'export/'} else 4}")
    for path in run.folder.iterdir():
        if path.name != tells.partition(",")[0].rstrip("/"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, said = run.train(*FLAGS)
    why = {
        "run.json": "run.json says that the run was finished",
        "run.json, its checkpoints": "run.json says that step 4 was saved",
        "export/": "export/ holds what it exported",
        "history.jsonl": "history.jsonl is there, and run.json is gone too",
        "lease.json": "lease.json says that step 4 was saved",
    }[tells]
    remedy = "put the checkpoints back from a backup, or start again in another --run, or remove the whole run folder\n"
    assert code == 65
    assert f"error: {run.folder}/checkpoints has no whole checkpoint, but {why}; {remedy}" in said
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize(("state", "step"), [(4, 4), (4, 3), (LAST, 5), (LAST, 4), (LAST, 7)])
def test_a_result_that_is_not_where_the_settings_lead_is_refused(run, tmp_path, state, step):
    restore(run, tmp_path / f"after {state}")
    described = runs.read(str(run.folder))
    runs.write(str(run.folder), described | {"result": {"step": step, "artefact": "x"}})
    code, said = run.train(*FLAGS)
    assert code == 65
    assert f"error: {run.folder}/run.json says that the run was finished at step {step}, but " in said
    assert "; remove it to go on from the checkpoints, or use another --run\n" in said
    (run.folder / "run.json").unlink()
    assert run.train(*FLAGS)[0] == 0
    assert runs.read(str(run.folder))["result"]["step"] == LAST


@pytest.mark.parametrize("name", ["lease.json", "history.jsonl", "run.json", "attempts.jsonl", "metrics.prom"])
def test_a_folder_in_the_place_of_a_file_is_refused(make_run, name):
    run = make_run()
    (run.folder / name).mkdir(parents=True)
    code, said = run.train("--max-steps", "1")
    assert code == 2
    assert f"{run.folder / name} is a folder, and a run has a file there; move it" in said
