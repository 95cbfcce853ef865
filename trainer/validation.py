"""Validation: the loss and accuracy over records that are not trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boceto.dataset import DataSet, Split
from trainer import order
from trainer.batches import Batches, Prefetch, StepRange
from trainer.settings import Settings
from trainer.steps import Placed, Steps
from trainer.stop import Stop


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
        held = order.chosen(settings.seed, settings.validation_share, train.keys(range(len(train))))
        return np.flatnonzero(~held), ValidationSet(train, np.flatnonzero(held))
    if info is None or not info.records:
        return None, None
    split = data.split("validation", verify=settings.verify)
    return None, ValidationSet(split, np.arange(len(split)))


def validate(steps: Steps, validation_set: ValidationSet, settings: Settings, stop: Stop) -> tuple[float, float] | None:
    """-> (mean cross entropy, accuracy 0..1) over the held records; None where a stop cut it off."""
    size = settings.batch_size
    count = len(validation_set.numbers)
    calls = [StepRange(number, number + 1) for number in range(-(-count // size))]

    def read(call: StepRange) -> Placed:
        rows = np.arange(call.first * size, call.last * size)
        records = validation_set.numbers[np.minimum(rows, count - 1)]
        images, labels = validation_set.split.images(records), validation_set.split.labels[records].astype(np.int64)
        return steps.place(Batches(images[None], labels[None], np.zeros((1, size, 0), np.float32)))

    sums = np.zeros(2)
    for call, placed in Prefetch(calls, read, settings.readers):
        if stop.requested:
            return None
        # On the host and in the order of the records: a sum over replicas would depend on their number.
        sums += [values[: count - call.first * size].sum() for values in steps.evaluate(placed)]
    loss, accuracy = (sums / count).tolist()
    return loss, accuracy
