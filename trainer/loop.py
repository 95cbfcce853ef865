"""The loop of a run: it trains, logs, validates and saves when each is due. It needs no TensorFlow."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from boceto.checkpoint import Progress
from boceto.errors import DataError, Stopped
from boceto.run import History
from boceto.tensors import Arrays
from trainer.batches import StepRange, TrainingSet
from trainer.checkpoints import REMEDY, NotFinite
from trainer.log import Log
from trainer.meter import Meter
from trainer.report import STOPPED, VALIDATION, Report
from trainer.saver import Saver
from trainer.settings import Settings
from trainer.stop import Stop

if TYPE_CHECKING:
    from trainer.steps import Steps


@dataclass(frozen=True)
class Schedule:
    """Decides when logs, saves and validations are due. It depends on settings and data alone, not on a restart.

    total: the steps of all epochs, over which the learning rate falls. last: the step after which the run ends. Only a
    save depends on `last`, so that a run may go on from there.
    """

    settings: Settings
    training_set: TrainingSet
    total: int
    last: int

    def logs(self, done: int) -> bool:
        """Returns whether a log point is due after `done` steps."""
        return done % self.settings.log_every == 0 or self.training_set.ends_epoch(done - 1)

    def saves(self, done: int) -> bool:
        """Returns whether a checkpoint is due after `done` steps."""
        every = self.settings.save_every
        return done == self.last or (done % every == 0 if every else self.training_set.ends_epoch(done - 1))

    def validates(self, done: int) -> bool:
        """Returns whether a validation is due after `done` steps."""
        every = self.settings.validate_every
        if not every or not done:
            return False
        before, after = (self.training_set.epoch(step) // every for step in (done - 1, done))
        return after > before

    def ends_execution(self, step: int) -> bool:
        """Returns whether the loop has something to do between `step`, counted from 0, and the next step."""
        return self.logs(step + 1) or self.saves(step + 1)  # A validation comes at the end of an epoch, as a log point.

    def learning_rates(self, steps: StepRange) -> list[float]:
        """Returns the learning rate of each step."""
        return [learning_rate(self.settings, self.total, step) for step in range(*steps)]


def learning_rate(settings: Settings, total: int, step: int) -> float:
    """Returns the learning rate of a step, counted from 0: linear warm-up, then constant, or a cosine to 0 at `total`.

    Source of the cosine: Loshchilov and Hutter, SGDR (2017).
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class ExportChoice(NamedTuple):
    """The step that is exported, its arrays, and its validation accuracy, None where it was not validated."""

    step: int
    arrays: Arrays
    accuracy: float | None


