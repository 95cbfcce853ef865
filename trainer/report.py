"""Tells people, the history, TensorBoard and Prometheus how a run goes."""

import contextlib
import importlib
import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from boceto import storage, telemetry
from boceto.checkpoint import Progress
from boceto.console import clock_time
from boceto.run import History
from boceto.telemetry import Telemetry
from trainer import devices
from trainer.batches import Source
from trainer.log import Log
from trainer.meter import Window

COPY_SECONDS = 30.0


class TensorBoard:
    """Event files in `RUN/tensorboard`, where the package is there to define them; else nothing.

    For a run in object storage they are written here and copied there every half minute and at the end.
    """

    def __init__(self, run: str, *, wanted: bool) -> None:
        self._writer = None
        self._target = storage.join(run, "tensorboard")
        self._copied = time.monotonic()
        self._folder = ""
        with contextlib.suppress(ImportError):
            if wanted:
                importlib.import_module("tensorboard")

                self._writer = tf.summary.create_file_writer(self._local_folder())

    def _local_folder(self) -> str:
        if storage.is_local(self._target):
            return str(storage.local_folder(self._target))
        self._folder = tempfile.mkdtemp(prefix="boceto-tensorboard-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        if self._writer:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()
            if time.monotonic() - self._copied >= COPY_SECONDS:
                self.copy()

    def copy(self) -> None:
        """Copies the events to where the run is, if that is not here. No run fails for its curves."""
        if self._folder:
            for entry in storage.list_files(self._folder):
                name = storage.relative(entry.url, self._folder)
                with contextlib.suppress(storage.Unavailable):
                    storage.upload(Path(entry.url), storage.join(self._target, name))
            self._copied = time.monotonic()


class Report:
    """One log point goes to all of them."""

    def __init__(  # noqa: PLR0913, PLR0917 - those it tells
        self,
        log: Log,
        history: History,
        board: TensorBoard,
        telemetry: Telemetry,
        source: Source,
        step: int,
        total: int,
    ) -> None:
        self.log = log
        self.history = history
        self._board = board
        self._telemetry = telemetry
        self._source = source
        self._total = total
        self._loss: float | None = None
        self.summary = self._place(step)  # For who reads no more than a line of it.

    def window(self, step: int, window: Window, rate: float) -> None:
        """What happened up to `step`, whose learning rate was `rate`."""
        self._loss = window.loss
        epoch = step * self._source.batch / len(self._source)
        point = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": window.loss,
            "accuracy": window.accuracy,
            "learning_rate": rate,
            "images_per_second": round(window.images_per_second, 2),
            "waiting": round(window.waiting, 4),
        }
        if math.isfinite(window.gradient_norm):  # float16 overflows, and skips the step.
            point["gradient_norm"] = window.gradient_norm
        self.history.add(point)
        self._board.write(step, {f"train/{name}": value for name, value in point.items() if name != "step"})
        self._tell(step, epoch, window, rate)
        self.log.point("progress", steps=self._total, **point)

    def _tell(self, step: int, epoch: float, window: Window, rate: float) -> None:
        tell = self._telemetry
        tell.add(telemetry.STEPS, window.steps)
        tell.add(telemetry.IMAGES, window.images)
        for activity, spent in window.seconds.items():
            tell.add(telemetry.SECONDS, spent, activity=activity)
        self._scores("train", window.loss, window.accuracy)
        tell.set(telemetry.STEP, step)
        tell.set(telemetry.EPOCH, epoch)
        tell.set(telemetry.RATE, rate)
        tell.set(telemetry.NORM, window.gradient_norm)
        for device, states in devices.memory().items():
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
        epoch = step * self._source.batch / len(self._source)
        seconds = (self._total - step) * self._source.batch / window.images_per_second
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
        self._board.write(step, {"validation/loss": loss, "validation/accuracy": accuracy})
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
        epoch, epochs = (math.ceil(done * self._source.batch / len(self._source)) for done in (step, self._total))
        return f"epoch {epoch}/{epochs}, step {step}/{self._total}"

    def finished(self, progress: Progress) -> None:
        """What came of the run, as far as it is known: one that only exports again has no loss."""
        point: dict[str, float] = {"step": progress.step}
        parts = [f"trained {progress.step} of {self._total} steps"]
        if self._loss is not None:
            point["loss"] = self._loss
            parts.append(f"loss {self._loss:.4f}")
        point["train_accuracy"] = progress.train_accuracy
        parts.append(f"train accuracy {progress.train_accuracy:.4f}")
        self.summary = f"step {progress.step}/{self._total}, {', '.join(parts[1:])}, done"
        if progress.best_step:
            point["validation_accuracy"] = progress.best_accuracy
            parts.append(f"validation accuracy {progress.best_accuracy:.4f} (step {progress.best_step})")
        if progress.images_per_second:
            point["images_per_second"] = progress.images_per_second
            parts.append(f"{progress.images_per_second:,.1f} images/s")
        self.log.line(", ".join(parts), **point)
        self._board.copy()
