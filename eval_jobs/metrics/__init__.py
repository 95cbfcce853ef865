"""One file a metric; the folder is the registry. Each file holds a `METRIC`, a monoid: empty, add, merge, value.

`value(merge(a, b)) == value(of everything)`, whatever the order and the parts.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from boceto import lookup
from boceto.errors import SettingsError
from eval_jobs.means import Bootstrap


class Metric(Protocol):
    """The `METRIC` of a file. `reads` is the type of its batches: Predictions or Rankings."""

    reads: type[Any]
    definition: str

    def empty(self, classes: int) -> Any:
        """Returns the state of no drawing."""

    def add(self, state: Any, batch: Any) -> Any:
        """Returns the state with a batch more."""

    def merge(self, a: Any, b: Any) -> Any:
        """Returns the state of both."""

    def value(self, state: Any, bootstrap: Bootstrap) -> Any:
        """Returns the score, as JSON."""


def find() -> dict[str, Metric]:
    """Returns every metric by the name of its file, sorted.

    Raises:
        SettingsError: a file has no `METRIC`.
    """
    found: dict[str, Metric] = {}
    for name, module in lookup.modules(__name__).items():
        if not hasattr(module, "METRIC"):
            raise SettingsError(f"eval_jobs/metrics/{name}.py: it has no METRIC; add one")
        found[name] = module.METRIC
    return found


def reading(kind: type[Any]) -> dict[str, Metric]:
    """Returns the metrics that read `kind`."""
    return {name: metric for name, metric in find().items() if metric.reads is kind}


def add(chosen: Mapping[str, Metric], states: Mapping[str, Any], batch: Any) -> dict[str, Any]:
    """Returns the states of the chosen metrics with a batch more.

    Raises:
        SettingsError: a metric fails.
    """
    found = {}
    for name, metric in chosen.items():
        with _named(name):
            found[name] = metric.add(states[name], batch)
    return found


def values(
    chosen: Mapping[str, Metric], states: Mapping[str, Any], bootstrap: Bootstrap, classes: int
) -> dict[str, Any]:
    """Returns the scores of the chosen metrics.

    Raises:
        SettingsError: a metric fails, or its score is no JSON (as NaN) or has not an entry a class.
    """
    found = {}
    for name, metric in chosen.items():
        with _named(name):
            found[name] = score = metric.value(states[name], bootstrap)
            json.dumps(score, allow_nan=False)
            if isinstance(score, dict) and "per_class" in score and len(score["per_class"]) != classes:
                raise ValueError(f"per_class has {len(score['per_class'])} entries for {classes} classes")
    return found


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Adds the name of a metric's file to its errors."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SettingsError(f"eval_jobs/metrics/{name}.py: {type(error).__name__}: {error}; mend the metric") from error
