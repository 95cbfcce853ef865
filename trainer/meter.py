"""Measures a run: its wall time by activity, and losses and correct answers as they arrive from the devices."""

import collections
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from boceto import ledger
from boceto.checkpoint import Progress, WindowSums
from boceto.telemetry import ACTIVITIES
from trainer.batches import StepRange, TrainingSet
from trainer.checkpoints import REMEDY, NotFinite
from trainer.saver import TrainState

# Executions whose scalars may still be under way: fetching at once would make a GPU wait for the loop.
UNDER_WAY = 2
# Steps in a row without finite gradients. A loss scale is halved at each, so that far fewer help where anything helps.
MOST_SKIPPED = 40


class GoodputTimer:
    """Measures the wall time of a run, over all of its sessions, by activity. The first activity is `starting`.

    One thread switches between activities; any thread may read the seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, began: float | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._activity = "starting"
        self._mark = clock() if began is None else began

    def restore(self, saved: Mapping[str, float], last: Mapping[str, float], *, redone: bool) -> None:
        """Adds the sessions before: the seconds `saved` with the checkpoint, and those of the `last` heartbeat.

        The time after the checkpoint counts as lost where its steps are `redone`.
        """
        whole = last if last and not redone else saved
        lost = max(0.0, sum(last.values()) - sum(saved.values())) if redone else 0.0
        with self._lock:
            for activity in ACTIVITIES:
                self._seconds[activity] += whole.get(activity, 0.0)
            self._seconds["lost"] += lost

    def begin(self, activity: str) -> str:
        """Switches to `activity`; returns the activity before."""
        with self._lock:
            now = self._clock()
            self._seconds[self._activity] += now - self._mark
            before, self._activity, self._mark = self._activity, activity, now
        return before

    @contextlib.contextmanager
    def spending(self, activity: str) -> Iterator[None]:
        """Measures the block as `activity`."""
        before = self.begin(activity)
        try:
            yield
        finally:
            self.begin(before)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds by activity, up to now; their sum is the wall time of all sessions."""
        with self._lock:
            running = self._clock() - self._mark
            return {name: spent + running * (name == self._activity) for name, spent in self._seconds.items()}


def goodput(seconds: Mapping[str, float]) -> float:
    """Returns the share of computing in the wall time, 0..1. seconds: by activity."""
    return seconds["computing"] / max(1e-9, sum(seconds.values()))


class Window(NamedTuple):
    """The measures since the last log point. loss, accuracy: means over all steps, those of an earlier session too.
    steps, images: of this process. images_per_second: of waiting and computing; waiting: the share of waiting in it,
    0..1. seconds: by activity. These three leave out the first execution, which compiles; without another one, the
    speed is 0. gradient_norm: of the last step; -1 where it is not finite.
    """

    steps: int
    images: int
    loss: float
    accuracy: float
    gradient_norm: float
    images_per_second: float
    waiting: float
    seconds: Mapping[str, float]


