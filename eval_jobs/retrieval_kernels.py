"""The compiled part of `eval_jobs.retrieval`: exact distances of the relevant pairs, and a filter for all others.

Why this is ours: libraries of nearest neighbours (FAISS, scikit-learn) return the k nearest, in an order that depends
on the BLAS. The mAP needs the exact rank of every relevant drawing among all others, the same on every machine.

Every kernel releases the interpreter's lock and works on a range of queries, so that threads can share the queries.
Only `_near` is compiled with fast-math; its result decides only what its error bound allows.
"""

from typing import Any, NamedTuple

import numpy as np

from boceto.kernels import kernel

TILE = 64
TOGETHER = 4
BUCKETS = 512


class Space(NamedTuple):
    """All drawings, sorted by class, and the distance between them; N drawings of D dimensions."""

    rows: Any  # float32[N, D]
    norms: Any  # float64[N]
    start: Any  # int64[N], the first row of the drawing's class
    stop: Any  # int64[N], the row after its last
    origin: Any  # float64[N], the part of the query's distances that the filter's value leaves out
    offsets: Any  # float32[N], the part that the filter adds for a candidate
    unit: float  # the filter's error in a dot product, relative to both norms
    tiny: float  # and the error that underflow adds to it
    cosine: bool


class Group(NamedTuple):
    """Queries that are counted together: the rows first.. of the space. Row q's arrays stand at q - first."""

    first: int
    slot: Any  # int64[Q], where the query's thresholds begin
    thresholds: Any  # float64[total], exact distances to the relevant ones, sorted
    counts: Any  # int64[total + Q], others by how many thresholds lie below them, at slot + (q - first); at first only
    # those that a bucket does not place
    grid: Any  # float32[Q, 2], where the buckets begin and buckets per unit
    place: Any  # int32[Q, BUCKETS], how many thresholds lie below all of a bucket, or -1 - those where it may hold one
    filled: Any  # int32[Q, BUCKETS], others in the bucket


@kernel(inline="always")
def _distance(a, b, norm_a, norm_b, cosine):
    total = 0.0
    if cosine:
        for at in range(len(a)):
            total += np.float64(a[at]) * np.float64(b[at])
        return _cosine_distance(total, norm_a * norm_b)
    for at in range(len(a)):
        difference = np.float64(a[at]) - np.float64(b[at])
        total += difference * difference
    return total


@kernel()
def exact(a, b, norm_a, norm_b, cosine):
    """The distance that ranks: float32[D], float32[D] -> float64, summed in float64 from the first dimension on."""
    return _distance(a, b, norm_a, norm_b, cosine)


@kernel(fastmath={"reassoc", "nsz"})
def _near(a, b, norm_a, norm_b, cosine):
    """As `exact`, but summed in the order that is fastest."""
    return _distance(a, b, norm_a, norm_b, cosine)


@kernel()
def _cosine_distance(dot, norms):
    return 1.0 - dot / norms if norms > 0.0 else 1.0


@kernel()
def squared_norms(rows, out, first, last):
    """float32[N, D] -> float64[N] for the rows first..last, summed as `exact` sums."""
    for row in range(first, last):
        total = 0.0
        for at in range(rows.shape[1]):
            total += np.float64(rows[row, at]) * np.float64(rows[row, at])
        out[row] = total


@kernel()
def _tile_sums(queries, columns, sums, cosine):
    """`exact`'s sums of TOGETHER queries, float32[TOGETHER, D], with the TILE candidates of `columns` float32[D, TILE].

    All pairs at once, one dimension after the other: each sum runs in order, and one instruction serves many sums.
    """
    sums[:] = 0.0
    for at in range(columns.shape[0]):
        for mine in range(TOGETHER):
            value = np.float64(queries[mine, at])
            if cosine:
                for lane in range(TILE):
                    sums[mine, lane] += value * np.float64(columns[at, lane])
            else:
                for lane in range(TILE):
                    difference = value - np.float64(columns[at, lane])
                    sums[mine, lane] += difference * difference


