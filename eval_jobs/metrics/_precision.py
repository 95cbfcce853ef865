"""Mean precision at k: each metric has one k."""

import numpy as np

from eval_jobs.means import Mean
from eval_jobs.retrieval import Rankings


def precision_at(k: int) -> Mean[Rankings]:
    """Returns the metric "mean precision at k"."""
    return Mean(
        Rankings,
        lambda batch: np.add.reduceat(batch.ranks <= k, batch.starts, dtype=np.int64) / k,
        f"mean over queries of: relevant ones among the {k} nearest, divided by {k}; queries and ties as for the mAP",
    )
