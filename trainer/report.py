"""Tells people, the history, TensorBoard and Prometheus how a run goes."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from boceto import telemetry
from boceto.checkpoint import Progress
from boceto.console import clock_time
from boceto.run import History
from boceto.telemetry import Telemetry
from trainer.batches import TrainingSet
from trainer.log import Log
from trainer.meter import Window

if TYPE_CHECKING:
    from trainer.curves import TensorBoard

TRAIN, VALIDATION = "train/", "validation/"  # The names of curves begin with these.


class Report:
    """One log point goes to all of them."""

    def __init__(  # noqa: PLR0913, PLR0917 - those it tells
        self,
        log: Log,
        history: History,
        curves: "TensorBoard | None",
        telemetry: Telemetry,
        training_set: TrainingSet,
        step: int,
        total: int,
        memory: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
    ) -> None:
        self.log = log
        self.history = history
        self._curves = curves
        self._telemetry = telemetry
        self._training_set = training_set
        self._total = total
        self._memory = memory
        self._loss: float | None = None
        self.summary = self._place(step)  # For who reads no more than a line of it.

    def window(self, step: int, window: Window, learning_rate: float) -> None:
        """What happened up to `step`, whose learning rate was `learning_rate`."""
        self._loss = window.loss
        epoch = step * self._training_set.batch / len(self._training_set)
        point = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": window.loss,
            "accuracy": window.accuracy,
            "learning_rate": learning_rate,
            "images_per_second": round(window.images_per_second, 2),
            "waiting": round(window.waiting, 4),
        }
        if window.gradient_norm >= 0:  # float16 overflows, and skips the step.
            point["gradient_norm"] = window.gradient_norm
        self.history.add(point)
        self._draw(step, {TRAIN + name: value for name, value in point.items() if name != "step"})
        self._tell(step, epoch, window, learning_rate)
        self.log.point("progress", steps=self._total, **point)

    def _draw(self, step: int, values: Mapping[str, float]) -> None:
        if self._curves:
            self._curves.write(step, values)

    def _tell(self, step: int, epoch: float, window: Window, learning_rate: float) -> None:
        tell = self._telemetry
        tell.add(telemetry.STEPS, window.steps)
        tell.add(telemetry.IMAGES, window.images)
        for activity, spent in window.seconds.items():
            tell.add(telemetry.SECONDS, spent, activity=activity)
        self._scores("train", window.loss, window.accuracy)
        tell.set(telemetry.STEP, step)
        tell.set(telemetry.EPOCH, epoch)
        tell.set(telemetry.RATE, learning_rate)
        tell.set(telemetry.NORM, window.gradient_norm if window.gradient_norm >= 0 else math.inf)
        for device, states in self._memory().items():
            for state, used in states.items():
                tell.set(telemetry.MEMORY, used, device=device, state=state)

    def _scores(self, split: str, loss: float, accuracy: float) -> None:
        self._telemetry.set(telemetry.LOSS, loss, split=split)
        self._telemetry.set(telemetry.ACCURACY, accuracy, split=split)

    def wall_time(self, seconds: Mapping[str, float]) -> None:
        """Where the run's time went so far, over all its sessions."""
        for activity, spent in seconds.items():
            self._telemetry.set(telemetry.WALL_TIME, spent, activity=activity)
        self._telemetry.set(telemetry.GOODPUT, seconds["computing"] / max(1e-9, sum(seconds.values())))

    def progress(self, step: int, window: Window) -> None:
        """How far things are; the console shows it from time to time, once there is a speed."""
        self._telemetry.now(telemetry.PROGRESSED)
        if not window.timed:
            return
        epoch = step * self._training_set.batch / len(self._training_set)
        seconds = (self._total - step) * self._training_set.batch / window.images_per_second
        self._telemetry.set(telemetry.TRAIN_LEFT, seconds)
        left = clock_time(seconds)
        self.summary = f"{self._place(step)}, loss {window.loss:.4f}, accuracy {window.accuracy:.3f}, {left} left"
        text = (
            f"epoch {epoch:.2f}  step {step}/{self._total}  loss {window.loss:.4f}  accuracy {window.accuracy:.3f}  "
            f"{window.images_per_second:.1f} images/s  waiting {window.waiting:.1%}  {left} left"
        )
        self.log.progress(text)

    def validated(self, step: int, loss: float, accuracy: float, best: bool) -> None:  # noqa: FBT001
        """A validation after `step` found these."""
        point: dict[str, Any] = {"step": step, "validation_loss": loss, "validation_accuracy": accuracy}
        self.history.add(point)
        self._draw(step, {VALIDATION + "loss": loss, VALIDATION + "accuracy": accuracy})
        self._telemetry.now(telemetry.PROGRESSED)
        self._scores("validation", loss, accuracy)
        if best:
            self._telemetry.set(telemetry.BEST_STEP, step)
        text = f"validation after step {step}: loss {loss:.4f}, accuracy {accuracy:.4f}"
        self.log.line(text + (", the best so far" if best else ""), **point)

    def stopped(self, step: int) -> None:
        """The run was asked to stop, and `step` is saved."""
        self.summary = f"{self._place(step)}, stopped"

    def _place(self, step: int) -> str:
        epoch, epochs = (
            math.ceil(done * self._training_set.batch / len(self._training_set)) for done in (step, self._total)
        )
        return f"epoch {epoch}/{epochs}, step {step}/{self._total}"

    def finished(self, progress: Progress, exported: int, accuracy: float | None) -> None:
        """What came of the run, as far as it is known: one that only exports again has no loss. accuracy: of the
        validation of the step that is exported.
        """
        point: dict[str, float] = {"step": progress.step}
        parts = [f"trained {progress.step} of {self._total} steps"]
        if self._loss is not None:
            point["loss"] = self._loss
            parts.append(f"loss {self._loss:.4f}")
        point["train_accuracy"] = progress.train_accuracy
        parts.append(f"train accuracy {progress.train_accuracy:.4f}")
        self.summary = f"step {progress.step}/{self._total}, {', '.join(parts[1:])}, done"
        if accuracy is not None:
            point["validation_accuracy"] = accuracy
            parts.append(f"validation accuracy {accuracy:.4f} (step {exported})")
        if progress.images_per_second:
            point["images_per_second"] = progress.images_per_second
            parts.append(f"{progress.images_per_second:,.1f} images/s")
        self.log.line(", ".join(parts), **point)
        if self._curves:
            self._curves.copy()
