"""Whatever happens at a write of a run, the same command goes on and ends as if nothing had.

The matrix drives the trainer's lease, saver and checkpoints in forked processes with a toy step (toy_train.py); a few
cells of it are real `boceto train` processes.
"""

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_store import ERRORS, KILLS, KINDS, Fault

from boceto import artefact, checkpoint, inspection, storage
from boceto import run as runs
from trainer import attempts, sameness

TESTS = Path(__file__).parent.parent
LAST, BEST = 12, 6  # As in toy_train.py.
COMMIT, ARRAYS, ARTEFACT = r"/COMMIT$", r"/arrays-[^/]*$", r"/artefact\.json$"
# Each write of a run: name -> (pattern, operation, which, what its bytes hold).
SAVES = {
    "first arrays": (ARRAYS, "write", 1),
    "middle arrays": (ARRAYS, "write", 3),
    "last arrays": (ARRAYS, "write", 8),
    "first COMMIT": (COMMIT, "create", 1),
    "middle COMMIT": (COMMIT, "create", 3),
    "last COMMIT": (COMMIT, "create", 8),
}
PRUNES = {
    "prune COMMIT": (COMMIT, "delete", 1),
    "prune arrays": (ARRAYS, "delete", 1),
    "last prune COMMIT": (COMMIT, "delete", 5),
    "last prune arrays": (ARRAYS, "delete", 5),
}
OTHERS = {
    "lease taken": ("/lease.json$", "create", 1),
    "lease renewed": ("/lease.json$", "replace", 1, '"released": false'),
    "lease released": ("/lease.json$", "replace", 1, '"released": true'),
    "run.json begun": ("/run.json$", "write", 1),
    "run.json first noted": ("/run.json$", "write", 2),
    "run.json noted": ("/run.json$", "write", 4),
    "run.json ended": ("/run.json$", "write", 10),
    "history begun": ("/history.jsonl$", "write", 1),
    "history middle": ("/history.jsonl$", "write", 3),
}
POINTS = SAVES | PRUNES | OTHERS
# Without these a run has not begun, or not ended, as it should: their failure is the program's.
NEEDED = {"lease taken", "run.json begun", "run.json ended", "history begun"}


def cells(points, kinds=KINDS):
    return [
        pytest.param((kind, point), id=f"{kind} {name}")
        for name, point in points.items()
        for kind in kinds
        if not (kind == "truncated" and point[1] == "delete")
    ]


def expected(kind, point):
    """The exit statuses of a run with this fault."""
    if kind in KILLS:
        return {-9}
    if kind in ERRORS:
        return {1} if any(point == POINTS[name] for name in NEEDED) else {0}
    return {75, 0}  # 0 where no step was left to stop at.


class Toy:
    """The server of toy_train.py."""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, TESTS / "toy_train.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment,
        )  # fmt: skip

    def train(self, run, fault=None, *, renews=False, max_steps=0, term=0):
        asked = {"run": run, "fault": fault and json.loads(fault.to_json()), "renews": renews, "quiet": True}
        asked |= {"max_steps": max_steps, "term": term}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def toy():
    server = Toy({})
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """What an uninterrupted run ends with."""
    run = str(tmp_path_factory.mktemp("whole"))
    assert toy.train(run) == 0
    return ended(run)


def ended(run):
    commit, arrays = checkpoint.load(run, LAST)
    lines = [line.entry for line in runs.history(run)]
    return (
        {name: value for name, value in dataclasses.asdict(commit.progress).items() if name not in sameness.TIMES},
        {name: array.tobytes() for name, array in arrays.items()},
        runs.read(run)["result"],
        [{name: value for name, value in line.items() if name not in sameness.SPEEDS} for line in lines],
    )


def damage(run):
    """What `boceto inspect` finds; a toy exports nothing, which is left out."""
    if not storage.exists(storage.join(run, "lease.json")):
        return []  # It was killed before it had written anything.
    return [what for what in inspection.look(run, lambda _: None).damaged if "artefact.json is missing" not in what]


def test_a_whole_run_exports_its_best_step_and_tells_of_all_steps(whole):
    _, _, result, history = whole
    assert (result["step"], result["exported_step"], result["validation_accuracy"]) == (LAST, BEST, 0.5)
    assert [line["step"] for line in history if "loss" in line] == [3, 5, 6, 9, 10, 12]
    assert [line["step"] for line in history if "validation_loss" in line] == [3, 6, 9, 12]


@pytest.mark.parametrize("step", [3, 9, LAST])
def test_a_stop_in_a_validation_costs_nothing(toy, whole, tmp_path, step):
    run = str(tmp_path / "run")
    assert toy.train(run, term=step) == 75
    assert runs.read(run)["result"] is None
    assert toy.train(run) == 0
    assert ended(run) == whole


