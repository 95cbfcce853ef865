"""One file a metric; the folder is the registry. Each file holds a `METRIC`, a monoid: empty, add, merge, value.

`value(merge(a, b)) == value(of everything)`, whatever the order and the parts.
"""

from typing import Any, Protocol

from boceto import lookup
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
    """Returns every metric by the name of its file, sorted."""
    return {name: module.METRIC for name, module in lookup.modules(__name__).items()}


def reading(kind: type[Any]) -> dict[str, Metric]:
    """Returns the metrics that read `kind`."""
    return {name: metric for name, metric in find().items() if metric.reads is kind}
