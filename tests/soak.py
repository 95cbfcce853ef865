"""Real `boceto train` processes, killed at random moments until they are through: `make soak`.

Each run must end with the arrays, ledger, history, export and TensorBoard's points of one that nobody touched.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from boceto import checkpoint
from trainer import sameness

SMALL = ("--width-multiplier", "0.0625", "--embedding", "8", "--batch-size", "8", "--tensorboard", "--readers", "2")
# No save, log point or validation falls on another one: the sums of each lie over a kill.
FLAGS = (*SMALL, "--epochs", "4", "--save-every", "5", "--log-every", "3", "--validation-share", "0.2")
_TRAIN = (sys.executable, "-m", "boceto", "train")
_LOOK = 0.005


def points(folder):
    """(split/tag, step) of every point in a folder, in order; TensorFlow reads them, which fails at any damage."""
    import tensorflow as tf

    found = []
    for path in sorted(folder.glob("*/*/*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(f"{path.parent.name}/{value.tag}", event.step) for value in event.summary.value]
    return found


def differences(whole, run):
    """What differs between what two runs have ended with, in words."""
    steps = [max(checkpoint.files(str(each))) for each in (whole, run)]
    found = sameness.compare(str(whole), str(run), steps[0])[1]
    if steps[0] != steps[1]:
        found.append("the last checkpoint")
    if sorted(points(whole / "tensorboard")) != sorted(points(run / "tensorboard")):
        found.append("TensorBoard's points")
    return found


def session(command, run, chance, startup):
    """One process, killed at a random moment if it lives that long; returns its exit status.

    Half of the moments lie anywhere, in the start too; half follow soon upon something new among the checkpoints.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if chance.random() < 0.5:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 1.5 * startup))
    else:
        before = _names(run)
        while process.poll() is None and _names(run) == before:
            time.sleep(_LOOK)
        time.sleep(chance.uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    return process.wait()


def _names(run):
    return sorted(path.name for path in (run / checkpoint.FOLDER).rglob("*")) if run.exists() else []


def soak(data, folder, kills, seed, net="sknet"):
    """Kills at least `kills` processes; returns (kills, runs that ended). Raises AssertionError where one differs."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    command = [*_TRAIN, "--data", data, "--net", net, *FLAGS, "--run"]
    began = time.monotonic()
    subprocess.run([*command, folder / "whole"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    startup = time.monotonic() - began
    killed, runs = 0, 0
    while killed < kills:
        run = folder / f"run-{runs}"
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            if killed < kills:
                status = session([*command, run], run, chance, startup)
            else:
                status = subprocess.run([*command, run], check=False, capture_output=True).returncode
            assert status in {0, -signal.SIGKILL}, f"seed {seed}, kill {killed}, {run}: exit status {status}"
            killed += status == -signal.SIGKILL
        other = differences(folder / "whole", run)
        assert not other, f"seed {seed}, kill {killed}: {run} differs: {'; '.join(other)}"
        runs += 1
    return killed, runs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--net", default="sknet")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        prepare = [sys.executable, "-m", "boceto", "prepare", "--source", "synthetic", "--output", str(data)]
        size = ["--classes", "3", "--train-per-class", "40", "--test-per-class", "2", "--size", "16", "--workers", "1"]
        subprocess.run([*prepare, *size], check=True)
        print(f"seed {asked.seed}", flush=True)
        killed, runs = soak(str(data), folder, asked.kills, asked.seed, asked.net)
    print(f"seed {asked.seed}: {killed} kills by signal 9, {runs} runs, {time.monotonic() - began:.0f} s, all equal")


if __name__ == "__main__":
    main()
