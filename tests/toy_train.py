"""A run without TensorFlow, over the trainer's own loop, lease, saver, checkpoints, stop and ledger, and `boceto.run`.

A program: each line on standard input is {"run", "fault", "renews", "max_steps", "term"}; it is done in a forked
process, whose status is printed. One import serves all.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import time
from dataclasses import dataclass

import faulty_store
import numpy as np

from boceto import checkpoint, ledger
from boceto import run as runs
from boceto.console import Console, run_program
from boceto.telemetry import Telemetry
from trainer import report, stop
from trainer.batches import prefetch, step_ranges
from trainer.checkpoints import Checkpoints
from trainer.lease import held
from trainer.log import Log
from trainer.loop import Schedule, TrainingLoop
from trainer.meter import GoodputTimer, Meter
from trainer.report import Report
from trainer.saver import Saver, TrainState
from trainer.settings import Settings

LAST, EVERY, BATCH, EPOCH = 12, 2, 8, 3  # EPOCH: steps.
LOGS = 5  # Steps between log points, besides the epochs' ends.
BEST = 6
# By step; at 7 only a run that ends there validates.
ACCURACIES = {3: 0.2, BEST: 0.5, 7: 0.9, 9: 0.5, LAST: 0.4}
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


class Scalars:
    """What a device holds: each step's loss, correct answers and gradients' norm."""

    def __init__(self, values):
        self.values = values

    def numpy(self):
        return np.array(self.values, np.float32)


@dataclass(frozen=True)
class TrainingSet:
    """Records without pixels."""

    batch_size: int = BATCH

    def __len__(self):
        return BATCH * EPOCH

    def epoch(self, step):
        return step // EPOCH

    def ends_epoch(self, step):
        return (step + 1) % EPOCH == 0

    def read(self, call):
        keys = keys_of(call.first)
        return keys, [ledger.digest(keys)]


class Steps:
    """One step a call."""

    def __init__(self, state, lease):
        self.state = state
        self.lease = lease

    def train(self, keys, step, _):
        self.state.step(keys)
        if self.lease and step == 4:
            before = self.lease._renewed
            while self.lease._renewed == before:
                time.sleep(0.005)
        values = self.state.values["weights/a"]
        return Scalars([[float(np.abs(values).mean()), step % BATCH, float(np.linalg.norm(values))]])


def validation(meter, stopping, term):
    """The accuracy of a step; the stop comes in the validation of the step `term`."""

    def validate():
        if meter.progress.step == term and not stopping.requested:
            faulty_store.ask_to_end()
            assert stopping.wait(60)
        return None if stopping.requested else (1.0, ACCURACIES[meter.progress.step])

    return validate


def train(stopping, log, asked):
    run = asked["run"]
    settings = Settings("data", run, batch_size=BATCH, epochs=LAST // EPOCH, save_every=EVERY, log_every=LOGS)
    with held(run, TERM, stopping, log.line, dict) as lease:
        described = runs.Description(run, runs.read(run))
        checkpoints = Checkpoints(
            run, "data", {"seed": 0}, BATCH, keep=2, confirm=lease.confirm,
            note=lambda steps: described.add(checkpoints=steps),
        )  # fmt: skip
        found, variables = checkpoints.newest(log), State()
        state = TrainState(variables)
        if found:
            state.restore(*found)
        progress = state.progress
        entry = {"stop_criterion": {}, "hyperparameters": {}, "data_digest": "data", "records": 8, "result": None}
        described.begin(entry, progress.step)
        history = runs.History(run, alert=log.alert)
        history.resume(progress)
        training_set = TrainingSet()
        schedule = Schedule(settings, training_set, LAST, asked["max_steps"] or LAST)
        batches = prefetch(step_ranges(progress.step, schedule.last, 1, schedule.ends_execution), training_set.read, 1)
        meter = Meter(training_set, state, GoodputTimer())
        saver = Saver(checkpoints, state, log, Telemetry(), 3)
        reports = Report([report.history(history), report.console(log)], training_set, schedule.last)
        steps = Steps(variables, lease if asked["renews"] else None)
        validate = validation(meter, stopping, asked["term"])
        loop = TrainingLoop(schedule, steps, batches, meter, saver, reports, history, log, validate, stopping)
        with contextlib.closing(saver), contextlib.closing(batches):
            progress = loop.run()
        chosen = loop.choose(lambda step: checkpoint.load(run, step)[1], lambda: variables.values)
        digest = hashlib.blake2b(b"".join(chosen.arrays[name].tobytes() for name in sorted(chosen.arrays))).hexdigest()
        result = {"step": progress.step, "ledger": progress.ledger, "exported_step": chosen.step, "exported": digest}
        described.add(result={**result, "validation_accuracy": chosen.accuracy})


def main(asked):
    console = Console(io.StringIO() if asked.get("quiet") else sys.stderr)

    def work(_):
        with stop.on_signals(10, console.line) as stopping:
            train(stopping, Log(console, "text"), asked)
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
