"""The loop of a run."""

from dataclasses import dataclass
from typing import Any

from boceto.errors import Stopped
from trainer.batches import Ahead, Call, Source
from trainer.checkpoints import Checkpoints, Progress
from trainer.meter import Meter
from trainer.report import Report
from trainer.schedule import learning_rate
from trainer.settings import Settings
from trainer.state import State
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

    def validates(self, call: Call) -> bool:
        """Whether a validation is due after `call`."""
        every = self.settings.validate_every
        if not every:
            return False
        before, after = (self.source.epoch(step) // every for step in (call.last - 1, call.last))
        return after > before or call.last == self.last

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
    state: State
    batches: Ahead[Any]
    meter: Meter
    checkpoints: Checkpoints
    report: Report
    held: Held | None
    stop: Stop

    def validate(self) -> None:
        """Validates, and keeps in mind which step was the best."""
        if self.held is None:
            return
        with self.meter.saving():
            loss, accuracy = validate(self.steps, self.held, self.plan.settings)
        progress = self.meter.settle()
        best = (accuracy, -loss) > (progress.best_accuracy, -progress.best_loss)
        if best:
            self.meter.update(best_accuracy=accuracy, best_loss=loss, best_step=progress.step, validations_since_best=0)
        else:
            self.meter.update(validations_since_best=progress.validations_since_best + 1)
        self.report.validated(progress.step, loss, accuracy, best)

    def save(self) -> None:
        """Saves a checkpoint of the step that was just done."""
        with self.meter.saving():
            self.checkpoints.save(self.state.arrays(), self.meter.settle())
            self.report.history.flush()

    def log(self, rate: float) -> None:
        """Closes a log window."""
        window = self.meter.window()
        if window:
            self.meter.update(images_per_second=self.meter.images_per_second)
            with self.meter.saving():
                self.report.window(self.meter.settle().step, window, rate)


def exhausted(progress: Progress, settings: Settings) -> bool:
    """Whether the run has waited long enough for a better validation."""
    return 0 < settings.patience <= progress.validations_since_best


def train(run: Run) -> Progress:
    """Trains to the end of the plan.

    Raises:
        Stopped: it was asked to, and everything is saved.
        DataError: the loss is not finite.
    """
    plan, settings = run.plan, run.plan.settings
    for call, batch in run.batches:
        rates = plan.rates(call)
        run.meter.add(call, run.steps.train(batch, call.first, rates))
        if plan.logs(call):
            run.log(rates[-1])
        validated = plan.validates(call)
        if validated:
            run.validate()
        if plan.saves(call) or validated or run.stop.requested:
            run.save()
        if run.stop.requested and call.last < plan.last:
            raise Stopped(f"stopped after step {call.last} of {plan.last}, saved; run the same command again")
        if exhausted(run.meter.settle() if validated else Progress(), settings):
            run.report.log.line(f"no better validation in {settings.patience} validations: the run ends here")
            break
    return run.meter.settle()
