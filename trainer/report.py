"""Reports a run to a list of writers: console, history, TensorBoard, Prometheus, and the Job of a cluster.

Each writer is called with every event, and shows the kinds that it has a place for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boceto import telemetry
from boceto.checkpoint import Progress
from boceto.console import clock_time
from boceto.run import History
from boceto.telemetry import Telemetry
from trainer.batches import TrainingSet
from trainer.log import Log
from trainer.meter import Meter, Window, goodput

BEGUN, PROGRESS, TRAIN = "begun", "progress", "train"
VALIDATION, STOPPED, FINISHED = "validation", "stopped", "finished"


@dataclass(frozen=True)
class Event:
    """An event of a run: its kind, and the step after which it happened, of `steps` in all.

    place: as "epoch 2/30, step 500/9000". point: of TRAIN and VALIDATION, the line of the history; of FINISHED, the
    scores that are known. window, seconds_left: of PROGRESS and TRAIN. seconds: of TRAIN, the wall time by activity.
    best: of VALIDATION, whether it is the best so far.
    """

    kind: str
    step: int
    steps: int
    epoch: float
    place: str
    point: Mapping[str, Any] = field(default_factory=dict)
    window: Window | None = None
    seconds_left: float = math.nan
    seconds: Mapping[str, float] = field(default_factory=dict)
    best: bool = False


Writer = Callable[[Event], None]


class Report:
    """Hands each event to the writers. total: the run's last step."""

    def __init__(self, writers: Sequence[Writer], training_set: TrainingSet, total: int) -> None:
        self._writers = writers
        self._training_set = training_set
        self._total = total
        self._loss: float | None = None

    def write(self, kind: str, step: int, **more: Any) -> None:
        """Reports an event of this kind after `step`, with more fields of Event."""
        epoch, epochs = (done * self._training_set.batch_size / len(self._training_set) for done in (step, self._total))
        place = f"epoch {math.ceil(epoch)}/{math.ceil(epochs)}, step {step}/{self._total}"
        event = Event(kind, step, self._total, epoch, place, **more)
        for writer in self._writers:
            writer(event)

    def progress(self, meter: Meter) -> None:
        """Reports the progress of the run, without waiting for executions that are under way."""
        window = meter.peek()
        if window and window.images_per_second:
            step, batch = meter.progress.step, self._training_set.batch_size
            left = (self._total - step) * batch / window.images_per_second
            self.write(PROGRESS, step, window=window, seconds_left=left)

    def window(self, step: int, window: Window, learning_rate: float, seconds: Mapping[str, float]) -> None:
        """Reports a log point after `step`, whose learning rate was `learning_rate`. seconds: wall time by activity."""
        self._loss = window.loss
        point = {
            "step": step,
            "epoch": round(step * self._training_set.batch_size / len(self._training_set), 4),
            "loss": window.loss,
            "accuracy": window.accuracy,
            "learning_rate": learning_rate,
            "images_per_second": round(window.images_per_second, 2),
            "waiting": round(window.waiting, 4),
        }
        if window.gradient_norm >= 0:  # float16 overflows, and skips the step.
            point["gradient_norm"] = window.gradient_norm
        self.write(TRAIN, step, point=point, window=window, seconds=seconds)

    def finished(self, progress: Progress, exported: int, accuracy: float | None) -> None:
        """Reports the end of the run. accuracy: of the validation of the step that is exported."""
        scores = {
            "loss": self._loss,  # A run that only exports again has none.
            "train_accuracy": progress.train_accuracy,
            "validation_accuracy": accuracy,
            "images_per_second": progress.images_per_second or None,
        }
        known = {name: value for name, value in scores.items() if value is not None}
        self.write(FINISHED, progress.step, point={**known, "exported_step": exported})


def _scores(point: Mapping[str, Any], *names: str) -> str:
    """Returns these scores of a finished run in words, all that are known by default."""
    texts = {
        "loss": "loss {loss:.4f}",
        "train_accuracy": "train accuracy {train_accuracy:.4f}",
        "validation_accuracy": "validation accuracy {validation_accuracy:.4f} (step {exported_step})",
        "images_per_second": "{images_per_second:,.1f} images/s",
    }
    return ", ".join(texts[name].format(**point) for name in names or texts if name in point)


