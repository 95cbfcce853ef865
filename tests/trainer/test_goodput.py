"""Where the time of a run goes, over real processes that are killed: all of it is accounted for."""

import json
import signal
import subprocess
import sys
import time

from soak import SMALL

from boceto import checkpoint
from boceto.telemetry import ACTIVITIES


def test_the_seconds_of_a_run_that_is_killed_are_those_of_its_processes(make_data, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "boceto", "train", "--data", make_data(train=200), "--run", str(run), *SMALL]
    command += ["--save-every", "10", "--log-every", "10", "--lease", "1", "--max-steps"]
    heard = spent = 0.0  # Until each process's last sign of life, and until it was gone.
    for kill in range(3):
        began = time.time()
        with subprocess.Popen([*command, "1000000"], stderr=subprocess.DEVNULL) as process:
            before = _steps(run)
            while len(_steps(run) - before) < 2:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.3 + kill / 2)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        spent += time.time() - began
        heard += json.loads((run / "lease.json").read_text())["renewed"] - began
    began = time.time()
    last = subprocess.run([*command, str(max(_steps(run)) + 20)], stderr=subprocess.DEVNULL, check=False)
    assert last.returncode == 0
    spent += time.time() - began
    heard += (run / "run.json").stat().st_mtime - began
    told = json.loads((run / "run.json").read_text())
    assert set(told["seconds"]) == set(ACTIVITIES)
    # An idle machine has less than a second between the two; a busy one has more.
    assert 0.98 * heard - 0.5 < sum(told["seconds"].values()) < 1.02 * spent + 0.5
    assert told["seconds"]["lost"] > 0
    assert 0 < told["goodput"] < 1


def _steps(run):
    return set(checkpoint.files(str(run)))
