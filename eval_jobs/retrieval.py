"""Leave-one-out ranking, exact and in bounded memory: where each query's relevant drawings stand among all others.

A query's candidates are all other drawings, in the order of their distance. The distance is computed in float64 from
the float32 embeddings, dimension by dimension from the first on. At equal distance the irrelevant drawings stand
first, so that a tie never favours a hit; equal relevant drawings are interchangeable.

Only the few relevant distances are sorted. A float32 matrix product places nearly all other pairs between them; a pair
that its proven error bound leaves open is computed exactly. The ranks are therefore those of the definition, whatever
the BLAS, the threads or the block sizes.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto.errors import DataError, SettingsError
from eval_jobs import retrieval_kernels as kernels

DISTANCES = {
    "l2": "plain L2 distance between embeddings",
    "l2_normalised": "L2 distance between embeddings scaled to length 1 and rounded to float32; a zero stays zero",
    "cosine": "1 - cos of the angle between embeddings; the cos with a zero embedding is 0",
}
LARGEST = 1e15
BLOCK = 256
GROUP_ENTRIES = 16 << 20
Share = Callable[[Callable[[int, int], None], Iterable[tuple[int, int]]], None]


@dataclass(frozen=True)
class Rankings:
    """The rankings of some queries: for each, its class and the ranks (from 1) of its relevant drawings.

    labels: int32[Q]; relevant: int64[Q], how many each has; ranks: int64[relevant.sum()], query by query, ascending.
    """

    labels: NDArray[np.int32]
    relevant: NDArray[np.int64]
    ranks: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """int64[Q], where each query's ranks begin."""
        return np.cumsum(self.relevant) - self.relevant


def check(embeddings: NDArray[np.float32], where: str = "the embeddings") -> None:
    """Raises DataError where a value is NaN, infinite, or too large for its square to be summed in float32."""
    # Extremes, not isfinite: no array of the embeddings' size is made. A NaN fails the comparison.
    low, high = embeddings.min(initial=0.0), embeddings.max(initial=0.0)
    if not max(-low, high) <= LARGEST:
        rows = np.flatnonzero(~(np.abs(embeddings) <= LARGEST).all(axis=1))
        raise DataError(
            f"{where}: {len(rows)} of {len(embeddings)} hold NaN, infinity or a value above {LARGEST:g}, the first is "
            f"number {rows[0]}; the net has diverged: train it again with a lower learning rate"
        )


