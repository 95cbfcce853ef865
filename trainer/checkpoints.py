"""Writes, prunes and finds the checkpoints of one run (`boceto.checkpoint`)."""

import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, checkpoint, lease, storage, tensors
from boceto import run as runs
from boceto.checkpoint import COMMIT, ArraysFile, Commit, Progress
from boceto.errors import BocetoError, DataError
from boceto.tensors import Arrays
from trainer.log import Log
from trainer.settings import Settings, check_same

BACK = "put the checkpoints back from a backup, or start again in another --run, or remove the whole run folder"
REMEDY = "try a lower --learning-rate, --warmup-steps, --clip-norm 1, or --precision float32"


class NotFinite(DataError):  # noqa: N818 - the name of a state
    """A loss or a weight is not a finite number."""


class Damaged(BocetoError):  # noqa: N818 - the name of a state
    """A file does not read back as it was written."""


def newest_whole(run: str, alert: Callable[[str], None]) -> tuple[Commit, Arrays] | None:
    """Returns the newest whole checkpoint of a run; None where it has none, or only the torn one of a first save.

    It reports each checkpoint that it skips to `alert`, and changes nothing.

    Raises:
        DataError: there are checkpoints, and none is whole; or there is none, and the run has had one.
    """
    files = _begun(run)
    for step in reversed(files):
        try:
            return checkpoint.load(run, step)
        except DataError as error:
            alert(f"{error}; it is skipped")
    if len(files) > 1 or any(map(checkpoint.is_committed, files.values())):
        raise DataError(
            f"{storage.join(run, checkpoint.FOLDER)} has {len(files)} checkpoints and none is whole; {BACK}"
        )
    if trace := _trace(run):
        raise DataError(f"{storage.join(run, checkpoint.FOLDER)} has no whole checkpoint, but {trace}; {BACK}")
    return None


def _trace(run: str) -> str:
    """Returns in words which file shows that the run has had a checkpoint; "" where none does.

    A torn checkpoint is no loss in the first save of a run, and a loss later.
    """
    described = runs.read(run)
    if (described or {}).get("result"):
        return f"{runs.DESCRIPTION} says that the run was finished"
    if steps := (described or {}).get("checkpoints"):
        return f"{runs.DESCRIPTION} says that step {steps[-1]} was saved"
    holder, _ = lease.read(storage.join(run, lease.NAME))
    if holder and holder.heartbeat.saved:
        return f"{lease.NAME} says that step {holder.heartbeat.saved} was saved"
    if storage.exists(storage.join(run, artefact.FOLDER, artefact.DESCRIPTION)):
        return f"{artefact.FOLDER}/ holds what it exported"
    if described is None and storage.exists(storage.join(run, runs.HISTORY)):  # It is written later than run.json.
        return f"{runs.HISTORY} is there, and {runs.DESCRIPTION} is gone too"
    return ""


def _begun(run: str) -> dict[int, list[str]]:
    """The files by step, of the steps that have a file of ours that was not cut off."""
    return {
        step: urls
        for step, urls in checkpoint.files(run).items()
        if any(checkpoint.is_own(url) and not url.endswith(".partial") for url in urls)
    }


