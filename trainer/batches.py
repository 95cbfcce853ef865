"""Reads the batches of a run ahead of the loop, in threads, and measures how long the loop waits for them."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from boceto import holdout, ledger
from boceto.dataset import DataSet, Split
from boceto.environment import alive
from boceto.errors import BocetoError
from trainer import order
from trainer.settings import Settings

PREFETCHED = 2  # Calls read ahead, besides one a thread.
P = TypeVar("P")


class StepRange(NamedTuple):
    """The steps `first` to `last` (not included), which one execution of the compiled function does."""

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
    """The training records of a run: `numbers` int64[N] are those of `split` in their order, or None for all."""

    split: Split
    numbers: NDArray[np.int64] | None
    seed: int
    batch: int
    augmentation: int = 0

    def __len__(self) -> int:
        return len(self.split) if self.numbers is None else len(self.numbers)

    def epoch(self, step: int) -> int:
        """The epoch that the first record of `step` belongs to."""
        return step * self.batch // len(self)

    def ends_epoch(self, step: int) -> bool:
        """Whether step `step` uses the last record of an epoch."""
        return self.epoch(step + 1) > self.epoch(step)

    def steps(self, epochs: int) -> int:
        """The steps that use every record in each of `epochs`; the last one's rest is the next epoch's first."""
        return -(-epochs * len(self) // self.batch)

    def read(self, steps: StepRange) -> Batches:
        """Reads the batches of these steps: a pure function of the seed and the steps."""
        epochs, rows = order.rows(self.seed, steps.first * self.batch, steps.last * self.batch, len(self))
        records = rows if self.numbers is None else self.numbers[rows]
        shape = (steps.last - steps.first, self.batch)
        images = self.split.images(records)
        # TensorFlow keeps int32 in the host's memory, where a GPU would have to fetch it in every step.
        labels = self.split.labels[records].astype(np.int64)
        augmentation = order.uniform(self.seed, epochs, records, self.augmentation)
        keys = self.split.keys(records.tolist())
        digests = [ledger.digest(keys[at : at + self.batch]) for at in range(0, len(keys), self.batch)]
        images = images.reshape(*shape, *images.shape[1:])
        return Batches(images, labels.reshape(shape), augmentation.reshape(*shape, -1), digests)


def step_ranges(first: int, last: int, most: int, ends: Callable[[int], bool]) -> Iterator[StepRange]:
    """Cuts the steps `first` to `last` into ranges of at most `most`; a range ends after a step where `ends(step)`."""
    start = first
    for step in range(first, last):
        if step + 1 == last or step + 1 - start == most or ends(step):
            yield StepRange(start, step + 1)
            start = step + 1


class NoMemory(BocetoError):  # noqa: N818 - it says what there is
    """There is too little memory to read ahead."""


class Prefetch(Generic[P]):
    """Iterates over the results of `read` for all `ranges`, in order, with `threads` reading ahead. What a thread
    raises is raised here, in its turn.

    waited: seconds the loop has waited for data so far; it waits inside of `waiting()`.
    """

    def __init__(
        self,
        ranges: Iterable[StepRange],
        read: Callable[[StepRange], P],
        threads: int,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._ranges = iter(ranges)
        self._read = read
        self._threads = threads
        self._waiting = waiting
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[StepRange, P]]:
        pending: collections.deque[tuple[StepRange, Future[P]]] = collections.deque()
        pool = ThreadPoolExecutor(self._threads, "reader")
        try:
            while True:
                while len(pending) < self._threads + PREFETCHED and (steps := next(self._ranges, None)):
                    pending.append((steps, self._begin(pool, steps)))
                if not pending:
                    return
                steps, future = pending.popleft()
                start = time.monotonic()
                with self._waiting():
                    result = self._end(steps, future)
                self.waited += time.monotonic() - start
                alive()
                yield steps, result
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, steps: StepRange) -> Future[P]:
        try:
            return pool.submit(self._read, steps)
        except RuntimeError as error:  # No thread can be started.
            raise self._too_little(steps) from error

    def _end(self, steps: StepRange, future: Future[P]) -> P:
        try:
            return future.result()
        except MemoryError as error:
            raise self._too_little(steps) from error

    def _too_little(self, steps: StepRange) -> NoMemory:
        return NoMemory(
            f"fault: too little memory to read the records of step {steps.first + 1} with {self._threads} threads; "
            "give it more, or run the same command again with fewer --readers or --steps-per-execution"
        )


@dataclass(frozen=True)
class ValidationSet:
    """The records held for validation: `numbers` int64[N] of `split`."""

    split: Split
    numbers: NDArray[np.int64]


def divide(data: DataSet, train: Split, settings: Settings) -> tuple[NDArray[np.int64] | None, ValidationSet | None]:
    """-> (the numbers to train on, or None for all of `train`; what is held for validation, or None)."""
    info = data.manifest.splits.get("validation")
    if not settings.validate_every and not settings.validation_share:
        return None, None
    if settings.validation_share:
        held = holdout.held_out(settings.seed, settings.validation_share, train.keys(range(len(train))))
        return np.flatnonzero(~held), ValidationSet(train, np.flatnonzero(held))
    if info is None or not info.records:
        return None, None
    split = data.split("validation", verify=settings.verify)
    return None, ValidationSet(split, np.arange(len(split)))
