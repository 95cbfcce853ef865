"""The drawings of a data set that are nearest to an embedding."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boceto.console import Console
from boceto.dataset import DataSet
from eval_jobs import model
from eval_jobs.model import Model

BLOCK = 4096


class Neighbour(NamedTuple):
    """A drawing of the data set: its key, its class, and its L2 distance in the space of the embedding."""

    key: str
    label: str
    distance: float


class Search:
    """Embeds all drawings of the data set, of all splits, and finds the nearest ones.

    It holds 4 bytes times the size of the embedding for each drawing.

    Raises:
        DataError: the data set has other classes or another image size than the net, or is damaged.
    """

    def __init__(self, data: DataSet, net: Model, batch_size: int, console: Console) -> None:
        if not model.check_data(net.description, data.manifest, allow_other_data=True):
            console.warning(f"{data.url} is not the data set that the net was trained with")
        splits = [data.split(name) for name, info in data.manifest.splits.items() if info.records]
        total, done = sum(map(len, splits)), 0
        self._classes = data.manifest.classes
        self._splits = splits
        self._labels = np.concatenate([split.labels for split in splits])
        self._first = np.cumsum([0, *map(len, splits)])
        self._embeddings = np.empty((total, net.description.embedding), np.float32)
        for split in splits:
            for part, _, embedding in net.batches(split, np.arange(len(split)), batch_size):
                self._embeddings[done : done + len(part)] = embedding
                done += len(part)
                console.progress("embedding the data set", done, total, "drawings")

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[list[Neighbour]]:
        """float32[B, D] -> the `count` nearest drawings of each, the nearest first, equally near ones in their order.

        Where the last one is as near as others that are left out, any of them may be taken.
        """
        numbers = nearest(queries, self._embeddings, count)
        found = []
        for query, mine in zip(queries, numbers, strict=True):
            distances = np.linalg.norm(self._embeddings[mine].astype(np.float64) - query, axis=1)
            order = np.lexsort((mine, distances))
            found.append([self._neighbour(mine[at], distances[at]) for at in order])
        return found

    def _neighbour(self, number: int, distance: float) -> Neighbour:
        split = int(np.searchsorted(self._first, number, side="right")) - 1
        (key,) = self._splits[split].keys([int(number - self._first[split])])
        return Neighbour(key.decode(), self._classes[self._labels[number]], float(f"{distance:.6g}"))


def nearest(queries: NDArray[np.float32], rows: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """float32[B, D], float32[N, D] -> int64[B, min(count, N)], the rows nearest to each query, in no order.

    Works through the rows in blocks, in float64: |row|^2 - 2 row · query is the squared distance but for a constant.
    """
    wide = queries.astype(np.float64)
    best, numbers = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
    for at in range(0, len(rows), BLOCK):
        block = rows[at : at + BLOCK].astype(np.float64)
        squared = np.einsum("nd,nd->n", block, block) - 2 * wide @ block.T
        best = np.concatenate([best, squared], axis=1)
        these = np.broadcast_to(np.arange(at, at + len(block)), squared.shape)
        numbers = np.concatenate([numbers, these], axis=1)
        if best.shape[1] > count:
            kept = np.argpartition(best, count - 1, axis=1)[:, :count]
            best, numbers = np.take_along_axis(best, kept, axis=1), np.take_along_axis(numbers, kept, axis=1)
    return numbers
