import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from boceto import storage
from boceto.console import Console
from boceto.errors import DataError, SettingsError
from boceto.settings import parse
from trainer import kills, order, sameness, state
from trainer.kills import ChildFailed
from trainer.verify_resume import NothingShown, Settings, main, verify

SMALL = ("--width-multiplier", "0.0625", "--embedding", "8", "--batch-size", "8", "--steps", "20", "--save-every", "4")


@pytest.fixture
def data(make_data):
    return make_data(train=16)


def settings(data, tmp_path, *flags):
    words = ["--data", data, "--work", str(tmp_path / "work"), "--seed-of-kills", "5", *SMALL, *flags]
    return parse(Settings, "verify-resume", words, "").settings


def test_real_trainings_killed_and_gone_on_are_equal(data, tmp_path, capsys):
    work = tmp_path / "work"
    flags = ["--data", data, "--work", str(work), *SMALL, "--kills", "1", "--seed-of-kills", "9", "--json"]
    assert main(flags) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["equal"]
    assert [kill["status"] for kill in result["kills"]] == [-signal.SIGKILL]
    assert " -9 " in said.err
    assert "seed 9" in said.err
    assert "1 sessions went on from a checkpoint. The two runs are EQUAL to the bit." in said.err
    named = {part["name"] for part in result["parts"]}
    assert named >= {"weights", "batch-norm statistics", "optimiser slot m", "EMA", "ledger", "progress"}
    assert named >= {"history", "export"}
    assert all(part["bytes"] > 0 for part in result["parts"] if part["arrays"])
    assert not work.exists()


def lose_a_slot(monkeypatch):
    restore = state.Variables.restore

    def lossy(self, arrays):
        restore(self, {name: value * (not name.startswith("m/")) for name, value in arrays.items()})

    monkeypatch.setattr(state.Variables, "restore", lossy)


def change_the_order(monkeypatch):
    rows = order.rows
    monkeypatch.setattr(order, "rows", lambda seed, *rest: rows(seed + 1, *rest))


@pytest.mark.parametrize(("fault", "named"), [(lose_a_slot, "m/conv1_1/kernel: "), (change_the_order, "ledger: ")])
def test_a_training_whose_resume_is_broken_is_found_out(make_run, monkeypatch, fault, named):
    whole, broken = make_run("whole", train=16), make_run("broken")
    assert whole.train("--max-steps", "6")[0] == 0
    assert broken.train("--max-steps", "3")[0] == 0
    fault(monkeypatch)
    assert broken.train("--max-steps", "6")[0] == 0
    parts, differences = sameness.compare(str(whole.folder), str(broken.folder), 6)
    assert {part.name for part in parts if not part.same} >= {"weights", "optimiser slot m"}
    for name in ("weights/conv1_1/kernel: ", named):
        assert any(difference.startswith(name) for difference in differences)


# A trainer without TensorFlow: the same log, the same checkpoints, steps of a few milliseconds.
FAKE = """
import io, json, sys, time
import numpy as np
from boceto import checkpoint, ledger, storage
from boceto import artefact, run
from boceto.artefact import Artefact
from boceto.checkpoint import Progress
from boceto.console import Console
from trainer.checkpoints import Checkpoints
from trainer.log import Log
flag = dict(zip(sys.argv[1::2], sys.argv[2::2]))
words = sys.argv
folder, last, every = (words[words.index(name) + 1] for name in ("--run", "--max-steps", "--save-every"))
log = Log(Console(), "json")
checkpoints = Checkpoints(folder, "data", {}, 8, 3)
found = checkpoints.newest(log)
fault = "{fault}"
weights, kept, progress = np.zeros(4, np.float32), np.ones(4, np.float32), Progress(ledger=ledger.EMPTY)
if found:
    weights, kept, progress = found[1]["weights/a"], found[1]["weights/b"].copy(), found[0].progress
    log.line("goes on", step=progress.step)
    if fault == "array":
        kept[1] = np.nextafter(np.float32(1), np.float32(9))
    if fault == "fails":
        print("the disk is on fire", file=sys.stderr)
        sys.exit(65)
if run.read(folder) is None:
    none = dict()
    run.write(folder, dict(stop_criterion=none, hyperparameters=none, data_digest="data", records=8, checkpoints=[]))
history = run.History(folder)
history.resume(progress)
time.sleep(0.3)
for step in range(progress.step, int(last)):
    weights = weights + np.float32(0.1) * (step + 1)
    rolled = ledger.roll(progress.ledger, ledger.digest([b"%d" % (step + (fault == "ledger" and bool(found)))]))
    history.add(dict(step=step + 1, loss=1.0 + (fault == "history" and bool(found)), waiting=time.monotonic()))
    history.flush()
    seconds = {"computing": time.monotonic()}
    progress = Progress(step=step + 1, ledger=rolled, seconds=seconds, history=history.head)
    time.sleep(0.005)
    log.point("progress", step=step + 1)
    if (step + 1) % int(every) == 0 or step + 1 == int(last):
        checkpoints.save({"weights/a": weights, "weights/b": kept}, progress)
time.sleep(0.1)
files = dict()
for name in ("saved_model.pb", "variables/variables.data"):
    path = storage.join(folder, artefact.FOLDER, artefact.MODEL, name)
    storage.write_bytes(path, weights.tobytes() + name.encode() + b"!" * (fault == "export" and bool(found)))
    files[name] = storage.checksum(path)[1]
best = int(last) - (fault == "best" and bool(found))
text = Artefact("net", 1, [], 1, 1, 1, 1, best, "data", {}, files, 0.0, "").to_json()
storage.write_bytes(storage.join(folder, artefact.FOLDER, artefact.DESCRIPTION), text)
"""