def check_fits(commit: Commit, data_digest: str, settings: Settings) -> None:
    """Refuses to go on from a checkpoint of other data or other hyperparameters.

    Raises:
        DataError: it is of another data set.
        SettingsError: it was trained with another hyperparameter.
    """
    if commit.data_digest != data_digest:
        raise DataError(
            f"{settings.run} was trained on data with the digest {commit.data_digest}, {settings.data} has "
            f"{data_digest}; give the old --data, or another --run"
        )
    check_same(commit.settings, settings)


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    settings: the hyperparameters. keep, keep_every: the newest `keep` stay, those whose step is a multiple of
    `keep_every` (0: none), and the best. confirm: raises where another trainer has taken the run. note: is called with
    the steps of the checkpoints that stay, before the others are removed. alert: takes warnings.
    """

    run: str
    data_digest: str
    settings: Mapping[str, Any]
    batch_size: int
    keep: int
    keep_every: int = 0
    confirm: Callable[[], None] = lambda: None
    note: Callable[[list[int]], None] = lambda _: None
    alert: Callable[[str], None] = lambda _: None
    _foreign: set[int] = field(default_factory=set)  # Steps whose foreign files have been reported.
    _token: str = field(default_factory=lambda: secrets.token_hex(4))

    def save(self, arrays: Arrays, progress: Progress) -> None:
        """Writes the checkpoint of `progress.step`, reads it back, and then removes the checkpoints that do not stay.

        Checkpoints of later steps are removed too: their steps are done again.

        Raises:
            NotFinite: a value is not finite. A run that went on from it could only fail.
            Damaged: it does not read back as it was written; all earlier checkpoints are still there.
        """
        broken = [name for name, array in arrays.items() if not _is_finite(array)]
        if broken:
            raise NotFinite(f"step {progress.step}: {broken[0]} is not finite, so nothing was saved; {REMEDY}")
        folder = checkpoint.folder_of(self.run, progress.step)
        name = f"arrays-{self._token}.safetensors"
        try:
            written = self._write(storage.join(folder, name), arrays)
            commit = Commit(
                ArraysFile(name, *written),
                progress.step,
                progress.step * self.batch_size,
                self.data_digest,
                checkpoint.settings_digest(self.settings),
                self.settings,
                progress,
            )
            self.confirm()
            self._commit(storage.join(folder, COMMIT), commit.to_json())
        except BaseException:
            with contextlib.suppress(Exception):
                if not storage.exists(storage.join(folder, COMMIT)):
                    storage.delete(storage.join(folder, name))
            raise
        self.confirm()
        self._prune(progress.step, name, progress.best_step)

    @staticmethod
    def _write(path: str, arrays: Arrays) -> tuple[int, str]:
        """-> (bytes, crc32c) as they were written, and as they read."""
        with storage.writing(path) as file:
            written = tensors.write(file, arrays)
        found = storage.checksum(path)
        if found != written:
            raise Damaged(f"{path} was written as {written} and reads as {found} (bytes, crc32c); is the disk sound?")
        return written

    def _commit(self, path: str, text: bytes) -> None:
        try:
            storage.create_bytes(path, text)
        except FileExistsError:
            # The run is ours: this COMMIT is a damaged one that restoring skipped, or of a trainer before us.
            self.confirm()
            storage.replace_bytes(path, text, storage.read_versioned(path)[1])
        if storage.read_bytes(path) != text:
            raise Damaged(f"{path} does not read as it was written; is the disk sound?")

    def newest(self, log: Log) -> tuple[Commit, Arrays] | None:
        """Returns the newest whole checkpoint, as `newest_whole`; None where the run has none at all.

        A single folder without COMMIT is what a kill in the first save of the run leaves. It is removed, so that a
        second kill in a first save, of another step, leaves a single folder again.

        Raises:
            DataError: there are checkpoints, and none is whole.
        """
        found = newest_whole(self.run, log.alert)
        if not found:
            for step, urls in _begun(self.run).items():
                self.confirm()
                self._remove(step, urls)
        return found

    def _prune(self, saved: int, name: str, best: int) -> None:
        files = checkpoint.files(self.run)
        earlier = [step for step, urls in files.items() if step <= saved and checkpoint.is_committed(urls)]
        every = {step for step in earlier if self.keep_every and step % self.keep_every == 0}
        kept = {*earlier[-self.keep :], *every, best} & {*earlier}
        self.note(sorted(kept))
        for step in files.keys() - kept:
            self._remove(step, files[step])
        for url in files.get(saved, []):
            if checkpoint.is_own(url) and not url.endswith((f"/{name}", f"/{COMMIT}")):
                storage.delete(url)  # Of a save of the same step that was cut off.

    def _remove(self, step: int, urls: list[str]) -> None:
        """Removes a checkpoint, COMMIT first: half removed, it is torn and never wrong. Foreign files stay."""
        folder = checkpoint.folder_of(self.run, step)
        storage.delete(storage.join(folder, COMMIT))
        foreign = [url for url in urls if not checkpoint.is_own(url)]
        if not foreign:
            storage.delete_folder(folder)
            return
        for url in set(urls) - set(foreign):
            storage.delete(url)
        if step not in self._foreign:
            self._foreign.add(step)
            self.alert(f"{foreign[0]} is no file of Boceto's: it stays, its checkpoint is removed")


def _is_finite(array: NDArray[Any]) -> bool:
    """Returns whether all values are finite. A NaN makes the sum NaN, so one sum decides nearly always."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())  # A sum of large values may overflow.