def console(log: Log) -> Writer:
    """Returns a writer to the log: lines and a progress line for people, or JSON."""

    def write(event: Event) -> None:
        window, point = event.window, dict(event.point)
        if event.kind == PROGRESS and window:
            log.progress(
                f"loss {window.loss:.4f}, accuracy {window.accuracy:.3f}, epoch {event.epoch:.2f}, "
                f"{window.images_per_second:,.0f} images/s, waiting {window.waiting:.1%}",
                event.step,
                event.steps,
                "steps",
            )
        elif event.kind == TRAIN:
            log.point("progress", steps=event.steps, **point)
        elif event.kind == VALIDATION:
            text = "validation after step {step}: loss {validation_loss:.4f}, accuracy {validation_accuracy:.4f}"
            log.line(text.format(**point) + (", the best so far" if event.best else ""), **point)
        elif event.kind == FINISHED:
            text = f"trained {event.step} of {event.steps} steps, {_scores(point)}"
            del point["exported_step"]
            log.line(text, step=event.step, **point)

    return write


def history(lines: History) -> Writer:
    """Returns a writer to `history.jsonl`."""

    def write(event: Event) -> None:
        if event.kind in {TRAIN, VALIDATION}:
            lines.add(event.point)

    return write


class Metrics:
    """A writer to Prometheus. memory: returns the bytes in use, by device and state."""

    def __init__(self, prometheus: Telemetry, memory: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        self._prometheus = prometheus
        self._memory = memory

    def __call__(self, event: Event) -> None:
        """Sets the metrics of the event."""
        if event.kind in {PROGRESS, VALIDATION}:
            self._prometheus.now(telemetry.PROGRESSED)
        if event.kind == PROGRESS:
            self._prometheus.set(telemetry.TRAIN_LEFT, event.seconds_left)
        elif event.kind == TRAIN and event.window:
            self._train(event, event.window)
        elif event.kind == VALIDATION:
            self._scores("validation", event.point["validation_loss"], event.point["validation_accuracy"])
            if event.best:
                self._prometheus.set(telemetry.BEST_STEP, event.step)

    def _train(self, event: Event, window: Window) -> None:
        prometheus = self._prometheus
        prometheus.add(telemetry.STEPS, window.steps)
        prometheus.add(telemetry.IMAGES, window.images)
        for activity, spent in window.seconds.items():
            prometheus.add(telemetry.SECONDS, spent, activity=activity)
        self._scores("train", window.loss, window.accuracy)
        prometheus.set(telemetry.STEP, event.step)
        prometheus.set(telemetry.EPOCH, event.epoch)
        prometheus.set(telemetry.RATE, event.point["learning_rate"])
        prometheus.set(telemetry.NORM, event.point.get("gradient_norm", math.inf))
        for device, states in self._memory().items():
            for state, used in states.items():
                prometheus.set(telemetry.MEMORY, used, device=device, state=state)
        for activity, spent in event.seconds.items():
            prometheus.set(telemetry.WALL_TIME, spent, activity=activity)
        prometheus.set(telemetry.GOODPUT, goodput(event.seconds))

    def _scores(self, split: str, loss: float, accuracy: float) -> None:
        self._prometheus.set(telemetry.LOSS, loss, split=split)
        self._prometheus.set(telemetry.ACCURACY, accuracy, split=split)


class Summary:
    """A writer that keeps one line of text about the run: the annotation of a cluster's Job."""

    text = ""

    def __call__(self, event: Event) -> None:
        """Sets the text."""
        window = event.window
        if event.kind == BEGUN:
            self.text = event.place
        elif event.kind == PROGRESS and window:
            scores = f"loss {window.loss:.4f}, accuracy {window.accuracy:.3f}"
            self.text = f"{event.place}, {scores}, {clock_time(event.seconds_left)} left"
        elif event.kind == STOPPED:
            self.text = f"{event.place}, stopped"
        elif event.kind == FINISHED:
            scores = _scores(event.point, "loss", "train_accuracy")
            self.text = f"step {event.step}/{event.steps}, {scores}, done"
