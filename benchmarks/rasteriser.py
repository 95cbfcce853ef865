"""The rasteriser against cairo's anti-aliased modes: drawings a second on one core, and the error of each.

    python benchmarks/rasteriser.py --input FOLDER_OF_QUICKDRAW_FILES

Needs pycairo, which needs cairo's headers: apt-get install libcairo2-dev pkg-config; pip install pycairo.
The error is the mean absolute difference, of 255, to cairo supersampled 16 times without smoothing.
"""

import argparse
import itertools
import json
import statistics
import sys
import time

import numpy as np
from numpy.typing import NDArray

from beam_pipelines.drawer import BATCH
from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, quickdraw
from boceto import strokes
from boceto.console import table
from boceto.raster import Rasteriser

try:
    import cairo
except ModuleNotFoundError:
    sys.exit("benchmarks/rasteriser.py needs pycairo: apt-get install libcairo2-dev pkg-config; pip install pycairo")

SIZE, LINE_WIDTH, MARGIN = 128, 2.0, 1.0
REPEATS, FINE, CHECKED = 9, 16, 300
MODES = {"fast": cairo.ANTIALIAS_FAST, "gray": cairo.ANTIALIAS_GRAY, "best": cairo.ANTIALIAS_BEST}

Lines = list[list[tuple[float, float]]]


def real_drawings(folder: str, files: int, each: int) -> list[bytes]:
    """Packed drawings out of evenly spaced files of the folder."""
    settings = Settings(output="", input=folder)
    parts = quickdraw.plan(settings)
    inks = []
    for part in parts[:: max(1, len(parts) // files)]:
        items = (item for item in quickdraw.read(part, settings) if isinstance(item, Drawing))
        inks += [item.strokes for item in itertools.islice(items, each)]
    return inks


def placed(ink: bytes) -> Lines:
    """The strokes of a drawing where the rasteriser puts them, in pixels."""
    lines = [stroke.astype(float) for stroke in strokes.unpack(ink)]
    every = np.concatenate(lines)
    extent = max((every.max(axis=0) - every.min(axis=0)).max(), 1)
    scale = (SIZE - 2 * MARGIN - LINE_WIDTH) / extent
    shift = (SIZE - (every.max(axis=0) - every.min(axis=0)) * scale) / 2 - every.min(axis=0) * scale
    return [[tuple(point) for point in (line * scale + shift).tolist()] for line in lines]


def by_cairo(lines: Lines, mode: int, fine: int = 1) -> NDArray[np.uint8]:
    """Draws one drawing at `fine` times the size: uint8[fine * SIZE, fine * SIZE]."""
    surface = cairo.ImageSurface(cairo.FORMAT_A8, SIZE * fine, SIZE * fine)
    pen = cairo.Context(surface)
    pen.scale(fine, fine)
    pen.set_antialias(mode)
    pen.set_line_cap(cairo.LINE_CAP_ROUND)
    pen.set_line_join(cairo.LINE_JOIN_ROUND)
    pen.set_line_width(LINE_WIDTH)
    for line in lines:
        pen.move_to(*line[0])
        for point in line:
            pen.line_to(*point)
    pen.stroke()
    surface.flush()
    return np.ndarray((SIZE * fine, surface.get_stride()), np.uint8, surface.get_data())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of QuickDraw files")
    inks = real_drawings(parser.parse_args().input, 60, 50)
    drawings = [placed(ink) for ink in inks]
    rasteriser = Rasteriser(SIZE, SIZE, LINE_WIDTH, MARGIN)
    drawn = rasteriser.draw(inks)
    pixels = np.empty((BATCH, SIZE, SIZE), np.uint8)
    truth = [
        by_cairo(lines, cairo.ANTIALIAS_NONE, FINE).reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))
        for lines in drawings[:CHECKED]
    ]
    images = {name: [by_cairo(lines, mode) for lines in drawings[:CHECKED]] for name, mode in MODES.items()}
    images["boceto"] = list(drawn[:CHECKED])
    errors = {
        name: statistics.mean(np.abs(image - right).mean() for image, right in zip(mine, truth, strict=True))
        for name, mine in images.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in images}
    for _ in range(REPEATS):
        start = time.perf_counter()
        for at in range(0, len(inks), BATCH):
            rasteriser.draw(inks[at : at + BATCH], pixels)
        seconds["boceto"].append(time.perf_counter() - start)
        for name, mode in MODES.items():
            start = time.perf_counter()
            for lines in drawings:
                by_cairo(lines, mode)
            seconds[name].append(time.perf_counter() - start)
    rates = {name: len(inks) / statistics.median(times) for name, times in seconds.items()}
    fastest = max(rates[name] for name in MODES)
    rows = [
        (name, f"{rates[name]:,.0f}", f"{rates[name] / fastest:.2f}", f"{errors[name]:.2f}")
        for name in ("boceto", *MODES)
    ]
    print(table(("rasteriser, one core", "drawings/s", "of cairo's fastest", "error"), rows))
    result = {"drawings": len(inks), "ratio": rates["boceto"] / fastest, "error": errors["boceto"], "rates": rates}
    print(json.dumps({"rasteriser": result}))


if __name__ == "__main__":
    main()
