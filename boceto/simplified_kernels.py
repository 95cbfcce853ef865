"""The compiled part of `simplified`: Google's simplification of a stroke.

Source: https://github.com/googlecreativelab/quickdraw-dataset#simplified-drawing-files-ndjson, steps 3 and 4. The order
of the operations is part of it: where two points are equally far from a line, the last bit of a float decides.
"""

import math

import numpy as np

from boceto.kernels import kernel


@kernel()
def simplify(points, epsilon, work):
    """float64[N, 2] -> float64[M, 2], work left: resampled at a spacing of 1, then Ramer-Douglas-Peucker.

    epsilon: the largest distance of a point that is left out from the endless line through both ends. work: how many
    distances may be measured; where these are too few, less than 0 is left, and the points mean nothing.
    """
    dense = _resample(points)
    keep = np.zeros(len(dense), np.bool_)
    keep[0] = keep[-1] = True
    stack = [(0, len(dense) - 1)]
    while stack and work >= 0:
        first, last = stack.pop()
        work -= last - first
        if work < 0:
            break
        farthest, distance = _farthest(dense, first, last)
        if distance > epsilon:
            keep[farthest] = True
            stack.append((first, farthest))
            stack.append((farthest, last))
    return dense[keep], work


@kernel()
def length(points):
    """The length of the line through float64[N, 2]."""
    total = 0.0
    for number in range(1, len(points)):
        total += _distance(points, number - 1, number)
    return total


@kernel()
def _resample(points):
    """The first point, a point every 1 along the line, the last point: at least two, even of a stroke of one point."""
    dense = np.empty((np.int64(math.ceil(length(points))) + 2, 2), np.float64)
    dense[0] = points[0]
    found = 1
    travelled = 0.0
    for number in range(1, len(points)):
        step = _distance(points, number - 1, number)
        before = travelled
        travelled += step
        while found < travelled:
            share = (found - before) / step
            rest = 1.0 - share
            dense[found, 0] = points[number - 1, 0] * rest + points[number, 0] * share
            dense[found, 1] = points[number - 1, 1] * rest + points[number, 1] * share
            found += 1
    dense[found] = points[-1]
    return dense[: found + 1]


@kernel()
def _distance(points, first, second):
    dx = points[second, 0] - points[first, 0]
    dy = points[second, 1] - points[first, 1]
    return math.sqrt(dx * dx + dy * dy)


@kernel()
def _farthest(points, first, last):
    """(point, distance) of the first point between first and last that is farthest from the line through them; from
    the one place where both are, if they are at the same.
    """
    dx = points[last, 0] - points[first, 0]
    dy = points[last, 1] - points[first, 1]
    apart = math.sqrt(dx * dx + dy * dy)
    best, farthest, largest = 0.0, first, 0.0
    for number in range(first + 1, last):
        px = points[first, 0] - points[number, 0]
        py = points[first, 1] - points[number, 1]
        area = abs(dx * py - dy * px) if apart > 0.0 else px * px + py * py
        if area > largest:  # A smaller one is no farther: dividing and taking roots keep the order.
            largest = area
            distance = area / apart if apart > 0.0 else math.sqrt(area)
            if distance > best:
                best, farthest = distance, number
    return farthest, best
