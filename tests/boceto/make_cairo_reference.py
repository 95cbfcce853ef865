"""Makes cairo_reference.npz: synthetic drawings and their pixels by cairo, supersampled 16 times.

Run it by hand, with pycairo installed: python tests/boceto/make_cairo_reference.py
"""

from pathlib import Path

import cairo
import numpy as np

from beam_pipelines.sources import synthetic
from boceto import strokes

SIZE, MARGIN, FINE = 128, 1.0, 16
LINE_WIDTHS = (1.0, 2.0, 5.0)


def by_cairo(ink: bytes, line_width: float) -> np.ndarray:
    """Packed strokes -> uint8[SIZE, SIZE], the mean over FINE x FINE unsmoothed subpixels."""
    lines = [stroke.astype(float) for stroke in strokes.unpack(ink)]
    every = np.concatenate(lines)
    low, extent = every.min(axis=0), max((every.max(axis=0) - every.min(axis=0)).max(), 1)
    scale = (SIZE - 2 * MARGIN - line_width) / extent
    shift = (SIZE - (every.max(axis=0) - low) * scale) / 2
    surface = cairo.ImageSurface(cairo.FORMAT_A8, SIZE * FINE, SIZE * FINE)
    pen = cairo.Context(surface)
    pen.set_antialias(cairo.ANTIALIAS_NONE)
    pen.set_line_cap(cairo.LINE_CAP_ROUND)
    pen.set_line_join(cairo.LINE_JOIN_ROUND)
    pen.set_line_width(line_width * FINE)
    for line in lines:
        places = ((line - low) * scale + shift) * FINE
        pen.move_to(*places[0])
        for place in places:
            pen.line_to(*place)
    pen.stroke()
    surface.flush()
    pixels = np.ndarray((SIZE * FINE, surface.get_stride()), np.uint8, surface.get_data())
    return np.rint(pixels.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))).astype(np.uint8)


if __name__ == "__main__":
    inks = [synthetic.draw(3, category, 0) for category in sorted(synthetic.RULES)]
    arrays = {f"width_{width}": np.stack([by_cairo(ink, width) for ink in inks]) for width in LINE_WIDTHS}
    joined = np.frombuffer(b"".join(inks), np.uint8)
    target = Path(__file__).with_name("cairo_reference.npz")
    np.savez_compressed(target, inks=joined, lengths=[len(ink) for ink in inks], **arrays)
