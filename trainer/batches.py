"""The records of a run, and their batches, which threads read ahead of the loop."""

import collections
import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from boceto import holdout, ledger
from boceto.dataset import DataSet, Split
from boceto.environment import alive
from boceto.errors import BocetoError, SettingsError
from trainer import order, redraw
from trainer.settings import Settings

PREFETCHED = 2  # Executions read ahead, besides one a thread.
P = TypeVar("P")


class StepRange(NamedTuple):
    """The steps `first` to `last` (not included) of one execution of the compiled function."""

    first: int
    last: int


class Batches(NamedTuple):
    """K batches of B records: images uint8[K, B, H, W, C], labels int64[K, B], augmentation parameters
    float32[K, B, D]; and the digests of the keys of each batch (`boceto.ledger`).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    augmentation: NDArray[np.float32]
    digests: Sequence[bytes] = ()


@dataclass(frozen=True)
class TrainingSet:
    """The training records of a run: the records `numbers` int64[N] of `split`, or all where that is None.

    batch_size: records a step. augmentation: D, the number of random parameters of a record. redrawer: draws the
    records anew; None: they are read as they are.
    """

    split: Split
    numbers: NDArray[np.int64] | None
    seed: int
    batch_size: int
    augmentation: int = 0
    redrawer: redraw.Redrawer | None = None

    def __len__(self) -> int:
        return len(self.split) if self.numbers is None else len(self.numbers)

    def epoch(self, step: int) -> int:
        """Returns the epoch of the first record of `step`; both count from 0."""
        return step * self.batch_size // len(self)

    def ends_epoch(self, step: int) -> bool:
        """Returns whether step `step` uses the last record of an epoch."""
        return self.epoch(step + 1) > self.epoch(step)

    def steps(self, epochs: int) -> int:
        """Returns the steps of so many epochs; the last step is filled up with records of the next epoch."""
        return -(-epochs * len(self) // self.batch_size)

    def read(self, steps: StepRange) -> Batches:
        """Reads the batches of these steps: a pure function of the seed and the steps."""
        epochs, rows = order.rows(self.seed, steps.first * self.batch_size, steps.last * self.batch_size, len(self))
        records = rows if self.numbers is None else self.numbers[rows]
        shape = (steps.last - steps.first, self.batch_size)
        images = self._images(epochs, records)
        # TensorFlow keeps int32 in host memory, from where a GPU would have to fetch it in each step.
        labels = self.split.labels[records].astype(np.int64)
        augmentation = order.uniform(self.seed, epochs, records, self.augmentation)
        keys = list(self.split.keys(records.tolist()))
        digests = [ledger.digest(keys[at : at + self.batch_size]) for at in range(0, len(keys), self.batch_size)]
        images = images.reshape(*shape, *images.shape[1:])
        return Batches(images, labels.reshape(shape), augmentation.reshape(*shape, -1), digests)

    def _images(self, epochs: NDArray[np.int64], records: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self.redrawer is None:
            return self.split.images(records)
        keys = order.draws(self.seed, epochs, records, 1, "stroke")[:, 0]
        return self.redrawer.draw(self.split.inks(records), keys)


def step_ranges(first: int, last: int, most: int, ends: Callable[[int], bool] = lambda _: False) -> Iterator[StepRange]:
    """Cuts the steps `first` to `last` into ranges of at most `most`; a range ends after a step where `ends(step)`."""
    start = first
    for step in range(first, last):
        if step + 1 == last or step + 1 - start == most or ends(step):
            yield StepRange(start, step + 1)
            start = step + 1


def prefetch(
    ranges: Iterable[StepRange],
    read: Callable[[StepRange], P],
    threads: int,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[tuple[StepRange, P], None, None]:
    """Yields each range with what `read` returns for it, in order; `threads` threads read ahead.

    It waits for a thread within `waiting()`. An error of `read` is raised in the turn of its range. When it is closed,
    its threads end.

    Raises:
        BocetoError: there is too little memory.
    """
    pending: collections.deque[tuple[StepRange, Future[P]]] = collections.deque()
    ranges, pool = iter(ranges), ThreadPoolExecutor(threads, "reader")
    try:
        while True:
            while len(pending) < threads + PREFETCHED and (steps := next(ranges, None)):
                with _enough_memory(steps, threads, RuntimeError):  # No thread can be started.
                    pending.append((steps, pool.submit(read, steps)))
            if not pending:
                return
            steps, future = pending.popleft()
            with waiting(), _enough_memory(steps, threads, MemoryError):
                result = future.result()
            alive()
            yield steps, result
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _enough_memory(steps: StepRange, threads: int, lack: type[Exception]) -> Iterator[None]:
    """Turns the error `lack` of the block into words."""
    try:
        yield
    except lack as error:
        raise BocetoError(
            f"fault: too little memory to read the records of step {steps.first + 1} with {threads} threads; "
            "give it more, or run the same command again with fewer --readers or --steps-per-execution"
        ) from error


@dataclass(frozen=True)
class ValidationSet:
    """The records held for validation: `numbers` int64[N] of `split`."""

    split: Split
    numbers: NDArray[np.int64]


def divide(data: DataSet, settings: Settings, augmentation: int) -> tuple[TrainingSet, ValidationSet | None]:
    """Divides the data set into records to train on and, or None, records to validate on.

    augmentation: the number of random parameters of a record.

    Raises:
        SettingsError: one of the two would have no record, or the records have no strokes to augment.
        DataError: the data set is damaged.
    """
    split, validation_set, numbers = data.split("train", verify=settings.verify), None, None
    info = data.manifest.splits.get("validation")
    if settings.validation_share:
        held = holdout.held_out(settings.seed, settings.validation_share, split.keys(range(len(split))))
        numbers, validation_set = np.flatnonzero(~held), ValidationSet(split, np.flatnonzero(held))
        if not len(numbers) or not len(validation_set.numbers):
            raise SettingsError(
                f"train.validation_share = {settings.validation_share} of {len(split)} records leaves none on one "
                "side; use another share"
            )
    elif settings.validate_every and info and info.records:
        validation = data.split("validation", verify=settings.verify)
        validation_set = ValidationSet(validation, np.arange(len(validation)))
    redrawer = redraw.of_settings(settings, split)
    return TrainingSet(split, numbers, settings.seed, settings.batch_size, augmentation, redrawer), validation_set