@kernel()
def find_thresholds(space, group, first, last):
    """The sorted exact distances of the queries first..last to the others of their class."""
    columns = np.zeros((space.rows.shape[1], TILE), np.float32)
    queries = np.zeros((TOGETHER, space.rows.shape[1]), np.float32)
    sums = np.empty((TOGETHER, TILE))
    query = first
    while query < last:
        until = min(last, space.stop[query])
        for base in range(space.start[query], space.stop[query], TILE):
            size = min(TILE, space.stop[query] - base)
            for lane in range(size):
                columns[:, lane] = space.rows[base + lane]
            for mine in range(query, until, TOGETHER):
                many = min(TOGETHER, until - mine)
                queries[:many] = space.rows[mine : mine + many]
                _tile_sums(queries, columns, sums, space.cosine)
                _keep_tile(space, group, sums[:many, :size], mine, base)
        query = until
    for mine in range(first, last):
        _thresholds(space, group, mine).sort()


@kernel()
def _keep_tile(space, group, sums, query, base):
    """Writes the distances of the queries query.. to the candidates base.., without those to themselves."""
    for mine in range(query, query + sums.shape[0]):
        to = group.slot[mine - group.first] - space.start[mine]
        for other in range(base, base + sums.shape[1]):
            value = sums[mine - query, other - base]
            if space.cosine:
                value = _cosine_distance(value, space.norms[mine] * space.norms[other])
            if other != mine:
                group.thresholds[to + other - (1 if other > mine else 0)] = value


@kernel()
def _thresholds(space, group, query):
    slot = group.slot[query - group.first]
    return group.thresholds[slot : slot + space.stop[query] - space.start[query] - 1]


@kernel()
def lay_grids(space, group, largest, first, last):
    """Lays BUCKETS over each query's thresholds, so that most others are placed by one look-up.

    The error of a filter value that is used here holds for candidates of any norm up to `largest`.
    """
    for query in range(first, last):
        mine = _thresholds(space, group, query)
        grid, place = group.grid[query - group.first], group.place[query - group.first]
        grid[:] = 0.0
        place[:] = -1
        slack = _grid_slack(space, query, largest)
        width = mine[-1] - mine[0] + 4.0 * slack if len(mine) else 0.0
        if width < 1e-30:  # Nothing to tell apart: each pair is settled by itself.
            continue
        grid[0] = np.float32(mine[0] - space.origin[query] - 2.0 * slack)
        grid[1] = np.float32((BUCKETS - 2) / width)
        _fill_places(mine, space.origin[query], np.float64(grid[0]), np.float64(grid[1]), slack, place)


@kernel()
def _grid_slack(space, query, largest):
    """A bound of the error of `offsets[j] - factor * dot` as `_find_buckets` computes it, for every candidate j."""
    if space.cosine:
        return space.unit + space.tiny + 2.0**-22
    both = space.norms[query] * largest
    return 2.0 * (space.unit * both + space.tiny) + 2.0**-22 * (largest * largest + 2.0 * both)


@kernel()
def _fill_places(mine, origin, low, scale, slack, place):
    # A hundredth of a bucket covers the rounding of the position itself, less than 4 * 2**-24 * BUCKETS, and of `low`.
    margin = slack + 0.01 / scale + 2.0**-22 * abs(low)
    bucket = 0
    for rank in range(len(mine)):
        value = mine[rank] - origin - low
        begin, end = _bucket((value - margin) * scale), _bucket((value + margin) * scale) + 1
        if begin > bucket:
            place[bucket:begin] = rank
        if end > max(begin, bucket):
            place[max(begin, bucket) : end] = -1 - rank
            bucket = end
    place[bucket:] = len(mine)


@kernel()
def _bucket(position):
    return np.int64(min(max(position, 0.0), BUCKETS - 1.0))


@kernel()
def _sure(mine, rank, guess, error):
    """How many of the sorted `mine` (`rank` are known) lie below guess ± error; -1 where one lies within."""
    while rank < len(mine) and mine[rank] < guess - error:
        rank += 1
    return rank if rank == len(mine) or mine[rank] > guess + error else -1


@kernel()
def _settle(space, query, low, mine, place, chosen, dots, counts, pending):
    """Counts those of the `pending` candidates, numbered from `low`, that the dots' error bound places.

    `pending` keeps the others, whose number is returned.
    """
    # Nothing in the loop takes `space`: to hand it on costs more than the rest of the step.
    unit, tiny, cosine, norm, origin = space.unit, space.tiny, space.cosine, space.norms[query], space.origin[query]
    norms, origins = space.norms[low:], space.origin[low:]
    waiting = 0
    for other in pending:
        if cosine:
            guess, error = 1.0 - dots[other], unit + tiny
        else:
            squares = origin + origins[other]
            guess = squares - 2.0 * dots[other]
            error = 2.0 * (unit * norm * norms[other] + tiny) + 2.0**-40 * squares
        rank = _sure(mine, -1 - place[chosen[other]], guess, error)
        if rank >= 0:
            counts[rank] += 1
        else:
            pending[waiting] = other
            waiting += 1
    return waiting


