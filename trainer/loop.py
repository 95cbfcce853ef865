"""The loop of a run."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from boceto.checkpoint import Progress
from boceto.errors import Stopped
from trainer.batches import Ahead, Call, Source
from trainer.checkpoints import REMEDY, NotFinite
from trainer.meter import Meter
from trainer.report import Report
from trainer.saver import Saver
from trainer.schedule import learning_rate
from trainer.settings import Settings
from trainer.steps import Steps
from trainer.stop import Stop
from trainer.validation import Held, validate


@dataclass(frozen=True)
class Plan:
    """When what is due, as functions of the steps of a call. total: the steps of all epochs, which the schedule spans.
    last: the step after which the run ends.
    """

    settings: Settings
    source: Source
    total: int
    last: int

    def ends_call(self, step: int) -> bool:
        """Whether something is to be done between `step` and the next one."""
        call = Call(step, step + 1)
        return self.logs(call) or self.saves(call) or self.source.ends_epoch(step)

    def logs(self, call: Call) -> bool:
        """Whether a log point is due after `call`."""
        return call.last % self.settings.log_every == 0 or self._ends_epoch(call) or call.last == self.last

    def saves(self, call: Call) -> bool:
        """Whether a checkpoint is due after `call`."""
        every = self.settings.save_every
        return call.last == self.last or (call.last % every == 0 if every else self._ends_epoch(call))

    def validates(self, step: int) -> bool:
        """Whether a validation is due after `step` steps."""
        every = self.settings.validate_every
        if not every or not step:
            return False
        before, after = (self.source.epoch(done) // every for done in (step - 1, step))
        return after > before or step == self.last

    def rates(self, call: Call) -> list[float]:
        """The learning rate of each step of `call`."""
        return [learning_rate(self.settings, self.total, step) for step in range(*call)]

    def _ends_epoch(self, call: Call) -> bool:
        return self.source.ends_epoch(call.last - 1)


@dataclass(frozen=True)
class Run:
    """What the loop works with."""

    plan: Plan
    steps: Steps
    batches: Ahead[Any]
    meter: Meter
    saver: Saver
    report: Report
    held: Held | None
    stop: Stop

    def validates(self, step: int) -> bool:
        """Whether a validation is due after `step` steps, and not done: a stop may have cut it off."""
        return self.held is not None and self.meter.progress.validated < step and self.plan.validates(step)

    def validate(self) -> None:
        """Validates, and keeps in mind which step was the best; a stop cuts it off.

        Raises:
            NotFinite: the loss is not finite.
        """
        with self.meter.aside("validating"):
            found = self.held and validate(self.steps, self.held, self.plan.settings, self.stop)
        if not found:
            return
        loss, accuracy = found
        if not math.isfinite(loss):
            raise NotFinite(f"step {self.meter.progress.step}: the validation loss is {loss}; {REMEDY}")
        old = self.meter.progress
        best = (accuracy, -loss) > (old.best_accuracy, -old.best_loss)
        self.meter.update(validated=old.step, validations_since_best=old.validations_since_best + 1)
        if best:
            self.meter.update(best_accuracy=accuracy, best_loss=loss, best_step=old.step, validations_since_best=0)
        self.report.validated(old.step, loss, accuracy, best)

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

    def log(self, rate: float) -> None:
        """Closes a log window."""
        window = self.meter.window()
        if window:
            self.meter.update(images_per_second=self.meter.images_per_second)
            with self.meter.aside("saving"):
                self.report.window(self.meter.progress.step, window, rate)
                self.report.wall_time(self.meter.accounted.seconds)

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
    if run.validates(run.meter.progress.step):
        run.validate()
        run.save(for_sure=run.exhausted)
    for call, (batch, digests) in run.batches:
        if run.exhausted:
            run.report.log.line(f"no better validation in {plan.settings.patience} of them: the run ends here")
            break
        rates = plan.rates(call)
        run.meter.add(call, run.steps.train(batch, call.first, rates), digests)
        run.show()
        if plan.logs(call):
            run.log(rates[-1])
        validates = run.validates(call.last)
        if validates:
            run.validate()
        stopping = run.stop.requested
        run.saver.poll()
        if plan.saves(call) or validates or stopping:
            run.save(for_sure=stopping or call.last == plan.last or run.exhausted)
        if stopping and call.last < plan.last:
            run.report.stopped(call.last)
            raise Stopped(f"stopped after step {call.last} of {plan.last}, saved; run the same command again")
    return run.meter.settle()
