"""Top-5 accuracy."""

import numpy as np
from numpy.typing import NDArray

from eval_jobs.means import Mean
from eval_jobs.model import Predictions

BEST = 5


def _hits(batch: Predictions) -> NDArray[np.float64]:
    return (batch.ranks() <= BEST).astype(np.float64)


METRIC = Mean(
    Predictions,
    _hits,
    "share of drawings whose own class is among the 5 largest logits; at equal logits the other classes come first",
)
