"""Tells people, the history, TensorBoard and Prometheus how a run goes."""

import contextlib
import importlib
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from boceto import storage
from boceto.console import clock_time
from boceto.run import History
from boceto.telemetry import Telemetry
from trainer.batches import Source
from trainer.log import Log
from trainer.meter import Window


class TensorBoard:
    """Event files in `RUN/tensorboard`, where the package is there to define them; else nothing."""

    def __init__(self, run: str, *, wanted: bool) -> None:
        self._writer = None
        with contextlib.suppress(ImportError):
            if wanted:
                importlib.import_module("tensorboard")

                self._writer = tf.summary.create_file_writer(
                    str(storage.local_folder(storage.join(run, "tensorboard")))
                )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        if self._writer:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()


class Report:
    """One log point goes to all of them."""

    def __init__(  # noqa: PLR0913, PLR0917 - those it tells
        self, log: Log, history: History, board: TensorBoard, telemetry: Telemetry, source: Source, total: int
    ) -> None:
        self.log = log
        self.history = history
        self._board = board
        self._telemetry = telemetry
        self._source = source
        self._total = total
        self._began = time.monotonic()

    def window(self, step: int, window: Window, rate: float) -> None:
        """What happened up to `step`, whose learning rate was `rate`."""
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
        self.history.add(point)
        self._board.write(step, {f"train/{name}": value for name, value in point.items() if name != "step"})
        self._telemetry.steps(window.steps, window.images, window.seconds)
        self._telemetry.scores("train", window.loss, window.accuracy)
        self._telemetry.state(epoch, rate)
        self.log.point("progress", **point)

    def progress(self, step: int, window: Window) -> None:
        """How far things are; the console shows it from time to time."""
        epoch = step * self._source.batch / len(self._source)
        seconds = (self._total - step) * self._source.batch / window.images_per_second if window.timed else 0.0
        left = clock_time(seconds) if window.timed else "unknown time"
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
        self._telemetry.scores("validation", loss, accuracy)
        text = f"validation after step {step}: loss {loss:.4f}, accuracy {accuracy:.4f}"
        self.log.line(text + (", the best so far" if best else ""), **point)
