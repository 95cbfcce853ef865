"""The compiled part of `boceto.raster`: strokes to pixels in integers alone.

Positions are fixed-point with 8 fractional bits (a pixel is 256), directions with 16. A segment covers a pixel by the
distance of the pixel's centre from it; `coverage` maps the squared distance, in 1/1024 square pixels, to 0..255. The
kernels are ours because `boceto.raster` is: numba compiles plain loops of integers, which mean the same everywhere.
"""

import math

import numpy as np

from boceto.kernels import kernel


@kernel()
def draw(inks, starts, inset, coverage, images, step):
    """Draws B drawings, packed strokes inks[starts[i]:starts[i + 1]], into the zeroed images, uint8[B, H, W].

    inset: distance of the outermost points from the border, in 1/256 pixels. step: rows that are multiples of it
    are drawn.

    Returns whether all strokes are whole; where they are not, nothing is read beyond them.
    """
    xs = np.empty(0xFFFF, np.int64)
    ys = np.empty(0xFFFF, np.int64)
    for number in range(images.shape[0]):
        begin, end = starts[number], starts[number + 1]
        if not _whole(inks, begin, end):
            return False
        left, top, right, bottom = _bounds(inks, begin, end)
        high, wide = images.shape[1] * 256 - 2 * inset, images.shape[2] * 256 - 2 * inset
        # The side that fills the image: the other one is scaled as it is.
        room, extent = (wide, right - left) if (right - left) * high >= (bottom - top) * wide else (high, bottom - top)
        extent = max(extent, 1)
        shift_x = inset + (wide - (right - left) * room // extent) // 2
        shift_y = inset + (high - (bottom - top) * room // extent) // 2
        at = begin
        while at < end:
            count = np.int64(inks[at]) | (np.int64(inks[at + 1]) << 8)
            at += 2
            for point in range(count):
                xs[point] = shift_x + (np.int64(inks[at + point]) - left) * room // extent
                ys[point] = shift_y + (np.int64(inks[at + count + point]) - top) * room // extent
            at += 2 * count
            if count == 1:
                _segment(images[number], coverage, step, xs[0], ys[0], xs[0], ys[0])
            for point in range(1, count):
                _segment(images[number], coverage, step, xs[point - 1], ys[point - 1], xs[point], ys[point])
    return True


@kernel()
def draw_lines(points, strokes, drawings, widths, coverages, starts, images):
    """Draws B drawings, placed lines, into the zeroed images, uint8[B, H, W].

    Drawing i is the strokes drawings[i]:drawings[i + 1]; stroke s is the points strokes[s]:strokes[s + 1], one or more.
    points: int64[N, 2], (x, y) in 1/256 pixels. The coverage of drawing i is coverages[starts[w]:starts[w + 1]], where
    w = widths[i].
    """
    for number in range(images.shape[0]):
        coverage = coverages[starts[widths[number]] : starts[widths[number] + 1]]
        for stroke in range(drawings[number], drawings[number + 1]):
            first, last = strokes[stroke], strokes[stroke + 1] - 1
            for point in range(first, max(last, first + 1)):
                ax, ay = points[point]
                bx, by = points[min(point + 1, last)]
                _segment(images[number], coverage, 1, ax, ay, bx, by)


@kernel()
def _whole(inks, begin, end):
    """Whether the strokes end where the drawing ends."""
    at = begin
    while at + 2 <= end:
        at += 2 + 2 * (np.int64(inks[at]) | (np.int64(inks[at + 1]) << 8))
    return at == end


@kernel()
def _bounds(inks, begin, end):
    left, top, right, bottom = np.int64(255), np.int64(255), np.int64(0), np.int64(0)
    at = begin
    while at < end:
        count = np.int64(inks[at]) | (np.int64(inks[at + 1]) << 8)
        at += 2
        for point in range(at, at + count):
            left = min(left, np.int64(inks[point]))
            right = max(right, np.int64(inks[point]))
        for point in range(at + count, at + 2 * count):
            top = min(top, np.int64(inks[point]))
            bottom = max(bottom, np.int64(inks[point]))
        at += 2 * count
    return left, top, right, bottom


@kernel()
def _segment(image, coverage, step, ax, ay, bx, by):
    """Draws the segment from a to b with round ends; what is there stays where it is brighter."""
    height, width = image.shape
    reach = _root((coverage.size - 1) << 6)  # 1/1024 square pixels -> 1/256 pixels
    first_row = (max(0, (min(ay, by) - reach + 127) >> 8) + step - 1) // step * step
    last_row = min(height - 1, (max(ay, by) + reach - 128) >> 8)
    if first_row > last_row:
        return
    dx, dy = bx - ax, by - ay
    # The 24 more bits keep the direction's error far below what 128 or 1024 pixels of length could show.
    length = _root((dx * dx + dy * dy) << 16)
    ux = uy = np.int64(0)
    if length:
        ux, uy = (dx << 24) // length, (dy << 24) // length
    end = length << 8  # along the segment, in 1/65536 of 1/256 pixels
    left, right = min(ax, bx) - reach, max(ax, bx) + reach
    for row in range(first_row, last_row + 1, step):
        ry = (row << 8) + 128 - ay
        low, high = left, right
        if uy:
            # The columns whose distance from the line is within reach, one more at each side for rounding.
            middle, half = ax + ry * ux // uy, (reach << 16) // abs(uy) + 256
            low, high = max(low, middle - half), min(high, middle + half)
        first = max(0, (low + 127) >> 8)
        last = min(width - 1, (high - 128) >> 8)
        rx = (first << 8) + 128 - ax
        across = rx * uy - ry * ux
        along = rx * ux + ry * uy
        for column in range(first, last + 1):
            if along <= 0:
                near = (rx * rx + ry * ry) >> 6
            elif along >= end:
                qx, qy = rx - dx, ry - dy
                near = (qx * qx + qy * qy) >> 6
            else:
                near = ((across >> 12) * (across >> 12)) >> 14
            if near < coverage.size:
                image[row, column] = max(image[row, column], coverage[near])
            rx += 256
            across += uy << 8
            along += ux << 8


@kernel()
def _root(value):
    """The whole part of the square root of a number below 2**62; a float's root is corrected to be exact."""
    root = np.int64(math.sqrt(np.float64(value)))
    while root * root > value:
        root -= 1
    while (root + 1) * (root + 1) <= value:
        root += 1
    return root