def _norms(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns float64[N], the squared norms."""
    norms = np.empty(len(embeddings))
    kernels.squared_norms(embeddings, norms, 0, len(embeddings))
    return norms


def _normalised(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[N, D] -> float32[N, D] of length 1; zeros stay."""
    norms = np.sqrt(_norms(embeddings))
    scaled = np.empty_like(embeddings)
    for at in range(0, len(embeddings), BLOCK):  # The float64 quotients of a block at a time.
        block = slice(at, at + BLOCK)
        np.divide(embeddings[block], np.where(norms[block] > 0, norms[block], 1)[:, None], out=scaled[block])
    return scaled


def _space(
    embeddings: NDArray[np.float32], labels: NDArray[np.int32], distance: str
) -> tuple[kernels.Space, NDArray[np.float32]]:
    """Embeddings sorted by class -> the input of the kernels, and the factor of the matrix product.

    The factor is float32[slices, N, D / slices].
    """
    if distance not in DISTANCES:
        raise SettingsError(f"the distance {distance!r} is unknown; the distances are {', '.join(DISTANCES)}")
    check(embeddings)
    rows = np.ascontiguousarray(embeddings, np.float32)
    if distance == "l2_normalised":
        rows = _normalised(rows)
    cosine, (count, dimensions) = distance == "cosine", rows.shape
    squares = _norms(rows)
    slices = next(parts for parts in (8, 4, 2, 1) if dimensions % parts == 0)
    unit, tiny = _dot_error(dimensions, slices, cosine=cosine)
    space = kernels.Space(
        rows,
        np.sqrt(squares),
        np.searchsorted(labels, labels, "left"),
        np.searchsorted(labels, labels, "right"),
        np.ones_like(squares) if cosine else squares,
        np.zeros(count, np.float32) if cosine else squares.astype(np.float32),
        unit,
        tiny,
        cosine,
    )
    multiplied = _normalised(rows) if cosine else rows
    return space, multiplied.reshape(count, slices, dimensions // slices).transpose(1, 0, 2)


def _dot_error(dimensions: int, slices: int, *, cosine: bool) -> tuple[float, float]:
    """Bounds of the error of a float32 dot product in slices: relative to the norms' product, and absolute.

    Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1: n u / (1 - n u) with u = 2**-24 for a
    sum of n terms in any order; so slices, which cost next to nothing, leave less to compute exactly. Unit vectors
    that were themselves rounded add 2 u. Underflow adds at most the smallest normal number a term.
    """
    rounding = (dimensions // slices + slices + (4 if cosine else 1)) * 2.0**-24
    return 1.01 * rounding / (1 - rounding), 2 * dimensions * 2.0**-126


def _empty_group(space: kernels.Space, first: int, last: int) -> kernels.Group:
    relevant = (space.stop - space.start - 1)[first:last]
    queries, total = last - first, int(relevant.sum())
    return kernels.Group(
        first,
        np.cumsum(relevant) - relevant,
        np.empty(total),
        np.zeros(total + queries, np.int64),
        np.empty((queries, 2), np.float32),
        np.empty((queries, kernels.BUCKETS), np.int32),
        np.zeros((queries, kernels.BUCKETS), np.int32),
    )


def _group_bounds(space: kernels.Space) -> Iterator[tuple[int, int]]:
    """Cuts the queries into ranges whose thresholds and grids fit in memory."""
    cost = np.cumsum(space.stop - space.start + kernels.BUCKETS // 2)
    first = 0
    while first < len(cost):
        spent = cost[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(cost, spent + GROUP_ENTRIES, "right")))
        yield first, last
        first = last


def _cut(first: int, last: int, step: int) -> list[tuple[int, int]]:
    return [(at, min(last, at + step)) for at in range(first, last, step)]


def _count_group(
    space: kernels.Space, multiplied: NDArray[np.float32], group: kernels.Group, last: int, share: Share
) -> None:
    """Counts all others for the queries group.first..last, each pair of two such queries from one product.

    A thread takes a block of queries and multiplies it with one block of others after the other: each product is
    counted, for both sides, while it is in the cache.
    """
    slices, total, _ = multiplied.shape
    queries = _cut(group.first, last, BLOCK)
    blocks = [*_cut(0, group.first, BLOCK), *queries, *_cut(last, total, BLOCK)]
    locks = {query: Lock() for query, _ in queries}  # One thread at a time changes the counts of a block.

    def count(row: int, until: int) -> None:
        tile = np.empty(slices * BLOCK * BLOCK, np.float32)
        for column, end in blocks:
            if group.first <= column < row:  # That block's thread counts this pair of blocks.
                continue
            dots = tile[: slices * (until - row) * (end - column)].reshape(slices, until - row, end - column)
            np.matmul(multiplied[:, row:until], multiplied[:, column:end].transpose(0, 2, 1), out=dots)
            with locks[row]:
                kernels.count(space, group, dots, row, column)
            if row < column < last:
                turned = np.ascontiguousarray(dots[:1].transpose(0, 2, 1))  # Their sum over slices is in the first.
                with locks[column]:
                    kernels.count(space, group, turned, column, row)

    share(count, queries)


def rankings(
    embeddings: NDArray[np.float32], labels: NDArray[np.integer[Any]], distance: str = "l2"
) -> Iterator[Rankings]:
    """float32[N, D], int[N] -> the rankings of all queries that have a relevant drawing, in parts.

    Raises:
        DataError: an embedding is not finite, or too large.
        SettingsError: an unknown distance.
    """
    order = np.argsort(labels, kind="stable")
    sorted_labels = np.asarray(labels, np.int32)[order]
    space, multiplied = _space(np.asarray(embeddings, np.float32)[order], sorted_labels, distance)
    largest, count = float(space.norms.max(initial=0.0)), os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:

        def share(work: Callable[[int, int], None], ranges: Iterable[tuple[int, int]]) -> None:
            for done in [pool.submit(work, *one) for one in ranges]:
                done.result()

        for first, last in _group_bounds(space):
            group = _empty_group(space, first, last)
            parts = _cut(first, last, -(-(last - first) // (2 * count)))
            ranks = np.empty(len(group.thresholds), np.int64)
            share(partial(kernels.find_thresholds, space, group), parts)
            share(partial(kernels.lay_grids, space, group, largest), parts)
            _count_group(space, multiplied, group, last, share)
            share(partial(kernels.find_ranks, space, group, ranks), parts)
            relevant = (space.stop - space.start - 1)[first:last]
            yield Rankings(sorted_labels[first:last][relevant > 0], relevant[relevant > 0], ranks)


def distances(embeddings: NDArray[np.float32], query: int) -> NDArray[np.float64]:
    """float32[N, D] -> float64[N], the squared L2 distances to one of them, as they rank."""
    return np.array([kernels.exact(embeddings[query], other, 0.0, 0.0, False) for other in embeddings])
