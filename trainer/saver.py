"""Saves checkpoints beside the loop: the loop waits for a copy of the state into host memory, a thread writes it."""

import errno
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boceto import storage, telemetry
from boceto.checkpoint import Commit, Progress
from boceto.errors import BocetoError
from boceto.telemetry import Telemetry
from boceto.tensors import Arrays
from trainer.checkpoints import Checkpoints, Damaged
from trainer.log import Log

if TYPE_CHECKING:
    from trainer.state import Variables

# Errors that may pass: a full disk may be cleared, a storage may answer again.
PASSING = (OSError, MemoryError, storage.Unavailable, storage.Changed, Damaged)


def reason(error: BaseException) -> str:
    """Returns the reason of a failed save, one of `telemetry.SAVE_RESULTS`."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "disk_full"
    kinds = {Damaged: "damaged", MemoryError: "memory"}
    return next((name for kind, name in kinds.items() if isinstance(error, kind)), "storage")


@dataclass
class TrainState:
    """All that a resumed run needs. A Saver writes it to a checkpoint, and `restore` reads it back.

    variables: weights, statistics, optimizer slots, EMA and loss scale. progress: step, best score, patience, ledger,
    running sums, the history's last line, and the wall time by activity.
    """

    variables: "Variables"
    progress: Progress = field(default_factory=Progress)

    def restore(self, commit: Commit, arrays: Arrays) -> None:
        """Sets everything from a checkpoint.

        Raises:
            DataError: an array is missing or has another shape.
        """
        self.variables.restore(arrays)
        self.progress = commit.progress


class SaveFailed(BocetoError):  # noqa: N818 - a name of what happened
    """Too many saves in a row have failed."""


class Saver:
    """Saves the state of a run. At most one save is under way; the next save waits for it.

    most_failed: saves in a row that may fail before the run ends. saved: the step of the newest checkpoint.
    """

    def __init__(
        self, checkpoints: Checkpoints, state: TrainState, log: Log, telemetry: Telemetry, most_failed: int
    ) -> None:
        self.saved = state.progress.step
        self._checkpoints = checkpoints
        self._state = state
        self._log = log
        self._telemetry = telemetry
        self._most_failed = most_failed
        self._failed = 0  # Saves in a row.
        self._arrays = state.variables.buffers()
        self._pool = ThreadPoolExecutor(1, "saver")
        self._under_way: tuple[Progress, Future[float]] | None = None
        self._missed: Progress | None = None  # Of the last save that failed; its arrays are still in the buffers.

    def save(self, *, wait: bool = False) -> None:
        """Begins to save the state as it is now; `wait` waits until it is durable.

        Where the save of the best step failed, its copy is saved first, since no later state makes up for it. If that
        fails again, the state of now is not saved, unless `wait` is true.

        Raises:
            SaveFailed: too many saves in a row have failed.
            BocetoError: an earlier save failed for a reason that does not pass.
        """
        progress = self._state.progress
        self.settle()
        while self._missed and self._missed.step == progress.best_step:
            self._begin(self._missed)
            if not self.settle() and not wait:
                return
        self._state.variables.copy_to(self._arrays)
        self._begin(progress)
        while wait and not self.settle():
            self._begin(progress)

    def settle(self) -> bool:
        """Waits for the save under way; returns False where it failed. It raises as `save` does."""
        if not self._under_way:
            return True
        progress, future = self._under_way
        self._under_way = None
        try:
            seconds = future.result()
        except PASSING as error:
            self._missed = progress
            self._failed += 1
            self._telemetry.add(telemetry.SAVES, result=reason(error))
            self._telemetry.set(telemetry.FAILED_SAVES, self._failed, result=reason(error))
            what = f"the save of step {progress.step} failed: {error or type(error).__name__}"
            if self._failed >= self._most_failed:
                raise SaveFailed(
                    f"{what}; that is train.max_failed_saves = {self._most_failed} in a row; mend the storage and run "
                    "the same command again: it goes on from the newest checkpoint"
                ) from error
            self._log.alert(f"{what} ({self._failed} in a row); it is tried again")
            return False
        self._failed, self._missed, self.saved = 0, None, progress.step
        self._report(progress.step, seconds)
        return True

    def poll(self) -> None:
        """Settles the save under way if it has ended. It raises as `save` does."""
        if self._under_way and self._under_way[1].done():
            self.settle()

    def close(self) -> None:
        """Waits for the end of the save under way."""
        self._pool.shutdown(wait=True)

    def _begin(self, progress: Progress) -> None:
        self._under_way = progress, self._pool.submit(self._save, progress)

    def _save(self, progress: Progress) -> float:
        """Returns the seconds that the save took."""
        started = time.monotonic()
        self._checkpoints.save(self._arrays, progress)
        return time.monotonic() - started

    def _report(self, step: int, seconds: float) -> None:
        self._telemetry.add(telemetry.SAVES, result=telemetry.SAVED)
        for result in telemetry.FAILED_SAVES.labels["result"]:
            self._telemetry.set(telemetry.FAILED_SAVES, 0, result=result)
        self._telemetry.observe(telemetry.SAVE_SECONDS, seconds)
        self._telemetry.now(telemetry.CHECKPOINT)
        self._telemetry.set(telemetry.CHECKPOINT_STEP, step)
        self._telemetry.set(telemetry.CHECKPOINT_BYTES, sum(array.nbytes for array in self._arrays.values()))
