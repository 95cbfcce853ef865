"""The confusion matrix."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval_jobs.means import Bootstrap
from eval_jobs.model import Predictions


class Confusion:
    """Counts int64[C, C]: true class (row) against answered class (column)."""

    reads = Predictions
    definition = (
        "row: true class, column: class with the largest logit (the first of equal ones that is not the true class)"
    )

    def empty(self, classes: int) -> NDArray[np.int64]:
        """Returns the counts of no drawing."""
        return np.zeros((classes, classes), np.int64)

    def add(self, state: NDArray[np.int64], batch: Predictions) -> NDArray[np.int64]:
        """Returns the counts with a batch more."""
        best = batch.logits == batch.logits.max(axis=1, keepdims=True)
        tied = best.sum(axis=1) > 1
        # As in the accuracy, a tie does not favour the true class.
        best[np.flatnonzero(tied), batch.labels[tied]] = False
        counts = state.copy()
        np.add.at(counts, (batch.labels, best.argmax(axis=1)), 1)
        return counts

    def merge(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the counts of both."""
        return a + b

    def value(self, state: NDArray[np.int64], bootstrap: Bootstrap) -> list[list[int]]:  # noqa: ARG002 - counts have no interval
        """Returns the matrix, row by row."""
        rows: list[list[Any]] = state.tolist()
        return rows


METRIC = Confusion()
