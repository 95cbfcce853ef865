"""Reports how a run goes to a list of writers: console, history, TensorBoard, Prometheus, and the Job of a cluster."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boceto import telemetry
from boceto.checkpoint import Progress
from boceto.console import clock_time
from boceto.run import History
from boceto.telemetry import Telemetry
from trainer.batches import TrainingSet
from trainer.log import Log
from trainer.meter import Meter, Window, goodput

if TYPE_CHECKING:
    from trainer.curves import TensorBoard

TRAIN, VALIDATION = "train/", "validation/"  # The names of curves begin with these.
Point = Mapping[str, Any]


class Writer:
    """What a report goes to. A writer overrides the methods of what it shows; the others do nothing.

    place: as "epoch 2/30, step 500/9000". A point is what the history's line says.
    """

    def stands(self, place: str) -> None:
        """The run begins, or goes on, from here."""

    def progress(self, place: str, window: Window, point: Point) -> None:
        """Some steps were done; `point` has `seconds_left`."""

    def window(self, window: Window, point: Point, seconds: Mapping[str, float]) -> None:
        """A log window was closed. seconds: wall time by activity, over all sessions."""

    def validated(self, point: Point, best: bool) -> None:  # noqa: FBT001
        """A validation was done."""

    def stopped(self, place: str) -> None:
        """The run was stopped on request, and is saved."""

    def finished(self, point: Point) -> None:
        """The run is done; `point` has what is known: a run that only exports again has no loss."""


class Report:
    """Computes the points and hands them to the writers."""

    def __init__(self, writers: Sequence[Writer], training_set: TrainingSet, total: int) -> None:
        self._writers = writers
        self._training_set = training_set
        self._total = total
        self._loss: float | None = None

    def stands(self, step: int) -> None:
        """Reports that the run begins, or goes on, after `step`."""
        for writer in self._writers:
            writer.stands(self._place(step))

    def _place(self, step: int) -> str:
        size, batch = len(self._training_set), self._training_set.batch
        epoch, epochs = (math.ceil(done * batch / size) for done in (step, self._total))
        return f"epoch {epoch}/{epochs}, step {step}/{self._total}"

    def progress(self, meter: Meter) -> None:
        """Reports how far the run is, without waiting for what is under way."""
        if not (window := meter.peek()):
            return
        step = meter.progress.step
        left = (self._total - step) * self._training_set.batch / window.images_per_second if window.timed else math.nan
        point = {"step": step, "steps": self._total, "epoch": self._epoch(step), "seconds_left": left}
        for writer in self._writers:
            writer.progress(self._place(step), window, point)

    def window(self, step: int, window: Window, learning_rate: float, seconds: Mapping[str, float]) -> None:
        """Reports what happened up to `step`, whose learning rate was `learning_rate`."""
        self._loss = window.loss
        point = {
            "step": step,
            "epoch": round(self._epoch(step), 4),
            "loss": window.loss,
            "accuracy": window.accuracy,
            "learning_rate": learning_rate,
            "images_per_second": round(window.images_per_second, 2),
            "waiting": round(window.waiting, 4),
        }
        if window.gradient_norm >= 0:  # float16 overflows, and skips the step.
            point["gradient_norm"] = window.gradient_norm
        for writer in self._writers:
            writer.window(window, point, seconds)

    def validated(self, step: int, loss: float, accuracy: float, best: bool) -> None:  # noqa: FBT001
        """Reports a validation after `step`."""
        for writer in self._writers:
            writer.validated({"step": step, "validation_loss": loss, "validation_accuracy": accuracy}, best)

    def stopped(self, step: int) -> None:
        """Reports that the run was stopped on request, and `step` is saved."""
        for writer in self._writers:
            writer.stopped(self._place(step))

    def finished(self, progress: Progress, exported: int, accuracy: float | None) -> None:
        """Reports what came of the run. accuracy: of the validation of the step that is exported."""
        known = {
            "loss": self._loss,
            "train_accuracy": progress.train_accuracy,
            "validation_accuracy": accuracy,
            "images_per_second": progress.images_per_second or None,
            "exported_step": exported,
        }
        point = {name: value for name, value in known.items() if value is not None}
        for writer in self._writers:
            writer.finished({"step": progress.step, "steps": self._total, **point})

    def _epoch(self, step: int) -> float:
        return step * self._training_set.batch / len(self._training_set)


def _summary(point: Point) -> list[str]:
    """The scores of a finished run, in words."""
    texts = {
        "loss": "loss {loss:.4f}",
        "train_accuracy": "train accuracy {train_accuracy:.4f}",
        "validation_accuracy": "validation accuracy {validation_accuracy:.4f} (step {exported_step})",
        "images_per_second": "{images_per_second:,.1f} images/s",
    }
    return [text.format(**point) for name, text in texts.items() if name in point]


class ConsoleWriter(Writer):
    """The log: lines and a progress line for people, or JSON."""

    def __init__(self, log: Log, total: int) -> None:
        self._log = log
        self._total = total

    def progress(self, place: str, window: Window, point: Point) -> None:
        """Shows the progress line, once there is a speed."""
        del place
        if window.timed:
            self._log.progress(
                f"epoch {point['epoch']:.2f}  step {point['step']}/{self._total}  loss {window.loss:.4f}  accuracy "
                f"{window.accuracy:.3f}  {window.images_per_second:.1f} images/s  waiting {window.waiting:.1%}  "
                f"{clock_time(point['seconds_left'])} left"
            )

    def window(self, window: Window, point: Point, seconds: Mapping[str, float]) -> None:
        """Logs the point, where the log is JSON."""
        del window, seconds
        self._log.point("progress", steps=self._total, **point)

    def validated(self, point: Point, best: bool) -> None:  # noqa: FBT001
        """Logs a line."""
        text = "validation after step {step}: loss {validation_loss:.4f}, accuracy {validation_accuracy:.4f}"
        self._log.line(text.format(**point) + (", the best so far" if best else ""), **point)

    def finished(self, point: Point) -> None:
        """Logs a line."""
        fields = {name: value for name, value in point.items() if name not in {"steps", "exported_step"}}
        self._log.line(", ".join([f"trained {point['step']} of {self._total} steps", *_summary(point)]), **fields)


class HistoryWriter(Writer):
    """`history.jsonl`."""

    def __init__(self, history: History) -> None:
        self._history = history

    def window(self, window: Window, point: Point, seconds: Mapping[str, float]) -> None:
        """Adds a line."""
        del window, seconds
        self._history.add(point)

    def validated(self, point: Point, best: bool) -> None:  # noqa: FBT001
        """Adds a line."""
        del best
        self._history.add(point)


class CurvesWriter(Writer):
    """TensorBoard."""

    def __init__(self, curves: "TensorBoard") -> None:
        self._curves = curves

    def window(self, window: Window, point: Point, seconds: Mapping[str, float]) -> None:
        """Adds a point to each curve of the training."""
        del window, seconds
        self._curves.write(point["step"], {TRAIN + name: value for name, value in point.items() if name != "step"})

    def validated(self, point: Point, best: bool) -> None:  # noqa: FBT001
        """Adds a point to each curve of the validation."""
        del best
        values = {VALIDATION + name: point[f"validation_{name}"] for name in ("loss", "accuracy")}
        self._curves.write(point["step"], values)

    def finished(self, point: Point) -> None:
        """Copies the files to where the run is."""
        del point
        self._curves.copy()


class PrometheusWriter(Writer):
    """The metrics. memory: returns the bytes in use, by device and state."""

    def __init__(self, metrics: Telemetry, memory: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        self._metrics = metrics
        self._memory = memory

    def progress(self, place: str, window: Window, point: Point) -> None:
        """Sets when the last progress was, and the time left."""
        del place
        self._metrics.now(telemetry.PROGRESSED)
        if window.timed:
            self._metrics.set(telemetry.TRAIN_LEFT, point["seconds_left"])

    def window(self, window: Window, point: Point, seconds: Mapping[str, float]) -> None:
        """Counts steps, images and seconds, and sets the scores."""
        metrics = self._metrics
        metrics.add(telemetry.STEPS, window.steps)
        metrics.add(telemetry.IMAGES, window.images)
        for activity, spent in window.seconds.items():
            metrics.add(telemetry.SECONDS, spent, activity=activity)
        self._scores("train", window.loss, window.accuracy)
        metrics.set(telemetry.STEP, point["step"])
        metrics.set(telemetry.EPOCH, point["epoch"])
        metrics.set(telemetry.RATE, point["learning_rate"])
        metrics.set(telemetry.NORM, point.get("gradient_norm", math.inf))
        for device, states in self._memory().items():
            for state, used in states.items():
                metrics.set(telemetry.MEMORY, used, device=device, state=state)
        for activity, spent in seconds.items():
            metrics.set(telemetry.WALL_TIME, spent, activity=activity)
        metrics.set(telemetry.GOODPUT, goodput(seconds))

    def validated(self, point: Point, best: bool) -> None:  # noqa: FBT001
        """Sets the scores."""
        self._metrics.now(telemetry.PROGRESSED)
        self._scores("validation", point["validation_loss"], point["validation_accuracy"])
        if best:
            self._metrics.set(telemetry.BEST_STEP, point["step"])

    def _scores(self, split: str, loss: float, accuracy: float) -> None:
        self._metrics.set(telemetry.LOSS, loss, split=split)
        self._metrics.set(telemetry.ACCURACY, accuracy, split=split)


class SummaryWriter(Writer):
    """One line for readers of no more than that: the annotation of a cluster's Job."""

    text = ""

    def stands(self, place: str) -> None:
        """Notes where the run stands before its first step."""
        self.text = place

    def progress(self, place: str, window: Window, point: Point) -> None:
        """Notes scores and the time left."""
        if window.timed:
            left = clock_time(point["seconds_left"])
            self.text = f"{place}, loss {window.loss:.4f}, accuracy {window.accuracy:.3f}, {left} left"

    def stopped(self, place: str) -> None:
        """Notes the stop."""
        self.text = f"{place}, stopped"

    def finished(self, point: Point) -> None:
        """Notes the scores."""
        scores = _summary({name: value for name, value in point.items() if name in {"loss", "train_accuracy"}})
        self.text = f"step {point['step']}/{point['steps']}, {', '.join(scores)}, done"
