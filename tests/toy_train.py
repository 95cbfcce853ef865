"""A run without TensorFlow, over the trainer's own lease, saver, checkpoints, stop and ledger, and `boceto.run`.

A program: each line on standard input is {"run", "fault", "renews"}; it is done in a forked process, whose status is
printed. One import serves all.
"""

import contextlib
import dataclasses
import io
import json
import os
import sys
import time

import faulty_store
import numpy as np

from boceto import ledger
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.console import Console, run_program
from boceto.errors import Stopped
from boceto.telemetry import Telemetry
from trainer import stop
from trainer.checkpoints import Checkpoints
from trainer.lease import held
from trainer.log import Log
from trainer.saver import Saver

LAST, EVERY, BATCH = 12, 2, 8
BEST = 4
TERM = 0.4


class State:
    """Weights and a slot; a step is a pure function of both and of the keys of its records."""

    def __init__(self):
        self.values = {"weights/a": np.ones((50, 40)), "velocity/a": np.zeros((50, 40))}

    def buffers(self):
        return {name: value.copy() for name, value in self.values.items()}

    def copy_to(self, arrays):
        for name, value in self.values.items():
            np.copyto(arrays[name], value)

    def restore(self, arrays):
        self.values = {name: np.array(value) for name, value in arrays.items()}

    def step(self, keys):
        seed = int.from_bytes(ledger.digest(keys), "little")
        gradient = np.random.default_rng(seed).normal(size=(50, 40))
        velocity = 0.9 * self.values["velocity/a"] + np.tanh(gradient * self.values["weights/a"])
        self.values = {"weights/a": self.values["weights/a"] - 0.1 * velocity, "velocity/a": velocity}


def keys_of(step):
    """The keys of a step's records: a function of the step, as in the trainer."""
    return [f"{step}-{number}".encode() for number in range(BATCH)]


def train(run, asked, log, *, renews):
    with held(run, TERM, asked, log.line, dict) as lease:
        described = runs.Description(run, runs.read(run))
        checkpoints = Checkpoints(
            run, "data", {"seed": 0}, BATCH, keep=2, confirm=lease.confirm,
            note=lambda steps: described.add(checkpoints=steps),
        )  # fmt: skip
        found, state, progress = checkpoints.newest(log), State(), Progress()
        if found:
            state.restore(found[1])
            progress = found[0].progress
        entry = {"goal": {}, "mathematics": {}, "data_digest": "data", "records": 8, "result": None}
        described.begin(entry, progress.step)
        history = runs.History(run, alert=log.alert)
        history.resume(progress.step, progress.history if found else runs.EMPTY)
        saver = Saver(checkpoints, state, log, Telemetry(), 3)
        with contextlib.closing(saver):
            for step in range(progress.step, LAST):
                state.step(keys_of(step))
                done, rolled = step + 1, ledger.roll(progress.ledger or ledger.EMPTY, ledger.digest(keys_of(step)))
                progress = dataclasses.replace(progress, step=done, ledger=rolled, best_step=BEST * (done >= BEST))
                history.add({"step": done})
                if renews and done == 5:
                    time.sleep(TERM * 0.6)
                saver.poll()
                if done % EVERY == 0 or asked.requested:
                    sure = asked.requested or done == LAST
                    history.offer()
                    progress = dataclasses.replace(progress, history=history.head)
                    (saver.save_for_sure if sure else saver.save)(progress)
                    if sure:
                        history.settle()
                if asked.requested and done < LAST:
                    raise Stopped(f"stopped after step {done}")
        described.add(result={"step": LAST, "ledger": progress.ledger})


def main(asked):
    console = Console(io.StringIO() if asked.get("quiet") else sys.stderr)

    def work(_):
        with stop.on_signals(10, console.line) as stopping:
            train(asked["run"], stopping, Log(console, "text"), renews=asked["renews"])
        return {}, False

    return run_program("train", work)


def serve():
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            if asked["fault"]:
                faulty_store.install(faulty_store.Fault(**asked["fault"]))
            code = 70
            try:
                code = main(asked)
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        import google.cloud.storage
        import google.cloud.storage.retry  # noqa: F401 - once, for all forks
    serve()
