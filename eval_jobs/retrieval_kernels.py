"""The compiled part of `eval_jobs.retrieval`: exact distances of the relevant pairs, and a filter for all the others.

Every kernel releases the interpreter's lock and works on a range of queries, so that threads share the queries out.
None is compiled with fast-math but `_near`, whose result decides only what its error bound allows.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

TILE = 64
BUCKETS = 512
TURNED = 32


class Space(NamedTuple):
    """All drawings, sorted by class, and the distance between them; N drawings of D dimensions."""

    rows: Any  # float32[N, D]
    norms: Any  # float64[N]
    start: Any  # int64[N], the first row of the drawing's class
    stop: Any  # int64[N], the row after its last
    origin: Any  # float64[N], what the filter's value leaves out of the query's distances
    offsets: Any  # float32[N], what the filter adds for a candidate
    unit: float  # the filter's error in a dot product, relative to both norms
    tiny: float  # and what underflow adds to it
    cosine: bool


class Group(NamedTuple):
    """Queries that are counted together: the rows first.. of the space. Row q's arrays stand at q - first."""

    first: int
    slot: Any  # int64[Q], where the query's thresholds begin
    thresholds: Any  # float64[total], exact distances to the relevant ones, sorted
    counts: Any  # int64[total + Q], others by how many thresholds lie below them, at slot + (q - first)
    grid: Any  # float32[Q, 2], where the buckets begin and buckets per unit
    place: Any  # int32[Q, BUCKETS], how many thresholds lie below all of a bucket, or -1 where it may hold one


@numba.njit(cache=True, nogil=True)
def exact(a, b, norm_a, norm_b, cosine):
    """The distance that ranks: float32[D], float32[D] -> float64, summed in float64 from the first dimension on."""
    total = 0.0
    if cosine:
        for at in range(len(a)):
            total += np.float64(a[at]) * np.float64(b[at])
        return _cosine_distance(total, norm_a * norm_b)
    for at in range(len(a)):
        difference = np.float64(a[at]) - np.float64(b[at])
        total += difference * difference
    return total


@numba.njit(cache=True, nogil=True)
def _cosine_distance(dot, norms):
    return 1.0 - dot / norms if norms > 0.0 else 1.0


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _near(a, b, norm_a, norm_b, cosine):
    """As `exact`, but summed in the order that is fastest."""
    total = 0.0
    if cosine:
        for at in range(len(a)):
            total += np.float64(a[at]) * np.float64(b[at])
        return _cosine_distance(total, norm_a * norm_b)
    for at in range(len(a)):
        difference = np.float64(a[at]) - np.float64(b[at])
        total += difference * difference
    return total


@numba.njit(cache=True, nogil=True)
def squared_norms(rows, out, first, last):
    """float32[N, D] -> float64[N] for the rows first..last, summed as `exact` sums."""
    for row in range(first, last):
        total = 0.0
        for at in range(rows.shape[1]):
            total += np.float64(rows[row, at]) * np.float64(rows[row, at])
        out[row] = total


@numba.njit(cache=True, nogil=True)
def _tile_sums(query, columns, sums, cosine):
    """`exact`'s sums of one query with TILE candidates at once, whose transposed rows are `columns` float64[D, TILE]."""
    sums[:] = 0.0
    if cosine:
        for at in range(columns.shape[0]):
            value = np.float64(query[at])
            for lane in range(TILE):
                sums[lane] += value * columns[at, lane]
        return
    for at in range(columns.shape[0]):
        value = np.float64(query[at])
        for lane in range(TILE):
            difference = value - columns[at, lane]
            sums[lane] += difference * difference


@numba.njit(cache=True, nogil=True)
def _fill_tile(rows, base, size, columns):
    for lane in range(size):
        for at in range(rows.shape[1]):
            columns[at, lane] = rows[base + lane, at]


@numba.njit(cache=True, nogil=True)
def find_thresholds(space, group, first, last):
    """The sorted exact distances of the queries first..last to the others of their class."""
    columns = np.zeros((space.rows.shape[1], TILE))
    sums = np.empty(TILE)
    query = first
    while query < last:
        start, stop = space.start[query], space.stop[query]
        until = min(last, stop)
        for base in range(start, stop, TILE):
            size = min(TILE, stop - base)
            _fill_tile(space.rows, base, size, columns)
            for mine in range(query, until):
                _tile_sums(space.rows[mine], columns, sums, space.cosine)
                to = group.slot[mine - group.first] - start
                for other in range(base, base + size):
                    value = sums[other - base]
                    if space.cosine:
                        value = _cosine_distance(value, space.norms[mine] * space.norms[other])
                    if other != mine:
                        group.thresholds[to + other - (1 if other > mine else 0)] = value
        query = until
    for mine in range(first, last):
        _thresholds(space, group, mine).sort()


@numba.njit(cache=True, nogil=True)
def _thresholds(space, group, query):
    slot = group.slot[query - group.first]
    return group.thresholds[slot : slot + space.stop[query] - space.start[query] - 1]


@numba.njit(cache=True, nogil=True)
def lay_grids(space, group, largest, first, last):
    """Lays BUCKETS over each query's thresholds, so that most others are placed by one look-up.

    The error of a filter value that is used here holds for candidates of any norm up to `largest`.
    """
    for query in range(first, last):
        mine = _thresholds(space, group, query)
        grid, place = group.grid[query - group.first], group.place[query - group.first]
        grid[:] = 0.0
        if len(mine) == 0:
            place[:] = 0
            continue
        place[:] = -1
        slack = _grid_slack(space, query, largest)
        width = mine[-1] - mine[0] + 4.0 * slack
        if width < 1e-30:  # Nothing to tell apart: each pair is settled by itself.
            continue
        grid[0] = np.float32(mine[0] - space.origin[query] - 2.0 * slack)
        grid[1] = np.float32((BUCKETS - 2) / width)
        _fill_places(mine - space.origin[query], np.float64(grid[0]), np.float64(grid[1]), slack, place)


