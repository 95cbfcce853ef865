"""Leave-one-out mean average precision (mAP)."""

import numpy as np
from numpy.typing import NDArray

from eval_jobs.means import Mean
from eval_jobs.retrieval import Rankings


def _average_precision(batch: Rankings) -> NDArray[np.float64]:
    hits = np.arange(1, len(batch.ranks) + 1) - np.repeat(batch.starts, batch.relevant)
    return np.add.reduceat(hits / batch.ranks, batch.starts) / batch.relevant


METRIC = Mean(
    Rankings,
    _average_precision,
    "leave-one-out mAP: each test drawing is a query against all other test drawings, nearest first; relevant are "
    "those of its class; its AP is the mean over the relevant ones of the precision at their rank, the hit itself "
    "counted; at equal distance the irrelevant ones stand first; the query is never in its own ranking; a class with "
    "one drawing yields no query; mAP is the mean over queries",
)
