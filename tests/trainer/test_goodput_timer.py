import numpy as np
import pytest

from trainer.batches import StepRange, TrainingSet
from trainer.meter import GoodputTimer, Meter
from trainer.saver import TrainState


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_every_second_belongs_to_one_activity(clock):
    timer = GoodputTimer(clock)
    clock.now += 5
    timer.begin("computing")
    clock.now += 2
    with timer.spending("waiting"):
        clock.now += 1
    with timer.spending("saving"):
        clock.now += 3
    clock.now += 4
    seconds = timer.seconds()
    assert {name: spent for name, spent in seconds.items() if spent} == {
        "starting": 5,
        "computing": 6,
        "waiting": 1,
        "saving": 3,
    }
    assert sum(seconds.values()) == 15


def test_what_was_spent_on_steps_that_are_done_again_is_lost(clock):
    timer = GoodputTimer(clock)
    timer.restore({"computing": 10.0, "starting": 2.0}, {"computing": 14.0, "starting": 2.0}, redone=True)
    assert timer.seconds()["lost"] == 4
    assert timer.seconds()["computing"] == 10


def test_a_stop_that_saved_its_last_step_loses_nothing(clock):
    timer = GoodputTimer(clock)
    timer.restore({"computing": 10.0}, {"computing": 10.0, "saving": 1.0}, redone=False)
    assert timer.seconds()["lost"] == 0
    assert timer.seconds()["saving"] == 1


def test_without_a_heartbeat_the_checkpoint_counts(clock):
    for redone in (True, False):
        timer = GoodputTimer(clock)
        timer.restore({"computing": 10.0}, {}, redone=redone)
        assert timer.seconds()["computing"] == 10
        assert timer.seconds()["lost"] == 0


class Scalars:
    def numpy(self):
        return np.array([[0.5, 2, 1.0]], np.float32)


class Numbers(TrainingSet):
    def __len__(self):
        return 8000


def test_the_speed_of_a_window_leaves_out_the_first_execution_and_all_but_waiting_and_computing(clock):
    timer = GoodputTimer(clock)
    meter = Meter(Numbers(None, None, 0, 8), TrainState(None), timer)
    clock.now += 10  # It compiles.
    meter.add(StepRange(0, 1), Scalars(), [b""])
    assert meter.peek().images_per_second == 0
    with timer.spending("waiting"):
        clock.now += 1
    meter.add(StepRange(1, 2), Scalars(), [b""])
    clock.now += 3
    for activity in ("validating", "saving"):
        with meter.aside(activity):
            clock.now += 20
    window = meter.close_window()
    assert (window.steps, window.images, window.loss, window.accuracy) == (2, 16, 0.5, 0.25)
    assert (window.images_per_second, window.waiting) == (2.0, 0.25)
    assert window.seconds == {"waiting": 1, "computing": 3, "saving": 40}
    assert meter.close_window() is None
    clock.now += 1
    meter.add(StepRange(2, 3), Scalars(), [b""])
    assert meter.close_window().images_per_second == 8.0
    assert meter.progress.images_per_second == 16 / 5
    assert meter.seconds["starting"] == 10
