import pytest

from trainer.meter import GoodputTimer


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
