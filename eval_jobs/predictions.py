"""What a net said of some drawings: what the classification metrics read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    """labels: int32[B], the true classes; logits: float32[B, C]."""

    labels: NDArray[np.int32]
    logits: NDArray[np.float32]

    def ranks(self) -> NDArray[np.int64]:
        """int64[B], the rank (from 1) of the true class's logit; at equal logits the others stand before it."""
        true = np.take_along_axis(self.logits, self.labels[:, None].astype(np.int64), axis=1)
        return (self.logits >= true).sum(axis=1)