@dataclass(frozen=True)
class TrainingLoop:
    """The loop and what it calls.

    batches: yields each execution's steps, its batches, and the digests of the keys of their records. validation:
    returns loss and accuracy over the validation set, or None where a stop cut it off; it is None where there is no
    validation set.
    """

    schedule: Schedule
    steps: "Steps"
    batches: Iterator[tuple[StepRange, tuple[Any, Any]]]
    meter: Meter
    saver: Saver
    report: Report
    history: History
    log: Log
    validation: Callable[[], tuple[float, float] | None] | None
    stop: Stop

    def run(self) -> Progress:
        """Trains to the last step of the schedule.

        Raises:
            Stopped: a stop was requested, and everything is saved.
            NotFinite: the loss is not finite.
        """
        schedule = self.schedule
        self.stop.check()
        if self._validate(self.meter.progress.step):  # A stop has cut it off in the session before.
            self._save(wait=self._exhausted)
        for steps, (batch, digests) in self.batches:
            if self._exhausted:
                self.log.line(f"no better validation in {schedule.settings.patience} of them: the run ends here")
                break
            scalars = self.steps.train(batch, steps.first, schedule.learning_rates(steps))
            self.meter.add(steps, scalars, digests)
            self.report.progress(self.meter)
            if schedule.logs(steps.last):
                self._log()
            validated = self._validate(steps.last)
            stopping = self.stop.requested
            self.saver.poll()
            if schedule.saves(steps.last) or validated or stopping:
                self._save(wait=stopping or steps.last == schedule.last or self._exhausted)
            if stopping and steps.last < schedule.last:
                raise self._stopped("stopped")
        return self._finish()

    @property
    def _exhausted(self) -> bool:
        """Whether the patience is exhausted: so many validations were not better than the best."""
        return 0 < self.schedule.settings.patience <= self.meter.progress.validations_since_best

    def _log(self) -> None:
        """Closes the log window and reports it."""
        window, step = self.meter.close_window(), self.meter.progress.step
        if window:
            with self.meter.aside("saving"):
                rate = self.schedule.learning_rates(StepRange(step - 1, step))[0]
                self.report.window(step, window, rate, self.meter.seconds)

    def _validate(self, done: int, *, due: bool = False) -> bool:
        """Validates if that is due and not done; returns whether it has validated, False if a stop cut it off.

        Raises:
            NotFinite: the loss is not finite.
        """
        if not self.validation or self.meter.progress.validated >= done or not (due or self.schedule.validates(done)):
            return False
        with self.meter.aside("validating"):
            scores = self.validation()
        if not scores:
            return False
        (loss, accuracy), old = scores, self.meter.progress
        if not math.isfinite(loss):
            raise NotFinite(f"step {old.step}: the validation loss is {loss}; {REMEDY}")
        best = (accuracy, -loss) > (old.best_accuracy, -old.best_loss)
        self.meter.update(validated=old.step, validations_since_best=old.validations_since_best + 1)
        if best:
            self.meter.update(best_accuracy=accuracy, best_loss=loss, best_step=old.step, validations_since_best=0)
        point = {"step": old.step, "validation_loss": loss, "validation_accuracy": accuracy}
        self.report.write(VALIDATION, old.step, point=point, best=best)
        return True

    def _save(self, *, wait: bool) -> None:
        """Begins to save a checkpoint of the step that was just done; `wait` waits until it is durable."""
        with self.meter.aside("saving"):
            self.history.offer()  # First: a run that goes on from this step must find its lines.
            self.meter.update(seconds=self.meter.seconds, history=self.history.head)
            self.saver.save(wait=wait)
            if wait:
                self.history.settle()

    def _finish(self) -> Progress:
        """Logs the steps since the last log point, and validates the last step.

        No checkpoint holds these two, so that a run that goes on from here ends as a run that did not stop here.

        Raises:
            Stopped: a stop was requested, and everything else is saved.
            NotFinite: the validation loss is not finite, or no step has changed anything.
        """
        step = self.meter.settle().step
        if step:
            self._log()
        if self.meter.progress.skipped == step > 0:
            raise NotFinite(f"the gradients of all {step} steps are not finite, so nothing was trained; {REMEDY}")
        missing = self.validation and self.schedule.settings.validate_every and self.meter.progress.validated < step
        if missing and not self._validate(step, due=True):
            raise self._stopped("stopped in the validation after the last step")
        with self.meter.aside("saving"):
            self.history.flush()
        return self.meter.progress

    def _stopped(self, text: str) -> Stopped:
        """Reports that the run was stopped after the step that was just done, and is saved."""
        step = self.meter.progress.step
        self.report.write(STOPPED, step)
        return Stopped(f"{text}, step {step} of {self.schedule.last} is saved; run the same command again")

    def choose(self, load: Callable[[int], Arrays], last: Callable[[], Arrays]) -> ExportChoice:
        """Chooses the step to export: the best validated step, or the last step where there is none, or where its
        checkpoint cannot be read. load: returns the arrays of a step. last: returns those of the last step.

        Raises:
            Stopped: a stop was requested while it validated the last step instead.
        """
        progress = self.meter.progress
        if not progress.best_step:
            return ExportChoice(progress.step, last(), None)
        if progress.best_step == progress.step:
            return ExportChoice(progress.step, last(), progress.best_accuracy)
        try:
            return ExportChoice(progress.best_step, load(progress.best_step), progress.best_accuracy)
        except DataError as error:
            self.log.alert(f"{error}; the last step is exported instead of the best")
        scores = self.validation and self.validation()
        if self.validation and not scores:
            raise self._stopped("stopped in the validation of the step to export")
        return ExportChoice(progress.step, last(), scores[1] if scores else None)