@numba.njit(cache=True, nogil=True)
def _grid_slack(space, query, largest):
    """A bound of the error of `offsets[j] - factor * dot` as `_look_up` computes it, for every candidate j."""
    if space.cosine:
        return space.unit + space.tiny + 2.0**-22
    both = space.norms[query] * largest
    return 2.0 * (space.unit * both + space.tiny) + 2.0**-22 * (largest * largest + 2.0 * both)


@numba.njit(cache=True, nogil=True)
def _fill_places(mine, low, scale, slack, place):
    # A hundredth of a bucket covers the rounding of the position itself, less than 4 * 2**-24 * BUCKETS, and of `low`.
    margin = slack + 0.01 / scale + 2.0**-22 * abs(low)
    for bucket in range(BUCKETS):
        below = low + bucket / scale - margin if bucket else -np.inf
        above = low + (bucket + 1) / scale + margin if bucket < BUCKETS - 1 else np.inf
        rank = np.searchsorted(mine, below)
        if rank == len(mine) or mine[rank] > above:
            place[bucket] = rank


@numba.njit(cache=True, nogil=True)
def _sure(mine, guess, error):
    """How many of the sorted `mine` lie below guess ± error; -1 where one lies within."""
    rank = np.searchsorted(mine, guess)
    if (rank == 0 or mine[rank - 1] < guess - error) and (rank == len(mine) or mine[rank] > guess + error):
        return rank
    return -1


@numba.njit(cache=True, nogil=True)
def _settle(space, query, other, mine, dot):
    """How many thresholds lie below the exact distance of a pair that the grid could not place."""
    norm, norm_other = space.norms[query], space.norms[other]
    if space.cosine:
        guess, error = 1.0 - dot, space.unit + space.tiny
    else:
        guess = norm * norm + norm_other * norm_other - 2.0 * dot
        error = 2.0 * (space.unit * norm * norm_other + space.tiny) + 2.0**-40 * (norm * norm + norm_other * norm_other)
    rank = _sure(mine, guess, error)
    if rank >= 0:
        return rank
    a, b = space.rows[query], space.rows[other]
    guess = _near(a, b, norm, norm_other, space.cosine)
    # Sums of D float64 terms in two orders differ by less than 2 D 2**-53 of the sum of the terms' magnitudes: that is
    # the distance itself, or for the cosine at most 1.
    rank = _sure(mine, guess, (len(a) + 8) * 2.0**-51 * (1.0 if space.cosine else guess))
    if rank >= 0:
        return rank
    return np.searchsorted(mine, exact(a, b, norm, norm_other, space.cosine))


@numba.njit(cache=True, nogil=True)
def _look_up(offsets, dots, factor, low, scale, place, count, chosen, pending):
    """Counts the others that the grid places; returns how many it cannot, whose positions go to `pending`.

    offsets, dots: float32[M]; count: int64[R + 1], by how many thresholds lie below.
    """
    top = np.float32(BUCKETS - 1)
    for at in range(len(dots)):
        position = (offsets[at] - factor * dots[at] - low) * scale
        chosen[at] = np.int32(min(max(position, np.float32(0.0)), top))
    waiting = 0
    for at in range(len(dots)):
        rank = place[chosen[at]]
        if rank < 0:
            pending[waiting] = at
            waiting += 1
        else:
            count[rank] += 1
    return waiting


@numba.njit(cache=True, nogil=True)
def count_rows(space, group, panel, row, column, first, last):
    """Counts the others column.. for the queries row + first..row + last; `panel` float32[rows, M] holds their dots.

    The query's own class is left out: its distances are the thresholds.
    """
    chosen, pending = np.empty(panel.shape[1], np.int32), np.empty(panel.shape[1], np.int32)
    factor = np.float32(1.0) if space.cosine else np.float32(2.0)
    end = column + panel.shape[1]
    for query in range(row + first, row + last):
        mine = _thresholds(space, group, query)
        at = query - group.first
        count = group.counts[group.slot[at] + at : group.slot[at] + at + len(mine) + 1]
        for low, high in ((column, min(end, space.start[query])), (max(column, space.stop[query]), end)):
            if low >= high:
                continue
            dots = panel[query - row, low - column : high - column]
            waiting = _look_up(
                space.offsets[low:high], dots, factor, group.grid[at, 0], group.grid[at, 1], group.place[at], count,
                chosen, pending,
            )  # fmt: skip
            for other in pending[:waiting]:
                count[_settle(space, query, low + other, mine, np.float64(dots[other]))] += 1


@numba.njit(cache=True, nogil=True)
def count_columns(space, group, panel, row, column, first, last):
    """As `count_rows`, from the panel's other side: its columns are the queries, and its rows what they rank."""
    turned = np.empty((TURNED, panel.shape[0]), np.float32)
    for base in range(first, last, TURNED):
        size = min(TURNED, last - base)
        for at in range(panel.shape[0]):
            for lane in range(size):
                turned[lane, at] = panel[at, base + lane]
        count_rows(space, group, turned, column + base, row, 0, size)


@numba.njit(cache=True, nogil=True)
def find_ranks(space, group, out, first, last):
    """The ranks of each query's relevant ones, nearest first, at its slot: those nearer or as near and irrelevant, + 1."""
    for query in range(first, last):
        at = query - group.first
        rank = 0
        for relevant in range(space.stop[query] - space.start[query] - 1):
            rank += group.counts[group.slot[at] + at + relevant] + 1
            out[group.slot[at] + relevant] = rank
