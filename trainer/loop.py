"""The loop of a run."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boceto.checkpoint import Progress
from boceto.errors import DataError, Stopped
from boceto.tensors import Arrays
from trainer.batches import Prefetch, StepRange, TrainingSet
from trainer.checkpoints import REMEDY, NotFinite
from trainer.meter import Meter
from trainer.report import Report
from trainer.saver import Saver
from trainer.schedule import learning_rate
from trainer.settings import Settings
from trainer.stop import Stop

if TYPE_CHECKING:
    from trainer.steps import Steps


@dataclass(frozen=True)
class Plan:
    """When what is due, as functions of the steps of a call. total: the steps of all epochs, which the schedule spans.
    last: the step after which the run ends; nothing but a save depends on it, so that a run may go on from there.
    """

    settings: Settings
    training_set: TrainingSet
    total: int
    last: int

    def ends_call(self, step: int) -> bool:
        """Whether something is to be done between `step` and the next one."""
        call = StepRange(step, step + 1)
        return self.logs(call) or self.saves(call) or self.training_set.ends_epoch(step)

    def logs(self, call: StepRange) -> bool:
        """Whether a log point is due after `call`."""
        return call.last % self.settings.log_every == 0 or self._ends_epoch(call)

    def saves(self, call: StepRange) -> bool:
        """Whether a checkpoint is due after `call`."""
        every = self.settings.save_every
        return call.last == self.last or (call.last % every == 0 if every else self._ends_epoch(call))

    def validates(self, step: int) -> bool:
        """Whether a validation is due after `step` steps."""
        every = self.settings.validate_every
        if not every or not step:
            return False
        before, after = (self.training_set.epoch(done) // every for done in (step - 1, step))
        return after > before

    def learning_rates(self, call: StepRange) -> list[float]:
        """The learning rate of each step of `call`."""
        return [learning_rate(self.settings, self.total, step) for step in range(*call)]

    def _ends_epoch(self, call: StepRange) -> bool:
        return self.training_set.ends_epoch(call.last - 1)


@dataclass(frozen=True)
class Run:
    """What the loop works with. validation: the loss and accuracy of the state as it is over what is held for it, or
    None where a stop cut it off; None itself where nothing is held.
    """

    plan: Plan
    steps: "Steps"
    batches: Prefetch[Any]
    meter: Meter
    saver: Saver
    report: Report
    validation: Callable[[], tuple[float, float] | None] | None
    stop: Stop

    def is_due(self, step: int) -> bool:
        """Whether a validation is due after `step` steps, and not done: a stop may have cut it off."""
        return self.validation is not None and self.meter.progress.validated < step and self.plan.validates(step)

    def validate(self) -> bool:
        """Validates, and keeps in mind which step was the best; returns False where a stop cut it off.

        Raises:
            NotFinite: the loss is not finite.
        """
        with self.meter.aside("validating"):
            found = self.validation and self.validation()
        if not found:
            return False
        loss, accuracy = found
        if not math.isfinite(loss):
            raise NotFinite(f"step {self.meter.progress.step}: the validation loss is {loss}; {REMEDY}")
        old = self.meter.progress
        best = (accuracy, -loss) > (old.best_accuracy, -old.best_loss)
        self.meter.update(validated=old.step, validations_since_best=old.validations_since_best + 1)
        if best:
            self.meter.update(best_accuracy=accuracy, best_loss=loss, best_step=old.step, validations_since_best=0)
        self.report.validated(old.step, loss, accuracy, best)
        return True

    def save(self, *, for_sure: bool = False) -> None:
        """Begins to save a checkpoint of the step that was just done; `for_sure` waits until it is durable."""
        with self.meter.aside("saving"):
            self.report.history.offer()  # First: a run that goes on from this step must find its lines.
            progress = dataclasses.replace(self.meter.accounted, history=self.report.history.head)
            if not for_sure:
                self.saver.save(progress)
                return
            self.saver.save_for_sure(progress)
            self.report.history.settle()

    def show(self) -> None:
        """Shows how far things are."""
        window = self.meter.peek()
        if window:
            self.report.progress(self.meter.progress.step, window)

    def log(self, learning_rate: float) -> None:
        """Closes a log window."""
        window = self.meter.window()
        if window:
            self.meter.update(images_per_second=self.meter.images_per_second)
            with self.meter.aside("saving"):
                self.report.window(self.meter.progress.step, window, learning_rate)
                self.report.wall_time(self.meter.accounted.seconds)

    def finish(self) -> Progress:
        """Logs the steps since the last log point, and validates where the last step was not. No checkpoint holds
        either: a run that goes on from here is the same as one that did not end here.

        Raises:
            Stopped: it was asked to, and everything else is saved.
            NotFinite: as `validate`; or no step has changed anything.
        """
        step = self.meter.settle().step
        if step:
            self.log(self.plan.learning_rates(StepRange(step - 1, step))[0])
        if self.meter.progress.skipped == step > 0:
            raise NotFinite(f"the gradients of all {step} steps are not finite, so nothing was trained; {REMEDY}")
        wanted = self.validation is not None and self.plan.settings.validate_every > 0
        if wanted and self.meter.progress.validated < step and not self.validate():
            raise self.stopped("stopped in the validation after the last step")
        with self.meter.aside("saving"):
            self.report.history.flush()
        return self.meter.progress

    def stopped(self, text: str) -> Stopped:
        """Tells that the run was stopped after the step that was just done, and is saved."""
        step = self.meter.progress.step
        self.report.stopped(step)
        return Stopped(f"{text}, step {step} of {self.plan.last} is saved; run the same command again")

    @property
    def exhausted(self) -> bool:
        """Whether the run has waited long enough for a better validation."""
        return 0 < self.plan.settings.patience <= self.meter.progress.validations_since_best


def train(run: Run) -> Progress:
    """Trains to the end of the plan.

    Raises:
        Stopped: it was asked to, and everything is saved.
        NotFinite: the loss is not finite.
    """
    plan = run.plan
    run.stop.check()
    if run.is_due(run.meter.progress.step) and run.validate():
        run.save(for_sure=run.exhausted)
    for call, (batch, digests) in run.batches:
        if run.exhausted:
            run.report.log.line(f"no better validation in {plan.settings.patience} of them: the run ends here")
            break
        learning_rates = plan.learning_rates(call)
        run.meter.add(call, run.steps.train(batch, call.first, learning_rates), digests)
        run.show()
        if plan.logs(call):
            run.log(learning_rates[-1])
        validated = run.is_due(call.last) and run.validate()
        stopping = run.stop.requested
        run.saver.poll()
        if plan.saves(call) or validated or stopping:
            run.save(for_sure=stopping or call.last == plan.last or run.exhausted)
        if stopping and call.last < plan.last:
            raise run.stopped("stopped")
    return run.finish()


@dataclass(frozen=True)
class Chosen:
    """What is exported: the arrays after a step, and its validation accuracy, None where it has none."""

    step: int
    arrays: Arrays
    accuracy: float | None


def choose(run: Run, load: Callable[[int], Arrays], last: Callable[[], Arrays]) -> Chosen:
    """The best validated step, which `load` reads; the last one where none was validated, or the best cannot be read.

    Raises:
        Stopped: it was asked to while it validated the last step instead.
    """
    progress = run.meter.progress
    best = progress.best_step
    if best and best != progress.step:
        try:
            return Chosen(best, load(best), progress.best_accuracy)
        except DataError as error:
            run.report.log.alert(f"{error}; the last step is exported instead of the best")
        found = run.validation and run.validation()
        if run.validation and not found:
            raise run.stopped("stopped in the validation of the step to export")
        return Chosen(progress.step, last(), found[1] if found else None)
    return Chosen(progress.step, last(), progress.best_accuracy if best else None)
