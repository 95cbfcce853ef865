"""TensorBoard's curves."""

import contextlib
import importlib.util
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tensorflow as tf

from boceto import records, storage
from boceto.checkpoint import Progress
from boceto.errors import BocetoError
from trainer import devices
from trainer.report import VALIDATION

COPY_SECONDS = 30.0
SUFFIX = ".boceto.v2"  # Of our event files: what else lies in the folder, or behind a link, is somebody's own.


class TensorBoard:
    """Event files in `RUN/tensorboard`, where the package is there to define them; else nothing.

    They hold what was done up to `progress`, and then what is written. For a run in object storage they are written
    here and copied there every half minute and at the end. No run fails for its curves: `alert` is told.
    """

    def __init__(self, run: str, progress: Progress, alert: Callable[[str], None], *, wanted: bool) -> None:
        self._writer = None
        self._target = storage.join(run, "tensorboard")
        self._copied = time.monotonic()
        self._folder = ""
        self._alert = alert
        if wanted and importlib.util.find_spec("tensorboard"):
            with self._trying():
                cut(self._target, progress)
                self._writer = tf.summary.create_file_writer(self._local_folder(), filename_suffix=SUFFIX)

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError, BocetoError) as error:
            said = devices.said(error) if isinstance(error, tf.errors.OpError) else error
            self._alert(f"{self._target}: {said}; this session writes no more curves, and goes on without them")
            self._writer = None

    def _local_folder(self) -> str:
        if storage.is_local(self._target):
            return str(storage.local_folder(self._target))
        self._folder = tempfile.mkdtemp(prefix="boceto-tensorboard-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        if not self._writer:
            return
        with self._trying():
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()
            if time.monotonic() - self._copied >= COPY_SECONDS:
                self.copy()

    def copy(self) -> None:
        """Copies the events to where the run is, if that is not here; what fails is tried again the next time."""
        if self._folder:
            for entry in storage.list_files(self._folder):
                name = storage.relative(entry.url, self._folder)
                with contextlib.suppress(storage.Unavailable):
                    storage.upload(Path(entry.url), storage.join(self._target, name))
            self._copied = time.monotonic()


def cut(folder: str, progress: Progress) -> None:
    """Takes from our event files in `folder` what is not of what was done up to `progress`, and what is damaged.

    Steps that are done again would else be there twice, and TensorBoard reads a file up to its first damage.
    """
    for entry in storage.list_files(folder):
        if entry.url.endswith(SUFFIX):
            data = storage.read_bytes(entry.url)
            kept = b"".join(record for record in _frames(data) if _is_of(record, progress))
            if kept != data:
                storage.write_bytes(entry.url, kept)


def _frames(data: bytes) -> Iterator[bytes]:
    """The TFRecord frames of `data`, up to the first that is not whole."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        frame = data[at : at + size + records.FRAME_BYTES]
        if frame != records.frame(frame[12 : 12 + size]):
            return
        yield frame
        at += len(frame)


def _is_of(frame: bytes, progress: Progress) -> bool:
    event = tf.compat.v1.Event.FromString(frame[12:-4])
    tags = [value.tag for value in event.summary.value]
    return all(progress.covers(event.step, validation=tag.startswith(VALIDATION)) for tag in tags)