def fake(fault=""):
    return sys.executable, "-c", FAKE.replace("{fault}", fault)


def test_many_kills_spread_over_the_run_all_hit(data, tmp_path, capsys):
    result, wrong = verify(settings(data, tmp_path, "--kills", "6", "--steps", "60"), Console(), fake())
    assert wrong is None
    assert [kill["status"] for kill in result["kills"]] == [-9] * 6
    lasts = [kill["last_step"] for kill in result["kills"]]
    assert lasts == sorted(lasts)
    assert lasts[-1] > 30
    assert result["kills"][-1]["whole"]
    assert all(not part["name"].startswith("scale") for part in result["parts"])
    assert not (tmp_path / "work").exists()
    assert capsys.readouterr().err.count(" -9 ") == 6


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("array", "weights/b: 1 of 4 values differ, by up to 1.19e-07"),
        ("ledger", "ledger: "),
        ("history", "'loss': 1.0} and {'step': "),
        ("export", "export: variables/variables.data is "),
        ("best", "export: step is 20 and 19"),
    ],
)
def test_one_bit_is_enough(data, tmp_path, fault, said):
    result, wrong = verify(settings(data, tmp_path), Console(), fake(fault))
    assert (result["equal"], wrong.exit_code) == (False, 1)
    assert any(said in difference for difference in result["differences"])
    assert said in str(wrong)
    assert result["work"] == str(tmp_path / "work")


def second(script):
    """A trainer whose undisturbed run is as it should be, and whose other run is `script`."""
    script = f"script = {fake()[2]!r} if 'reference' in sys.argv[sys.argv.index('--run') + 1] else {script!r}"
    return sys.executable, "-c", f"import sys\n{script}\nexec(script)"


@pytest.mark.parametrize(
    ("script", "flags", "expected", "said"),
    [
        ("", (), (NothingShown, 2), "was done before kill 1 of 3, so nothing is shown; give more --steps"),
        (
            fake()[2],
            ("--save-every", "40"),
            (NothingShown, 2),
            "every kill came before the first checkpoint, so nothing",
        ),
        ("import os\nos.kill(os.getpid(), 9)", (), (ChildFailed, 1), "exit status -9, so nothing is shown"),
        ("import sys\nsys.exit(75)", (), (ChildFailed, 1), "exit status 75, so nothing is shown"),
        (fake("fails")[2], (), (ChildFailed, 65), "exit status 65, so nothing is shown: .*the disk is on fire"),
    ],
)
def test_where_nothing_is_shown_the_exit_code_says_so(  # noqa: PLR0913, PLR0917 - fixtures, and a table's columns
    data, tmp_path, script, flags, expected, said
):
    with pytest.raises(expected[0], match=said) as failed:
        verify(settings(data, tmp_path, *flags), Console(), second(script))
    assert failed.value.exit_code == expected[1]


def test_a_child_does_not_outlive_an_error(monkeypatch):
    script = "import json, os, sys, time\n"
    script += "print(json.dumps({'message': 'progress', 'step': os.getpid()}), file=sys.stderr)\ntime.sleep(600)"
    seen = []

    def fails(_, line):
        seen.append(json.loads(line)["step"])
        raise DataError("no")

    monkeypatch.setattr(kills.Session, "read", fails)
    with pytest.raises(DataError):
        kills.run((sys.executable, "-c", script))
    assert not Path(f"/proc/{seen[0]}").exists()


def test_a_work_folder_that_is_not_empty_is_left_alone(data, tmp_path):
    asked = settings(data, tmp_path)
    storage.write_bytes(storage.join(asked.work, "mine"), b"mine")
    with pytest.raises(SettingsError, match=r"verify-resume\.work = .* is not empty; give another folder"):
        verify(asked, Console(), fake())
    assert storage.read_bytes(storage.join(asked.work, "mine")) == b"mine"


def test_a_negative_seed_of_kills_is_refused(data, tmp_path):
    with pytest.raises(SettingsError, match=r"verify-resume\.seed_of_kills = -1 is too small; use at least 0"):
        settings(data, tmp_path, "--seed-of-kills", "-1")


def test_the_runs_may_stay_and_may_be_in_object_storage(data, tmp_path, emulator):
    work = f"{emulator.bucket}/work"
    asked = settings(data, tmp_path, "--work", work, "--kills", "1", "--seed-of-kills", "9", "--keep-work")
    result, wrong = verify(asked, Console(), fake())
    assert (wrong, result["work"]) == (None, work)
    assert storage.list_files(f"{work}/killed/checkpoints")


@pytest.mark.parametrize("seed", range(20))
def test_kills_are_spread_over_the_steps_in_order(seed):
    points = [(2 * number, 10.0 * number) for number in range(1, 21)]
    plan = kills.plan(100, points, seed)
    assert plan == kills.plan(100, points, seed)
    moments = [5 * kill.step + kill.seconds for kill in plan]
    assert moments == sorted(moments)
    assert all(kill.step in range(2, 39, 2) and 0 <= kill.seconds < 10 for kill in plan)
    assert np.histogram(moments, 4, (10, 200))[0].min() > 8
