"""The curves of a run for TensorBoard."""

import contextlib
import importlib.util
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from boceto import records, storage
from boceto.checkpoint import Progress
from boceto.errors import BocetoError
from trainer import devices
from trainer.report import FINISHED, TRAIN, VALIDATION, Event

COPY_SECONDS = 30.0
HYPERPARAMETERS = "_hparams_/"  # The prefix that TensorBoard's plugin gives them.
SUFFIX = ".boceto.v3"  # Of our event files. Other files in the folder, or behind a link, are left alone.


class TensorBoard:
    """A writer (`trainer.report`) of event files in `RUN/tensorboard/NAME/train` and `…/validation`, NAME the run's.

    A curve has the same name in both folders, so that TensorBoard draws one over the other. The hyperparameters stand
    beside them. The files hold the points up to `progress`, and then those that are written. For a run in object
    storage, they are written on this machine and copied there every half minute and at the end. No run fails for its
    curves: `alert` takes a warning. Without the package tensorboard, nothing is written.
    """

    def __init__(
        self,
        run: str,
        progress: Progress,
        alert: Callable[[str], None],
        *,
        hyperparameters: Mapping[str, bool | float | str],
        wanted: bool,
    ) -> None:
        self._writers: dict[str, Any] = {}
        self._on = False
        self._target = storage.join(run, "tensorboard", _name(run))
        self._copied = time.monotonic()
        self._folder = ""
        self._alert = alert
        if wanted and importlib.util.find_spec("tensorboard"):
            self._on = True
            with self._trying():
                cut(self._target, progress)
                self._root = self._local_folder()
                self._describe(hyperparameters)

    def _describe(self, hyperparameters: Mapping[str, bool | float | str]) -> None:
        """Writes the hyperparameters, unless an earlier session has written them."""
        from tensorboard.plugins.hparams import api

        if not any("/" not in _within(entry, self._target) for entry in _ours(self._target)):
            with self._writer("").as_default(step=0):
                api.hparams(dict(hyperparameters), trial_id=_name(self._target))
            self._writer("").flush()

    def _writer(self, folder: str) -> Any:
        if folder not in self._writers:
            path = str(Path(self._root, folder))
            self._writers[folder] = tf.summary.create_file_writer(path, filename_suffix=SUFFIX)
        return self._writers[folder]

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError, BocetoError) as error:
            why = devices.message(error) if isinstance(error, tf.errors.OpError) else error
            self._alert(f"{self._target}: {why}; this session writes no more curves, and goes on without them")
            self._on = False

    def _local_folder(self) -> str:
        if storage.is_local(self._target):
            return str(storage.local_folder(self._target))
        self._folder = tempfile.mkdtemp(prefix="boceto-tensorboard-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def __call__(self, event: Event) -> None:
        """Writes the points of a training or a validation."""
        if event.kind in {TRAIN, VALIDATION}:
            names = {name: name.removeprefix("validation_") for name in event.point if name != "step"}
            self.write(event.step, {f"{event.kind}/{curve}": event.point[name] for name, curve in names.items()})
        elif event.kind == FINISHED:
            self._copy()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point of each curve; a curve is named `train/…` or `validation/…`."""
        if not self._on:
            return
        with self._trying():
            for name, value in values.items():
                split, _, curve = name.partition("/")
                with self._writer(split).as_default(step=step):
                    tf.summary.scalar(curve, value)
            for writer in self._writers.values():
                writer.flush()
            if time.monotonic() - self._copied >= COPY_SECONDS:
                self._copy()

    def _copy(self) -> None:
        """Copies the event files to a run in object storage; a copy that fails is tried again the next time."""
        if self._folder:
            for entry in storage.list_files(self._folder):
                name = storage.relative(entry.url, self._folder)
                with contextlib.suppress(storage.Unavailable):
                    storage.upload(Path(entry.url), storage.join(self._target, name))
            self._copied = time.monotonic()


def cut(folder: str, progress: Progress) -> None:
    """Removes from our event files in `folder` the points that `progress` does not cover, and damaged records.

    Otherwise steps that are done again would stand there twice, and TensorBoard would stop at the first damage.
    """
    for entry in _ours(folder):
        data = storage.read_bytes(entry.url)
        validation = _within(entry, folder).startswith(VALIDATION)
        kept = b"".join(record for record in _frames(data) if _is_of(record, progress, validation=validation))
        if kept != data:
            storage.write_bytes(entry.url, kept)


def _ours(folder: str) -> list[storage.Entry]:
    return [entry for entry in storage.list_files(folder) if entry.url.endswith(SUFFIX)]


def _within(entry: storage.Entry, folder: str) -> str:
    return storage.relative(entry.url, folder)


def _name(url: str) -> str:
    """The last part of a folder's path."""
    path = str(storage.local_folder(url).resolve()) if storage.is_local(url) else url
    return path.rstrip("/").rpartition("/")[2] or "run"


def _frames(data: bytes) -> Iterator[bytes]:
    """The TFRecord frames of `data`, up to the first damaged one."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        frame = data[at : at + size + records.FRAME_BYTES]
        if frame != records.frame(frame[12 : 12 + size]):
            return
        yield frame
        at += len(frame)


def _is_of(frame: bytes, progress: Progress, *, validation: bool) -> bool:
    event = tf.compat.v1.Event.FromString(frame[12:-4])
    curves = [value for value in event.summary.value if not value.tag.startswith(HYPERPARAMETERS)]
    return not curves or progress.covers(event.step, validation=validation)