@pytest.mark.parametrize("step", [1, 4, 7, 10])
def test_a_run_that_ends_early_and_then_goes_on_is_the_same_as_one_that_did_not(toy, whole, tmp_path, step):
    run = str(tmp_path / "run")
    early = step == 7
    if early:  # A run that ends where none is due validates all the same, and exports what is best then.
        assert toy.train(run, max_steps=step, term=step) == 75
        for _ in range(2):  # The second time, nothing is left to train.
            assert toy.train(run, max_steps=step) == 0
            result = runs.read(run)["result"]
            assert (result["exported_step"], result["validation_accuracy"]) == (7, 0.9)
    else:
        assert toy.train(run, Fault("kill-before", "/COMMIT$", "create", 1 + step // 2), max_steps=step) == -9
    assert toy.train(run) == 0
    assert ended(run) == whole


def test_where_the_best_step_is_damaged_the_result_is_of_the_one_that_is_exported(toy, whole, tmp_path):
    run = str(tmp_path / "run")
    assert toy.train(run) == 0
    arrays = next(url for url in checkpoint.files(run)[BEST] if "arrays" in url)
    storage.write_bytes(arrays, storage.read_bytes(arrays)[:-1])
    assert toy.train(run, term=LAST) == 75  # It has to validate the last step again.
    assert toy.train(run) == 0
    result = runs.read(run)["result"]
    assert (result["exported_step"], result["validation_accuracy"]) == (LAST, 0.4)


def crash_and_resume(toy, whole, run, cell, told):
    kind, point = cell
    pattern, operation, at, *holding = point
    fault = Fault(kind, pattern, operation, at, holding="".join(holding), told=str(told))
    renews = "lease" in pattern
    assert toy.train(run, fault, renews=renews) in expected(kind, point)
    assert told.exists()
    assert damage(run) == []
    assert toy.train(run) == 0
    assert ended(run) == whole
    assert damage(run) == []
    checkpoint.load(run, BEST)


@pytest.mark.parametrize("cell", cells(POINTS))
def test_a_fault_at_a_write_costs_nothing(toy, whole, tmp_path, cell):
    crash_and_resume(toy, whole, str(tmp_path / "run"), cell, tmp_path / "told")


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("name", ["first arrays", "middle COMMIT", "last arrays", "prune COMMIT"])
def test_a_storage_that_stays_broken_ends_the_run_which_goes_on_once_it_is_mended(toy, whole, tmp_path, kind, name):
    pattern, operation, at = POINTS[name]
    run = str(tmp_path / "run")
    assert toy.train(run, Fault(kind, pattern, operation, at, times=99)) == 1
    assert toy.train(run) == 0
    assert ended(run) == whole


@pytest.mark.parametrize(
    ("name", "code"),
    [("lease taken", 2), ("run.json begun", 1), ("middle COMMIT", 1), ("history middle", 1), ("run.json ended", 1)],
)
def test_a_folder_that_refuses_is_a_setting_until_it_was_written_and_a_fault_then(toy, whole, tmp_path, name, code):
    run = str(tmp_path / "run")
    assert toy.train(run, Fault("refused", *POINTS[name], times=99)) == code
    assert toy.train(run) == 0
    assert ended(run)[:3] == whole[:3]  # Lines of the history that were never written are lost.


@pytest.mark.parametrize("seed", range(20))
def test_faults_in_every_session_at_any_write_cost_nothing(toy, whole, tmp_path, seed):
    chance = random.Random(seed)  # noqa: S311 - no secret
    run, statuses = str(tmp_path / "run"), []
    for _ in range(6):
        fault = Fault(chance.choice(KINDS), r"/(COMMIT|arrays-[^/]*)$", at=chance.randint(1, 8))
        statuses.append(toy.train(run, fault))
        assert statuses[-1] in {-9, 75, 0}, statuses
    assert toy.train(run) == 0, statuses
    assert ended(run) == whole


@pytest.fixture(scope="module")
def toy_afar(_emulator_server):
    server = Toy({"STORAGE_EMULATOR_HOST": _emulator_server.url})
    yield server
    server.close()


@pytest.mark.parametrize(
    "cell",
    cells(
        {name: POINTS[name] for name in ("first arrays", "middle arrays", "middle COMMIT", "prune COMMIT")},
        (*KILLS, "lost-answer"),
    ),
)
def test_a_fault_at_a_write_to_object_storage_costs_nothing(toy_afar, whole, emulator, tmp_path, cell):
    crash_and_resume(toy_afar, whole, f"{emulator.bucket}/run", cell, tmp_path / "told")


REAL = {
    "truncated arrays": ({-9}, Fault("truncated", ARRAYS, "write", 1)),
    "kill-after prune": ({-9}, Fault("kill-after", COMMIT, "delete", 1)),
    "kill-before export": ({-9}, Fault("kill-before", ARTEFACT, "write", 1)),
    "full export": ({1}, Fault("full", ARTEFACT, "write", 1)),
    "term-before arrays": ({75}, Fault("term-before", ARRAYS, "write", 1)),
    "full, then lost": ({0}, Fault("lost-answer", COMMIT, "create", 2)),
}


in_peace = []  # What a real run without a fault ends with, once.


@pytest.mark.parametrize("name", REAL)
def test_a_fault_in_a_real_run_costs_nothing(make_run, name):
    statuses, fault = REAL[name]
    flags = ("--epochs", "2", "--keep", "1", "--augment", "stroke", "--erase", "0.5", "--mixup", "0.2", "--cutmix", "1")
    run = make_run("run")
    if not in_peace:
        other = make_run("whole")
        assert other.train(*flags)[0] == 0
        in_peace[:] = last_of(other)
    done = subprocess.run(
        [sys.executable, TESTS / "faulty_boceto.py", fault.to_json(), "train", *run.flags, *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in statuses, done.stderr
    assert run.train(*flags)[0] == 0
    assert last_of(run) == in_peace
    ends = [json.loads(line) for line in (run.folder / runs.ATTEMPTS).read_text().splitlines()]
    killed = done.returncode < 0  # It says nothing; the next attempt says so.
    assert [end["code"] for end in ends] == [-1 if killed else done.returncode, 0][: len(ends)]
    assert len(ends) == 1 + (done.returncode != 0)  # A finished run is not held again.
    assert (ends[0]["message"] == attempts.LOST) == killed
    artefact.verify(str(run.folder), artefact.load(str(run.folder)))


def last_of(run):
    """[the last step, its arrays, its ledger]."""
    step = run.steps()[-1]
    arrays = {name: array.tobytes() for name, array in run.arrays(step).items()}
    return [step, arrays, checkpoint.commit(str(run.folder), step).progress.ledger]
