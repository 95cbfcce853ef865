"""Contract 3, checkpoints: `RUN/checkpoints/<step>/` holds `arrays.npz` and, written last, `COMMIT`.

`COMMIT` is JSON: the files' sizes and crc32c, the step, the position in the data, the digests of data set and settings,
the settings that the mathematics depend on, and the progress of the run. A folder without it is no checkpoint.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boceto import contract, storage
from boceto.errors import DataError
from trainer.log import Log

FOLDER = "checkpoints"
ARRAYS = "arrays.npz"
COMMIT = "COMMIT"
FORMAT = "boceto-checkpoint"
VERSION = 1
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Progress:
    """Where a run stands, besides its arrays: the running epoch's sums, and what validation has seen."""

    step: int = 0
    epoch_right: int = 0
    epoch_records: int = 0
    train_accuracy: float = 0.0
    images_per_second: float = 0.0
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    validations_since_best: int = 0
    validated: int = 0


@dataclass(frozen=True)
class File:
    """The size in bytes and the crc32c (hex) of a file."""

    bytes: int
    crc32c: str


@dataclass(frozen=True)
class Commit:
    """What `COMMIT` says. `files` describes each file; `position` counts records."""

    files: Mapping[str, File]
    step: int
    position: int
    data_digest: str
    settings_digest: str
    settings: Mapping[str, Any]
    progress: Progress
    format: str = FORMAT
    version: int = VERSION


class _Checksummed:
    """Forwards writes and keeps their size and checksum. It cannot seek: zipfile then writes front to back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._crc = google_crc32c.Checksum()
        self._size = 0

    def write(self, data: bytes) -> int:
        self._crc.update(bytes(data))
        self._size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def entry(self) -> File:
        return File(self._size, self._crc.hexdigest().decode())


def settings_digest(settings: Mapping[str, Any]) -> str:
    """32 hexadecimal digits over the settings."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: str, data_digest: str, settings: Mapping[str, Any], batch: int, keep: int) -> None:
        self._folder = storage.join(run, FOLDER)
        self._data_digest = data_digest
        self._settings = settings
        self._batch = batch
        self._keep = keep

    def save(self, arrays: Arrays, progress: Progress) -> None:
        """Writes the checkpoint of `progress.step`, then removes all but the newest and the best.

        What lies beyond that step is removed too: it is of steps that are done again.

        Raises:
            DataError: a value is not finite: such a state would restore as a run that can only fail.
        """
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise DataError(f"step {progress.step}: {broken[0]} is not finite, so nothing was saved; {REMEDY}")
        folder = self._url(progress.step)
        with storage.writing(storage.join(folder, ARRAYS)) as file:
            checked = _Checksummed(file)
            _write_npz(checked, arrays)
        commit = Commit(
            {ARRAYS: checked.entry},
            progress.step,
            progress.step * self._batch,
            self._data_digest,
            settings_digest(self._settings),
            self._settings,
            progress,
        )
        storage.write_bytes(storage.join(folder, COMMIT), json.dumps(dataclasses.asdict(commit), indent=1).encode())
        self._prune(progress.step, progress.best_step)

    def newest(self, log: Log) -> tuple[Commit, dict[str, NDArray[Any]]] | None:
        """The newest whole checkpoint; None where the run has none at all. A damaged one is skipped with a warning.

        A single folder without COMMIT is what a kill in the run's first save leaves: nothing was saved yet.

        Raises:
            DataError: there are checkpoints, and none is whole.
        """
        steps = self._steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except DataError as error:
                log.alert(f"{error}; it is skipped")
        if len(steps) > 1 or self._committed(steps):
            raise DataError(
                f"{self._folder} has {len(steps)} checkpoints and none is whole; restore one from a backup, "
                "or start again in another --run"
            )
        return None

    def load(self, step: int) -> tuple[Commit, dict[str, NDArray[Any]]]:
        """The checkpoint of one step.

        Raises:
            DataError: it is torn, damaged, or of another version.
        """
        folder = self._url(step)
        try:
            commit = _parse(storage.read_bytes(storage.join(folder, COMMIT)), step)
        except FileNotFoundError as error:
            raise DataError(f"{folder} is torn: it has no {COMMIT}") from error
        except ValueError as error:
            raise DataError(f"{folder}/{COMMIT} is damaged: {error}") from error
        path = storage.join(folder, ARRAYS)
        try:
            _verify(path, commit.files[ARRAYS])
            with storage.open_file(path) as file, np.load(file, allow_pickle=False) as arrays:
                return commit, dict(arrays)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged: {error}") from error

    def _committed(self, steps: list[int]) -> bool:
        return any(storage.exists(storage.join(self._url(step), COMMIT)) for step in steps)

    def _url(self, step: int) -> str:
        return storage.join(self._folder, f"{step:010}")

    def _files(self) -> dict[int, list[str]]:
        """The files of each step's folder, by step."""
        found: dict[int, list[str]] = {}
        for entry in storage.list_files(self._folder):
            step = storage.relative(entry.url, self._folder).partition("/")[0]
            if step.isdecimal():
                found.setdefault(int(step), []).append(entry.url)
        return found

    def _steps(self) -> list[int]:
        """The steps that were saved, whole or not. What only has the beginning of a file was never saved."""
        whole = (ARRAYS, COMMIT)
        return sorted(step for step, urls in self._files().items() if any(url.endswith(whole) for url in urls))

    def _prune(self, saved: int, best: int) -> None:
        files = self._files()
        kept = {*sorted(step for step in files if step <= saved)[-self._keep :], best}
        for step in files.keys() - kept:
            # COMMIT goes first: what is half removed is torn, never wrong.
            storage.delete(storage.join(self._url(step), COMMIT))
            storage.delete_folder(self._url(step))


REMEDY = "try a lower --learning-rate, --warmup-steps, --clip-norm 1, or --precision float32"


def _write_npz(file: _Checksummed, arrays: Arrays) -> None:
    """What np.savez writes, which itself refuses a file that it cannot seek in."""
    with zipfile.ZipFile(file, "w") as archive:  # type: ignore[call-overload]  # needs only write and flush
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())  # An entry so made bears no date.


def _verify(path: str, entry: File) -> None:
    data = storage.buffer(path)
    if len(data) != entry.bytes:
        raise ValueError(f"it has {len(data)} bytes, its {COMMIT} says {entry.bytes}")
    if storage.crc32c(data) != entry.crc32c:
        raise ValueError(f"its checksum is not its {COMMIT}'s")


def _parse(text: bytes, step: int) -> Commit:
    commit = contract.read(Commit, contract.parse(text, FORMAT, VERSION))
    if (commit.step, commit.progress.step) != (step, step):
        raise ValueError(f"it is of step {commit.step} and progress.step {commit.progress.step}, not {step}")
    if ARRAYS not in commit.files:
        raise ValueError(f"files has no {ARRAYS}")
    return commit
