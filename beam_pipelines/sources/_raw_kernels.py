"""The compiled part of `quickdraw`'s raw form: Google's simplification of a stroke.

Source: https://github.com/googlecreativelab/quickdraw-dataset#simplified-drawing-files-ndjson, steps 3 and 4.
"""

import math

import numpy as np

from boceto.kernels import kernel


@kernel()
def simplify(points, epsilon):
    """float64[N, 2] -> float64[M, 2]: resampled at a spacing of 1, then Ramer-Douglas-Peucker with `epsilon`."""
    dense = _resample(points)
    keep = np.zeros(len(dense), np.bool_)
    keep[0] = keep[-1] = True
    stack = [(0, len(dense) - 1)]
    while stack:
        first, last = stack.pop()
        farthest, distance = _farthest(dense, first, last)
        if distance > epsilon:
            keep[farthest] = True
            stack.append((first, farthest))
            stack.append((farthest, last))
    return dense[keep]


@kernel()
def _resample(points):
    """The first point, a point every 1 along the line, the last point."""
    total = 0.0
    for number in range(1, len(points)):
        total += _distance(points, number - 1, number)
    dense = np.empty((np.int64(total) + 2, 2), np.float64)
    dense[0] = points[0]
    found = 1
    travelled = 0.0
    for number in range(1, len(points)):
        step = _distance(points, number - 1, number)
        while found <= travelled + step and found < len(dense) - 1:
            share = (found - travelled) / step
            dense[found, 0] = points[number - 1, 0] + share * (points[number, 0] - points[number - 1, 0])
            dense[found, 1] = points[number - 1, 1] + share * (points[number, 1] - points[number - 1, 1])
            found += 1
        travelled += step
    dense[found] = points[-1]
    return dense[: found + 1]


@kernel()
def _distance(points, first, second):
    dx = points[second, 0] - points[first, 0]
    dy = points[second, 1] - points[first, 1]
    return math.sqrt(dx * dx + dy * dy)


@kernel()
def _farthest(points, first, last):
    """(point, distance) of the point between first and last that is farthest from the segment between them."""
    best, farthest = -1.0, first
    dx = points[last, 0] - points[first, 0]
    dy = points[last, 1] - points[first, 1]
    squared = dx * dx + dy * dy
    for number in range(first + 1, last):
        px = points[number, 0] - points[first, 0]
        py = points[number, 1] - points[first, 1]
        share = 0.0
        if squared > 0.0:
            share = min(1.0, max(0.0, (px * dx + py * dy) / squared))
        ex = px - share * dx
        ey = py - share * dy
        distance = math.sqrt(ex * ex + ey * ey)
        if distance > best:
            best, farthest = distance, number
    return farthest, best
