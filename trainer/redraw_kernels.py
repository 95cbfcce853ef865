"""The compiled part of `trainer.redraw`: it deforms drawings, point by point, with a stream of random numbers for each.

The kernels are ours because NumPy takes several calls a stroke for them, which would cost more than drawing.
"""

import math

import numpy as np

from boceto.kernels import kernel

# The ranges at strength 1. The coordinates of strokes are 0..255.
ROTATION = math.radians(10)
SHEAR = 0.15
STRETCH = 0.1  # Of the width; of the height by the inverse.
SHRINK = 0.15  # Share of the size.
SHIFT = 0.05  # Share of the image.
DROP = 0.1  # Probability that a very short stroke is dropped; the longest stroke always stays.
MOVE = 4.0  # Of a whole stroke, in coordinates.
BEND = 0.06  # Of a pivot, as a share of the stroke's length.
TREMBLE = 1.0  # Of a point, in coordinates.
PIECE = 32  # Segments longer than this are cut into pieces, so that a straight line bends too.
MOST_PIECES = 12  # Of the longest segment: the diagonal, 361.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11))


@kernel()
def place(inks, starts, keys, strength, room, points, strokes, drawings):
    """Deforms B drawings, packed strokes inks[starts[i]:starts[i + 1]], and places them in the image.

    room: width, height and inset of the area for the strokes' points, in 1/256 pixels. Fills points, float64[N, 2] in
    1/256 pixels, strokes and drawings as in `raster.Lines`. Returns whether all strokes are whole.
    """
    point = stroke = 0
    state = np.empty(1, np.uint64)
    pivots = np.empty((4, 2))
    for number in range(keys.size):
        state[0] = keys[number]
        first, at, end = point, starts[number], starts[number + 1]
        longest = _longest(inks, at, end)
        if longest < 0:
            return False
        while at < end:
            count = np.int64(inks[at]) | (np.int64(inks[at + 1]) << 8)
            xs, ys = inks[at + 2 : at + 2 + count], inks[at + 2 + count : at + 2 + 2 * count]
            at += 2 + 2 * count
            length = _length(xs, ys)
            chance = 0.5 + 0.5 * _signed(state)
            if chance < DROP * strength * (1 - length / longest):
                continue
            for axis in range(2):
                move = MOVE * _signed(state)
                for pivot in range(4):
                    pivots[pivot, axis] = strength * (move + BEND * length * _signed(state))
            point = _bend(xs, ys, length, pivots, TREMBLE * strength, state, points, point)
            stroke += 1
            strokes[stroke] = point
        _fit(points[first:point], room, strength, state)
        drawings[number + 1] = stroke
    return True


@kernel()
def _longest(inks, at, end):
    """The length of the longest stroke, at least 1; -1 where a stroke is empty or cut off."""
    longest = 1.0
    while at < end:
        if at + 2 > end:
            return -1.0
        count = np.int64(inks[at]) | (np.int64(inks[at + 1]) << 8)
        if count == 0 or at + 2 + 2 * count > end:
            return -1.0
        longest = max(longest, _length(inks[at + 2 : at + 2 + count], inks[at + 2 + count : at + 2 + 2 * count]))
        at += 2 + 2 * count
    return longest


@kernel()
def _length(xs, ys):
    """The length of a stroke of points uint8[n]."""
    length = 0.0
    for point in range(1, xs.size):
        length += math.hypot(float(xs[point]) - xs[point - 1], float(ys[point]) - ys[point - 1])
    return length


@kernel()
def _bend(xs, ys, length, pivots, tremble, state, points, at):
    """Writes the points of a stroke, bent, from points[at] on; returns the end of what it wrote.

    A point at the share t of the length moves as the point t of the Bezier curve moves with its pivots, float64[4, 2].
    """
    ax, ay = 0.0, 0.0
    done = 0.0
    for point in range(xs.size):
        bx, by = xs[point] + tremble * _signed(state), ys[point] + tremble * _signed(state)
        way, pieces = 0.0, 1
        if point:
            way = math.hypot(float(xs[point]) - xs[point - 1], float(ys[point]) - ys[point - 1])
            pieces = 1 + int(way / PIECE)
        for piece in range(1, pieces + 1):
            share = piece / pieces
            t = (done + share * way) / max(length, 1.0)
            u = 1 - t
            b0, b1, b2, b3 = u * u * u, 3 * t * u * u, 3 * t * t * u, t * t * t
            x = ax + share * (bx - ax) if point else bx
            y = ay + share * (by - ay) if point else by
            points[at, 0] = x + b0 * pivots[0, 0] + b1 * pivots[1, 0] + b2 * pivots[2, 0] + b3 * pivots[3, 0]
            points[at, 1] = y + b0 * pivots[0, 1] + b1 * pivots[1, 1] + b2 * pivots[2, 1] + b3 * pivots[3, 1]
            at += 1
        ax, ay = bx, by
        done += way
    return at


@kernel()
def _fit(points, room, strength, state):
    """Turns, shears and stretches a drawing, float64[n, 2], and places it in the room (width, height, inset)."""
    angle, shear = ROTATION * strength * _signed(state), SHEAR * strength * _signed(state)
    stretch = math.exp(STRETCH * strength * _signed(state))
    cos, sin = math.cos(angle), math.sin(angle)
    for point in range(points.shape[0]):
        x, y = points[point, 0] * stretch + points[point, 1] * shear, points[point, 1] / stretch
        points[point, 0], points[point, 1] = cos * x - sin * y, sin * x + cos * y
    wide = points[:, 0].max() - points[:, 0].min()
    high = points[:, 1].max() - points[:, 1].min()
    size = min(room[0] / max(wide, 1.0), room[1] / max(high, 1.0))
    size *= 1 - SHRINK * strength * (0.5 + 0.5 * _signed(state))
    for axis, extent in enumerate((wide, high)):
        free = (room[axis] - extent * size) / 2
        shift = min(max(SHIFT * strength * room[axis] * _signed(state), -free), free)
        points[:, axis] = room[2] + free + shift + (points[:, axis] - points[:, axis].min()) * size


@kernel()
def _signed(state):
    """The next random number in [-1, 1) of the stream `state`, uint64[1]: SplitMix64, as in `trainer.order`."""
    state[0] += _GOLDEN
    x = state[0]
    x = (x ^ (x >> _SHIFTS[0])) * _MIX[0]
    x = (x ^ (x >> _SHIFTS[1])) * _MIX[1]
    x ^= x >> _SHIFTS[2]
    return float(x >> _SHIFTS[3]) * 2.0**-52 - 1
