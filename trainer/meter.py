"""Measures a run: losses and correct answers as they arrive from the devices, and the wall time by activity."""

import collections
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boceto import ledger
from boceto.checkpoint import Progress
from boceto.checkpoint import Window as Sums
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
    """Returns the share of computing in the wall time, 0..1, of seconds by activity."""
    return seconds["computing"] / max(1e-9, sum(seconds.values()))


@dataclass(frozen=True)
class Window:
    """What happened since the last log point. steps, images: of this process, while loss and accuracy are over all.
    timed: the images whose time was taken. seconds: by activity; of them, `saving` is no part of the speed.
    gradient_norm: of the last step; -1 where not finite.
    """

    steps: int
    images: int
    timed: int
    loss: float
    accuracy: float
    gradient_norm: float
    seconds: dict[str, float]

    @property
    def images_per_second(self) -> float:
        """Images a second of waiting and computing."""
        return self.timed / max(1e-9, self.seconds["waiting"] + self.seconds["computing"])

    @property
    def waiting(self) -> float:
        """The share of waiting for data in the time of the steps, 0..1."""
        return self.seconds["waiting"] / max(1e-9, self.seconds["waiting"] + self.seconds["computing"])


class Meter:
    """The progress of a run, with the sums since the last log point. `waited` is the reader's count of seconds."""

    def __init__(
        self,
        training_set: TrainingSet,
        state: TrainState,
        waited: Callable[[], float],
        timer: GoodputTimer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._training_set = training_set
        self._state = state
        self._waited = waited
        self._timer = timer
        self._clock = clock
        self._pending: collections.deque[tuple[StepRange, Any, Sequence[bytes]]] = collections.deque()
        self._compiled = False
        self._images, self._seconds = 0, 0.0
        self._clear()

    def _clear(self) -> None:
        self._before = self._state.progress.window.steps  # Of the session before.
        self._saving = 0.0
        self._untimed = 0
        self._mark, self._waited_before = self._clock(), self._waited()

    def add(self, call: StepRange, scalars: Any, digests: Sequence[bytes]) -> None:
        """Takes an execution's float32[K, 3] (loss, correct answers, gradients' norm), perhaps not computed yet, and
        the K digests of its records' keys.
        """
        self._pending.append((call, scalars, digests))
        while len(self._pending) > UNDER_WAY:
            self._settle_one()
        if not self._compiled:  # The first call compiles: its time says nothing of the speed.
            self.settle()
            self._compiled = True
            self._timer.begin("computing")
            self._untimed = (self._state.progress.window.steps - self._before) * self._training_set.batch
            self._mark, self._waited_before = self._clock(), self._waited()

    @property
    def progress(self) -> Progress:
        """The progress after the last execution whose scalars have arrived."""
        return self._state.progress

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by activity, over all sessions up to now."""
        return self._timer.seconds()

    def settle(self) -> Progress:
        """Waits for all that is under way; the progress is then that of the last execution.

        Raises:
            NotFinite: a loss is not finite.
        """
        while self._pending:
            self._settle_one()
        return self._state.progress

    def _settle_one(self) -> None:
        call, scalars, digests = self._pending.popleft()
        for step, (loss, correct, norm), digest in zip(range(*call), scalars.numpy().tolist(), digests, strict=True):
            if not math.isfinite(loss):
                raise NotFinite(f"step {step + 1}: the loss is {loss}; {REMEDY}")
            self._advance(step, loss, int(correct), norm if math.isfinite(norm) else -1.0, digest)
            if self._state.progress.skipped >= MOST_SKIPPED:
                raise NotFinite(
                    f"step {step + 1}: the gradients of {MOST_SKIPPED} steps in a row are not finite, so nothing is "
                    f"trained any more; {REMEDY}"
                )

    def _advance(self, step: int, loss: float, correct: int, norm: float, digest: bytes) -> None:
        old = self._state.progress
        window = Sums(old.window.steps + 1, old.window.correct + correct, old.window.loss + loss, norm)
        hits, records = old.epoch_correct + correct, old.epoch_records + self._training_set.batch
        ends = self._training_set.ends_epoch(step)
        # The accuracy over a whole epoch; within the first one, over what it has seen.
        first = step * self._training_set.batch < len(self._training_set)
        self._state.progress = dataclasses.replace(
            old,
            step=step + 1,
            epoch_correct=0 if ends else hits,
            epoch_records=0 if ends else records,
            train_accuracy=hits / records if ends or first else old.train_accuracy,
            skipped=old.skipped + 1 if norm < 0 else 0,
            window=window,
            ledger=ledger.roll(old.ledger or ledger.EMPTY, digest),
        )

    @contextlib.contextmanager
    def aside(self, activity: str) -> Iterator[None]:
        """Measures the block as `activity`, apart from the time of the steps."""
        self.settle()
        start = self._clock()
        try:
            with self._timer.spending(activity):
                yield
        finally:
            self._saving += self._clock() - start

    def peek(self) -> Window | None:
        """Returns the window so far, without what is under way; None where it has no step."""
        sums = self._state.progress.window
        if not sums.steps:
            return None
        waiting = self._waited() - self._waited_before
        computing = max(0.0, self._clock() - self._mark - waiting - self._saving)
        steps, batch = sums.steps - self._before, self._training_set.batch
        seconds = {"waiting": waiting, "computing": computing, "saving": self._saving}
        timed = steps * batch - self._untimed
        accuracy = sums.correct / (sums.steps * batch)
        return Window(steps, steps * batch, timed, sums.loss / sums.steps, accuracy, sums.norm, seconds)

    def window(self) -> Window | None:
        """Closes the window and returns it; None where it has no step."""
        self.settle()
        window = self.peek()
        if window:
            self._images += window.timed
            self._seconds += window.seconds["waiting"] + window.seconds["computing"]
            self.update(window=Sums())
            self._clear()
        return window

    @property
    def images_per_second(self) -> float:
        """Images a second of waiting and computing, over all windows of this process."""
        return self._images / max(1e-9, self._seconds)

    def update(self, **values: Any) -> None:
        """Changes fields of the progress."""
        self._state.progress = dataclasses.replace(self._state.progress, **values)
