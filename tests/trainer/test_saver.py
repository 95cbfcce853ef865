import io
import threading
import time

import numpy as np
import pytest

from boceto import telemetry
from boceto.checkpoint import Progress
from boceto.console import Console
from boceto.errors import DataError, Stopped
from boceto.storage import Unavailable
from boceto.telemetry import Telemetry
from trainer.checkpoints import Damaged
from trainer.log import Log
from trainer.saver import PASSING, SaveFailed, Saver, TrainState, reason


class Counted(Telemetry):
    def __init__(self):
        self.results = []
        self.gauges = {}

    def add(self, metric, amount=1, **labels):
        assert metric == telemetry.SAVES
        self.results.append(labels["result"])

    def set(self, metric, value, **labels):
        self.gauges[metric] = value


class Variables:
    """One number."""

    value = 0.0

    def buffers(self):
        return {"a": np.zeros(1)}

    def copy_to(self, arrays):
        arrays["a"][:] = self.value


class Checkpoints:
    """Keeps what is saved; goes through `errors` first, one a save."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.saved = []
        self.go = threading.Event()
        self.go.set()

    def save(self, arrays, progress):
        self.go.wait()
        error = self.errors.pop(0) if self.errors else None
        if error:
            raise error
        self.saved.append((progress.step, float(arrays["a"][0])))


def save(saver, *, wait=False, **progress):
    """Saves a state with this progress."""
    saver._state.progress = Progress(**progress)
    saver.save(wait=wait)


@pytest.fixture
def make():
    def make(*errors, most_failed=3):
        checkpoints, state, said, counted = Checkpoints(*errors), Variables(), io.StringIO(), Counted()
        saver = Saver(checkpoints, TrainState(state), Log(Console(said), "text"), counted, most_failed)
        made.append(saver)
        return saver, checkpoints, state, said, counted

    made = []
    yield make
    for saver in made:
        saver.close()


def test_the_loop_goes_on_and_what_is_saved_is_the_state_of_its_step(make):
    saver, checkpoints, state, _, counted = make()
    checkpoints.go.clear()
    state.value = 1.0
    save(saver, step=1)
    state.value = 2.0  # The loop goes on while the save is under way.
    assert checkpoints.saved == []
    checkpoints.go.set()
    assert saver.settle()
    assert checkpoints.saved == [(1, 1.0)]
    assert counted.results == ["saved"]
    assert (counted.gauges[telemetry.CHECKPOINT_STEP], counted.gauges[telemetry.CHECKPOINT_BYTES]) == (1, 8)
    assert abs(counted.gauges[telemetry.CHECKPOINT] - time.time()) < 60


def test_at_most_one_is_under_way(make):
    saver, checkpoints, *_ = make()
    checkpoints.go.clear()
    save(saver, step=1)
    began = time.monotonic()
    threading.Timer(0.2, checkpoints.go.set).start()
    save(saver, step=2)
    assert time.monotonic() - began > 0.15
    saver.settle()
    assert [step for step, _ in checkpoints.saved] == [1, 2]


def test_a_failed_save_is_told_counted_and_made_up_for(make):
    saver, checkpoints, _, said, counted = make(OSError(28, "No space left on device"))
    save(saver, step=1)
    assert not saver.settle()
    assert "the save of step 1 failed: [Errno 28] No space left on device (1 in a row); it is tried again" in (
        said.getvalue()
    )
    save(saver, step=2)
    assert saver.settle()
    assert checkpoints.saved == [(2, 0.0)]
    assert counted.results == ["disk_full", "saved"]


@pytest.mark.parametrize(
    "error", [OSError(5, "input/output"), MemoryError(), Damaged("reads otherwise"), Unavailable("no answer")]
)
def test_the_reason_of_a_failed_save_is_one_that_is_known(error):
    assert reason(error) in telemetry.SAVE_RESULTS
    assert isinstance(error, PASSING)


def test_too_many_failures_in_a_row_end_the_run(make):
    saver, *_ = make(*[OSError("disk") for _ in range(3)], None, OSError("disk"))
    save(saver, step=1)
    save(saver, step=2)
    save(saver, step=3)
    with pytest.raises(SaveFailed, match=r"step 3 failed: disk; that is train.max_failed_saves = 3 in a row"):
        saver.settle()


def test_the_last_save_is_tried_until_it_is_durable_or_hopeless(make):
    saver, checkpoints, *_ = make(OSError("disk"), MemoryError())
    save(saver, wait=True, step=9)
    assert checkpoints.saved == [(9, 0.0)]
    saver, checkpoints, *_ = make(*[OSError("disk")] * 5)
    with pytest.raises(SaveFailed):
        save(saver, wait=True, step=9)
    assert checkpoints.saved == []


@pytest.mark.parametrize("error", [DataError("not finite"), Stopped("taken over")])
def test_what_no_later_save_could_mend_ends_the_run(make, error):
    saver, checkpoints, *_ = make(error)
    checkpoints.go.clear()
    save(saver, step=1)
    saver.poll()
    checkpoints.go.set()
    with pytest.raises(type(error)):
        while True:
            saver.poll()
            time.sleep(0.01)


def test_a_save_of_the_best_step_that_failed_is_made_up_for_before_a_later_one(make):
    saver, checkpoints, state, *_ = make(OSError("disk"), OSError("disk"))
    state.value = 4.0
    save(saver, step=4, best_step=4)
    state.value = 6.0
    save(saver, step=6, best_step=4)  # It fails again: the copy of step 4 stays.
    state.value = 8.0
    save(saver, step=8, best_step=4)
    saver.settle()
    assert checkpoints.saved == [(4, 4.0), (8, 8.0)]


def test_a_step_that_is_the_best_no_more_is_not_made_up_for(make):
    saver, checkpoints, state, *_ = make(OSError("disk"))
    save(saver, step=4, best_step=4)
    state.value = 6.0
    save(saver, wait=True, step=6, best_step=6)
    assert checkpoints.saved == [(6, 6.0)]


def test_the_last_save_makes_up_for_the_best_one_or_ends_the_run(make):
    saver, checkpoints, *_ = make(OSError("disk"), OSError("disk"))
    save(saver, step=4, best_step=4)
    save(saver, wait=True, step=9, best_step=4)
    assert [step for step, _ in checkpoints.saved] == [4, 9]
    saver, *_ = make(*[OSError("disk")] * 5)
    save(saver, step=4, best_step=4)
    with pytest.raises(SaveFailed, match="step 4 failed"):
        save(saver, wait=True, step=9, best_step=4)
