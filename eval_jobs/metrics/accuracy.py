"""Top-1 accuracy."""

import numpy as np
from numpy.typing import NDArray

from eval_jobs.means import Mean
from eval_jobs.model import Predictions


def _hits(batch: Predictions) -> NDArray[np.float64]:
    return (batch.ranks() == 1).astype(np.float64)


METRIC = Mean(Predictions, _hits, "share of drawings whose own class has the largest logit; a tie is a miss")
