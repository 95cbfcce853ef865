"""Writes, prunes and finds the checkpoints of one run (`boceto.checkpoint`)."""

import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, checkpoint, lease, storage, tensors
from boceto import run as runs
from boceto.checkpoint import COMMIT, Commit, File, Progress
from boceto.errors import BocetoError, DataError
from boceto.tensors import Arrays
from trainer.log import Log
from trainer.settings import Settings, check_same

BACK = "put the checkpoints back from a backup, or start again in another --run, or remove the whole run folder"
REMEDY = "try a lower --learning-rate, --warmup-steps, --clip-norm 1, or --precision float32"


class NotFinite(DataError):  # noqa: N818 - it says what was found
    """A loss or a weight is not a finite number."""


class Damaged(BocetoError):  # noqa: N818 - it says what was found
    """What was written does not read back as it was."""


def newest_whole(run: str, alert: Callable[[str], None]) -> tuple[Commit, Arrays] | None:
    """The newest whole checkpoint of a run; None where it has none at all, or only the torn one of a first save.

    Tells of each that is skipped. Changes nothing.

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
    if had := _has_had_one(run):
        raise DataError(f"{storage.join(run, checkpoint.FOLDER)} has no whole checkpoint, but {had}; {BACK}")
    return None


def _has_had_one(run: str) -> str:
    """What says that the run has had a checkpoint, or "". A torn one in a first save is no loss, the same later is."""
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
    if described is None and storage.exists(storage.join(run, runs.HISTORY)):  # Which is written later than run.json.
        return f"{runs.HISTORY} is there, and {runs.DESCRIPTION} is gone too"
    return ""


def _begun(run: str) -> dict[int, list[str]]:
    """The files of each step, by step, without steps that hold nothing, or cut off or foreign files only."""
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


class Checkpoints:
    """The checkpoints of one run.

    data_digest, settings: what they belong to. batch: records a step. keep, keep_every: the newest `keep` stay, those
    whose step is a multiple of `keep_every` (0: none), and the best. confirm: raises where the run is no longer ours.
    note: is called with the steps of those that stay, before the others go. alert: reports what is not as it should be.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a COMMIT says, and what is kept
        self,
        run: str,
        data_digest: str,
        settings: Mapping[str, Any],
        batch: int,
        keep: int,
        keep_every: int = 0,
        confirm: Callable[[], None] = lambda: None,
        note: Callable[[list[int]], None] = lambda _: None,
        alert: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run = run
        self._data_digest = data_digest
        self._settings = settings
        self._batch = batch
        self._keep = keep
        self._keep_every = keep_every
        self._confirm = confirm
        self._note = note
        self._alert = alert
        self._foreign: set[int] = set()  # Steps whose foreign files have been reported.
        self._token = secrets.token_hex(4)

    def save(self, arrays: Arrays, progress: Progress) -> None:
        """Writes the checkpoint of `progress.step`, reads it back, and only then removes what is not kept.

        What lies beyond that step is removed too: it is of steps that are done again.

        Raises:
            NotFinite: a value is not finite: such a state would restore as a run that can only fail.
            Damaged: it does not read back as it was written; all that was there is still there.
        """
        broken = [name for name, array in arrays.items() if not _is_finite(array)]
        if broken:
            raise NotFinite(f"step {progress.step}: {broken[0]} is not finite, so nothing was saved; {REMEDY}")
        folder = checkpoint.folder_of(self._run, progress.step)
        name = f"arrays-{self._token}.safetensors"
        try:
            written = self._write(storage.join(folder, name), arrays)
            commit = Commit(
                File(name, *written),
                progress.step,
                progress.step * self._batch,
                self._data_digest,
                checkpoint.settings_digest(self._settings),
                self._settings,
                progress,
            )
            self._confirm()
            self._commit(storage.join(folder, COMMIT), commit.to_json())
        except BaseException:
            with contextlib.suppress(Exception):
                if not storage.exists(storage.join(folder, COMMIT)):
                    storage.delete(storage.join(folder, name))
            raise
        self._confirm()
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
            # The run is ours: this is a damaged one that restoring skipped, or of one that had the run before us.
            self._confirm()
            storage.replace_bytes(path, text, storage.read_versioned(path)[1])
        if storage.read_bytes(path) != text:
            raise Damaged(f"{path} does not read as it was written; is the disk sound?")

    def newest(self, log: Log) -> tuple[Commit, Arrays] | None:
        """The newest whole checkpoint; None where the run has none at all. One that is not whole is skipped and told.

        A single folder without COMMIT is what a kill in the run's first save leaves: nothing was saved yet. It is
        removed, so that a second kill in a first save, of another step, leaves a single one again.

        Raises:
            DataError: there are checkpoints, and none is whole.
        """
        found = newest_whole(self._run, log.alert)
        if not found:
            for step, urls in _begun(self._run).items():
                self._confirm()
                self._remove(step, urls)
        return found

    def load(self, step: int) -> tuple[Commit, Arrays]:
        """The checkpoint of one step.

        Raises:
            DataError: it is torn, damaged, or of another version.
        """
        return checkpoint.load(self._run, step)

    def _prune(self, saved: int, name: str, best: int) -> None:
        files = checkpoint.files(self._run)
        earlier = [step for step, urls in files.items() if step <= saved and checkpoint.is_committed(urls)]
        every = {step for step in earlier if self._keep_every and step % self._keep_every == 0}
        kept = {*earlier[-self._keep :], *every, best} & {*earlier}
        self._note(sorted(kept))
        for step in files.keys() - kept:
            self._remove(step, files[step])
        for url in files.get(saved, []):
            if checkpoint.is_own(url) and not url.endswith((f"/{name}", f"/{COMMIT}")):
                storage.delete(url)  # Of a save of the same step that was cut off.

    def _remove(self, step: int, urls: list[str]) -> None:
        """Removes a checkpoint. COMMIT goes first: what is half removed is torn, never wrong. Foreign files stay."""
        folder = checkpoint.folder_of(self._run, step)
        storage.delete(storage.join(folder, COMMIT))
        foreign = [url for url in urls if not checkpoint.is_own(url)]
        if not foreign:
            storage.delete_folder(folder)
            return
        for url in set(urls) - set(foreign):
            storage.delete(url)
        if step not in self._foreign:
            self._foreign.add(step)
            self._alert(f"{foreign[0]} is no file of Boceto's: it stays, its checkpoint is removed")


def _is_finite(array: NDArray[Any]) -> bool:
    """Returns whether all values are finite. A NaN makes the sum NaN, so one sum decides nearly always."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())  # A sum of large values may overflow.
