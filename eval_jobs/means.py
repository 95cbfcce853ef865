"""Metrics that are a mean of one value a drawing: a monoid of those values, with the mean's confidence interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

BATCH = TypeVar("BATCH")
FEW = 64
CHUNK = 1 << 21
PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class Bootstrap:
    """Intervals: `resamples` means of as many values drawn with replacement; a pure function of `seed`."""

    resamples: int = 1000
    seed: int = 0

    @property
    def definition(self) -> str:
        """The definition, in words, for the scores."""
        return (
            f"95 % percentile interval of the mean over {self.resamples} bootstrap resamples of the drawings (for a "
            f"class: of its drawings), seed {self.seed}; the drawings that a query is ranked against stay as they are"
        )

    def interval(self, values: NDArray[np.float64], stream: int) -> tuple[float, float]:
        """float64[N], in any order -> the interval of their mean; `stream` keeps the random numbers of parts apart."""
        means = resampled_means(values, self.resamples, np.random.default_rng([self.seed, stream]))
        low, high = np.percentile(means, PERCENT)
        return float(low), float(high)


def resampled_means(values: NDArray[np.float64], resamples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """float64[N] -> float64[resamples], each the mean of N values drawn with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return np.full(resamples, distinct[0])
    if len(distinct) <= FEW:  # How often each value is drawn is one multinomial: no need to draw one by one.
        drawn = random.multinomial(len(values), counts / len(values), resamples)
        return drawn @ distinct / len(values)
    ordered = np.sort(values)
    rows = max(1, CHUNK // len(values))
    sizes = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    return np.concatenate(
        [ordered[random.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes]
    )


@dataclass(frozen=True)
class Values:
    """labels: int32[N]; values: float64[N], one a drawing; classes: how many there are."""

    classes: int
    labels: NDArray[np.int32]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Mean(Generic[BATCH]):
    """The mean of `score(batch)` float64[B] over all drawings that it `reads`; `definition` says it in words."""

    reads: type[BATCH]
    score: Callable[[BATCH], NDArray[np.float64]]
    definition: str

    def empty(self, classes: int) -> Values:
        """Returns the state of no drawing."""
        return Values(classes, np.empty(0, np.int32), np.empty(0))

    def add(self, state: Values, batch: BATCH) -> Values:
        """Returns the state with a batch more."""
        labels: NDArray[np.int32] = batch.labels  # type: ignore[attr-defined]
        return self.merge(state, Values(state.classes, labels, self.score(batch))) if len(labels) else state

    def merge(self, a: Values, b: Values) -> Values:
        """Returns the state of both."""
        return Values(a.classes, np.concatenate([a.labels, b.labels]), np.concatenate([a.values, b.values]))

    def value(self, state: Values, bootstrap: Bootstrap) -> dict[str, Any]:
        """Returns mean and interval over all drawings and for each class; null where there is no drawing.

        The order of the drawings does not count.
        """
        per_class = [
            _summary(state.values[state.labels == label], bootstrap, label + 1) for label in range(state.classes)
        ]
        return _summary(state.values, bootstrap, 0) | {"per_class": per_class}


def _summary(values: NDArray[np.float64], bootstrap: Bootstrap, stream: int) -> dict[str, Any]:
    if not len(values):
        return {"value": None, "low": None, "high": None, "drawings": 0}
    low, high = bootstrap.interval(values, stream)
    # An exact sum: the mean does not depend on the order of the batches.
    return {"value": math.fsum(values) / len(values), "low": low, "high": high, "drawings": len(values)}
