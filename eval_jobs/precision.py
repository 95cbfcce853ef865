"""Mean precision at k, for the metrics that are one k each."""

import numpy as np
from numpy.typing import NDArray

from eval_jobs.means import Mean
from eval_jobs.retrieval import Rankings


def precision_at(k: int) -> Mean[Rankings]:
    """The metric "mean precision at k"."""

    def score(batch: Rankings) -> NDArray[np.float64]:
        if not len(batch.labels):
            return np.empty(0)
        return np.add.reduceat(batch.ranks <= k, batch.starts, dtype=np.int64) / k

    return Mean(
        Rankings,
        score,
        f"mean over queries of: relevant ones among the {k} nearest, divided by {k}; queries and ties as for the mAP",
    )
