"""Saves beside the loop: the loop waits for a copy of the state into host memory, a thread does the rest."""

import errno
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from boceto import storage, telemetry
from boceto.checkpoint import Commit, Progress
from boceto.errors import BocetoError
from boceto.telemetry import Telemetry
from boceto.tensors import Arrays
from trainer.checkpoints import Checkpoints, Damaged
from trainer.log import Log

# Errors that may pass: a full disk may be cleared, a storage may answer again.
PASSING = (OSError, MemoryError, storage.Unavailable, storage.Changed, Damaged)


def reason(error: BaseException) -> str:
    """Returns the reason of a failed save, one of `telemetry.SAVE_RESULTS`."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "disk_full"
    kinds = {Damaged: "damaged", MemoryError: "memory"}
    return next((name for kind, name in kinds.items() if isinstance(error, kind)), "storage")


class Variables(Protocol):
    """The variables of a run: `trainer.state.Variables`, which alone needs TensorFlow."""

    def buffers(self) -> dict[str, NDArray[Any]]:
        """Memory for `copy_to`."""

    def copy_to(self, arrays: Arrays) -> None:
        """Copies everything into `buffers`."""

    def restore(self, arrays: Arrays) -> None:
        """Sets everything from arrays."""


@dataclass
class TrainState:
    """All that a resumed run needs. A Saver writes it to a checkpoint, and `restore` reads it back.

    variables: weights, statistics, optimizer slots, EMA and loss scale. progress: step, best score, patience, ledger,
    running sums, the history's last line, and the wall time by activity.
    """

    variables: Variables
    progress: Progress = field(default_factory=Progress)

    def restore(self, commit: Commit, arrays: Arrays) -> None:
        """Sets everything from a checkpoint.

        Raises:
            DataError: an array is missing or has another shape.
        """
        self.variables.restore(arrays)
        self.progress = commit.progress


class SaveFailed(BocetoError):  # noqa: N818 - it says what happened
    """Too many saves in a row have failed."""


class Saver:
    """At most one save is under way; the next one waits for it.

    most_failed: saves in a row that may fail before the run ends.
    """

    def __init__(
        self, checkpoints: Checkpoints, state: TrainState, log: Log, telemetry: Telemetry, most_failed: int
    ) -> None:
        self._checkpoints = checkpoints
        self._state = state
        self._log = log
        self._telemetry = telemetry
        self._most_failed = most_failed
        self._failed = 0
        self.saved = state.progress.step  # The step of the newest checkpoint.
        self._arrays = state.variables.buffers()
        self._pool = ThreadPoolExecutor(1, "saver")
        self._under_way: tuple[Progress, Future[float]] | None = None
        self._missed: Progress | None = None

    def save(self) -> None:
        """Begins to save the state as it is now.

        Where the save of what is still the best step failed, its copy is saved first, since no later state makes up for
        it. While that fails, the state of now has to wait: it is not saved in this turn.

        Raises:
            SaveFailed: too many saves in a row have failed.
            BocetoError: what an earlier save found that no later one could mend.
        """
        progress = self._state.progress
        self.settle()
        if self._made_up(progress):
            self._state.variables.copy_to(self._arrays)
            self._begin(progress)

    def save_for_sure(self) -> None:
        """As `save`, and waits until it is durable."""
        progress = self._state.progress
        self.settle()
        while not self._made_up(progress):
            pass  # SaveFailed ends it.
        self._state.variables.copy_to(self._arrays)
        self._begin(progress)
        while not self.settle():
            self._begin(progress)

    def settle(self) -> bool:
        """Waits for the save under way; returns whether it went well, or there was none."""
        if not self._under_way:
            return True
        progress, future = self._under_way
        self._under_way = None
        try:
            seconds = future.result()
        except PASSING as error:
            self._telemetry.add(telemetry.SAVES, result=reason(error))
            self._missed = progress
            self._failed += 1
            self._telemetry.set(telemetry.FAILED_SAVES, self._failed, result=reason(error))
            what = f"the save of step {progress.step} failed: {error or type(error).__name__}"
            if self._failed >= self._most_failed:
                raise SaveFailed(
                    f"{what}; that is train.max_failed_saves = {self._most_failed} in a row; mend the storage and run "
                    "the same command again: it goes on from the newest checkpoint"
                ) from error
            self._log.alert(f"{what} ({self._failed} in a row); it is tried again")
            return False
        self._failed = 0
        self._missed = None
        self._saved(progress, seconds)
        self.saved = progress.step
        return True

    def poll(self) -> None:
        """Checks whether the save under way has ended; raises as `save` does."""
        if self._under_way and self._under_way[1].done():
            self.settle()

    def close(self) -> None:
        """Waits for the end of the save under way."""
        self._pool.shutdown(wait=True)

    def _made_up(self, progress: Progress) -> bool:
        """Returns whether the best step of `progress` is saved; a save of it that failed is tried again first."""
        if self._missed is None or self._missed.step != progress.best_step:
            return True
        self._begin(self._missed)
        return self.settle()

    def _begin(self, progress: Progress) -> None:
        self._under_way = progress, self._pool.submit(self._save, progress)

    def _save(self, progress: Progress) -> float:
        """Saves, and returns how many seconds that took."""
        started = time.monotonic()
        self._checkpoints.save(self._arrays, progress)
        return time.monotonic() - started

    def _saved(self, progress: Progress, seconds: float) -> None:
        tell = self._telemetry
        tell.add(telemetry.SAVES, result=telemetry.SAVED)
        for result in telemetry.FAILED_SAVES.labels["result"]:
            tell.set(telemetry.FAILED_SAVES, 0, result=result)
        tell.observe(telemetry.SAVE_SECONDS, seconds)
        tell.now(telemetry.CHECKPOINT)
        tell.set(telemetry.CHECKPOINT_STEP, progress.step)
        tell.set(telemetry.CHECKPOINT_BYTES, sum(array.nbytes for array in self._arrays.values()))
