"""One file a metric; the folder is the registry. Each file holds a `METRIC`, a monoid: empty, add, merge, value.

`value(merge(a, b)) == value(of everything)`, whatever the order and the parts.
"""

from typing import Any, Protocol

from boceto import lookup
from eval_jobs.means import Bootstrap


class Metric(Protocol):
    """What a metric's file holds. `reads` is what it is fed with: Predictions or Rankings."""

    reads: type[Any]
    definition: str

    def empty(self, classes: int) -> Any:
        """The state of no drawing."""

    def add(self, state: Any, batch: Any) -> Any:
        """The state with a batch more."""

    def merge(self, a: Any, b: Any) -> Any:
        """The state of both."""

    def value(self, state: Any, bootstrap: Bootstrap) -> Any:
        """What goes into the scores, as JSON."""


def find() -> dict[str, Metric]:
    """Every metric by the name of its file, sorted."""
    return {name: module.METRIC for name, module in lookup.modules(__name__).items()}


def reading(kind: type[Any]) -> dict[str, Metric]:
    """The metrics that read `kind`."""
    return {name: metric for name, metric in find().items() if metric.reads is kind}