class Meter:
    """Adds the scalars of the steps to the progress of a run, as they arrive, and closes a window at each log point."""

    def __init__(self, training_set: TrainingSet, state: TrainState, timer: GoodputTimer) -> None:
        self._training_set = training_set
        self._state = state
        self._timer = timer
        self._pending: collections.deque[tuple[StepRange, Any, Sequence[bytes]]] = collections.deque()
        self._compiled: tuple[int, dict[str, float]] | None = None  # Step and seconds after the first execution.
        self._first = self.progress.step  # Of the window.
        self._timed = self._first, self._timer.seconds()  # Since when the window is timed.

    @property
    def progress(self) -> Progress:
        """The progress after the last execution whose scalars have arrived."""
        return self._state.progress

    @property
    def seconds(self) -> dict[str, float]:
        """The wall time by activity, over all sessions up to now."""
        return self._timer.seconds()

    def update(self, **values: Any) -> None:
        """Changes fields of the progress."""
        self._state.progress = dataclasses.replace(self._state.progress, **values)

    def add(self, steps: StepRange, scalars: Any, digests: Sequence[bytes]) -> None:
        """Adds an execution's scalars float32[K, 3] (loss, correct answers, gradients' norm), which may not be
        computed yet, and the K digests of its records' keys.

        Raises:
            NotFinite: a loss is not finite, or no gradient has been for many steps.
        """
        self._pending.append((steps, scalars, digests))
        while len(self._pending) > UNDER_WAY:
            self._settle_one()
        if not self._compiled:  # The first execution compiles: its time says nothing of the speed.
            self.settle()
            self._timer.begin("computing")
            self._compiled = self._timed = self.progress.step, self._timer.seconds()

    def settle(self) -> Progress:
        """Waits for all executions that are under way; returns the progress after the last one.

        Raises:
            NotFinite: as `add`.
        """
        while self._pending:
            self._settle_one()
        return self.progress

    def _settle_one(self) -> None:
        steps, scalars, digests = self._pending.popleft()
        for step, (loss, correct, norm), digest in zip(range(*steps), scalars.numpy().tolist(), digests, strict=True):
            if not math.isfinite(loss):
                raise NotFinite(f"step {step + 1}: the loss is {loss}; {REMEDY}")
            self._advance(step, loss, int(correct), norm if math.isfinite(norm) else -1.0, digest)
            if self.progress.skipped >= MOST_SKIPPED:
                raise NotFinite(
                    f"step {step + 1}: the gradients of {MOST_SKIPPED} steps in a row are not finite, so nothing is "
                    f"trained any more; {REMEDY}"
                )

    def _advance(self, step: int, loss: float, correct: int, norm: float, digest: bytes) -> None:
        old = self.progress
        hits, records = old.epoch_correct + correct, old.epoch_records + self._training_set.batch_size
        ends = self._training_set.ends_epoch(step)
        # The accuracy over a whole epoch; within the first one, over what it has seen.
        first = step * self._training_set.batch_size < len(self._training_set)
        self.update(
            step=step + 1,
            epoch_correct=0 if ends else hits,
            epoch_records=0 if ends else records,
            train_accuracy=hits / records if ends or first else old.train_accuracy,
            skipped=old.skipped + 1 if norm < 0 else 0,
            window=WindowSums(old.window.steps + 1, old.window.correct + correct, old.window.loss + loss, norm),
            ledger=ledger.roll(old.ledger or ledger.EMPTY, digest),
        )

    @contextlib.contextmanager
    def aside(self, activity: str) -> Iterator[None]:
        """Waits for all executions that are under way, and measures the block as `activity`."""
        self.settle()
        with self._timer.spending(activity):
            yield

    def peek(self) -> Window | None:
        """Returns the window so far, without executions that are under way; None where it has no step."""
        sums, step, batch_size = self.progress.window, self.progress.step, self._training_set.batch_size
        if not sums.steps:
            return None
        speed, seconds = self._speed(*self._timed)
        return Window(
            steps=step - self._first,
            images=(step - self._first) * batch_size,
            loss=sums.loss / sums.steps,
            accuracy=sums.correct / (sums.steps * batch_size),
            gradient_norm=sums.norm,
            images_per_second=speed,
            waiting=seconds["waiting"] / max(1e-9, seconds["waiting"] + seconds["computing"]),
            seconds=seconds,
        )

    def _speed(self, step: int, seconds: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """-> (images a second of waiting and computing, seconds by activity) since `step`, which ended at `seconds`."""
        spent = {name: now - seconds[name] for name, now in self._timer.seconds().items()}
        images = (self.progress.step - step) * self._training_set.batch_size
        saving = spent["saving"] + spent["validating"]
        by_activity = {"waiting": spent["waiting"], "computing": spent["computing"], "saving": saving}
        return images / max(1e-9, spent["waiting"] + spent["computing"]), by_activity

    def close_window(self) -> Window | None:
        """Waits for all executions that are under way, closes the window and returns it; None where it has no step."""
        self.settle()
        window = self.peek()
        if window:
            self.update(window=WindowSums())
            if self._compiled:  # The speed of this process, over all of its windows.
                self.update(images_per_second=self._speed(*self._compiled)[0])
            self._first = self.progress.step
            self._timed = self._first, self._timer.seconds()
        return window