@kernel()
def _settle_exactly(space, query, low, mine, counts, pending):
    """Counts all of the `pending` candidates, numbered from `low`, by their float64 distances."""
    rows, norms, cosine, mine_row, norm = space.rows, space.norms, space.cosine, space.rows[query], space.norms[query]
    for other in pending:
        row, norm_other = rows[low + other], norms[low + other]
        guess = _near(mine_row, row, norm, norm_other, cosine)
        # Sums of D float64 terms in two orders differ by less than 2 D 2**-53 of the sum of the terms' magnitudes: that
        # is the distance itself, or for the cosine at most 1.
        error = (len(row) + 8) * 2.0**-51 * (1.0 if cosine else guess)
        rank = _sure(mine, np.searchsorted(mine, guess - error), guess, error)
        counts[rank if rank >= 0 else np.searchsorted(mine, exact(mine_row, row, norm, norm_other, cosine))] += 1


@kernel()
def _find_buckets(offsets, dots, factor, low, scale, chosen):
    """The bucket of each candidate: float32[M], float32[M] -> int32[M]. No branch, so that it runs in vectors."""
    top = np.float32(BUCKETS - 1)
    zero = np.float32(0.0)
    for at in range(len(dots)):
        position = (offsets[at] - factor * dots[at] - low) * scale
        position = position if position > zero else zero  # noqa: FURB136 - this form runs in vectors
        position = position if position < top else top  # noqa: FURB136 - as above
        chosen[at] = np.int32(position)


@kernel()
def _count_buckets(chosen, place, filled, pending):
    """Counts the candidates by bucket; `pending` gets those in buckets with a threshold, whose number is returned."""
    waiting = 0
    for at in range(len(chosen)):
        bucket = chosen[at]
        filled[bucket] += 1
        pending[waiting] = at
        waiting += place[bucket] < 0
    return waiting


@kernel()
def _add_slices(panel, row):
    for part in range(1, panel.shape[0]):
        total, more = panel[0, row], panel[part, row]
        for at in range(len(total)):
            total[at] += more[at]


@kernel()
def count(space, group, panel, row, column):
    """Counts the others column.. for the queries row.., except those of the query's class: they are the thresholds.

    panel: float32[slices, rows, M]; the sum over slices, which stays in the first slice, is the dots.
    """
    chosen, pending = np.empty(panel.shape[2], np.int32), np.empty(panel.shape[2] + 1, np.int32)
    factor = np.float32(1.0) if space.cosine else np.float32(2.0)
    end = column + panel.shape[2]
    for query in range(row, row + panel.shape[1]):
        _add_slices(panel, query - row)
        mine = _thresholds(space, group, query)
        if not len(mine):
            continue
        at = query - group.first
        counts, place = _counts(space, group, query), group.place[at]
        for low, high in ((column, min(end, space.start[query])), (max(column, space.stop[query]), end)):
            if low >= high:
                continue
            dots = panel[0, query - row, low - column : high - column]
            mark = chosen[: high - low]
            _find_buckets(space.offsets[low:high], dots, factor, group.grid[at, 0], group.grid[at, 1], mark)
            waiting = _count_buckets(mark, place, group.filled[at], pending)
            waiting = _settle(space, query, low, mine, place, mark, dots, counts, pending[:waiting])
            _settle_exactly(space, query, low, mine, counts, pending[:waiting])


@kernel()
def _counts(space, group, query):
    at = query - group.first
    return group.counts[group.slot[at] + at : group.slot[at] + at + space.stop[query] - space.start[query]]


@kernel()
def find_ranks(space, group, out, first, last):
    """The ranks of each query's relevant ones at its slot, ascending: 1 + those nearer + the irrelevant as near."""
    for query in range(first, last):
        at = query - group.first
        counts = _counts(space, group, query)
        for bucket in range(BUCKETS):
            if group.place[at, bucket] >= 0:
                counts[group.place[at, bucket]] += group.filled[at, bucket]
        rank = 0
        for relevant in range(len(counts) - 1):
            rank += counts[relevant] + 1
            out[group.slot[at] + relevant] = rank
