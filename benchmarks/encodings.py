"""The encodings of an image: bytes, time to encode, time to decode, on real drawings at 128 pixels and one core.

python benchmarks/encodings.py --input FOLDER_OF_QUICKDRAW_FILES
"""

import argparse
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, quickdraw
from boceto import images
from boceto.console import table
from boceto.raster import Rasteriser

SIZE, FILES, EACH, REPEATS = 128, 60, 30, 5


def _microseconds(work: Callable[[], object], count: int) -> float:
    """Median time of one image."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / count * 1e6


def _by_pillow(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="folder of QuickDraw files")
    settings = Settings(output="", input=parser.parse_args().input)
    parts = quickdraw.plan(settings)
    sketches = [
        item.strokes
        for part in parts[:: max(1, len(parts) // FILES)]
        for item in itertools.islice(quickdraw.read(part, settings), EACH)
        if isinstance(item, Drawing)
    ]
    drawn = Rasteriser(SIZE, SIZE).draw(sketches)
    png, header, out = images.PngEncoder(SIZE, SIZE), images.png_header(SIZE, SIZE), np.empty((SIZE, SIZE, 1), np.uint8)
    rows = {"raw": (drawn[0].nbytes, _microseconds(lambda: [image.tobytes() for image in drawn], len(drawn)), 0.0)}
    raw = [image.tobytes() for image in drawn]

    def fill() -> None:
        for data in raw:
            out.reshape(-1)[:] = np.frombuffer(data, np.uint8)

    rows["raw"] = (*rows["raw"][:2], _microseconds(fill, len(drawn)))
    for level in (0, 1, 2, 3):
        images.PNG_LEVEL = level
        encoded = [png.encode(image) for image in drawn]
        encode = _microseconds(lambda: [png.encode(image) for image in drawn], len(drawn))
        decode = _microseconds(lambda data=encoded: [images.decode_png(one, out, header) for one in data], len(drawn))
        rows[f"png, isal level {level}"] = (statistics.mean(map(len, encoded)), encode, decode)
    by_pillow = [_by_pillow(image) for image in drawn]
    encode = _microseconds(lambda: [_by_pillow(image) for image in drawn], len(drawn))
    decode = _microseconds(lambda: [np.asarray(Image.open(io.BytesIO(data))) for data in by_pillow], len(drawn))
    rows["png, Pillow"] = (statistics.mean(map(len, by_pillow)), encode, decode)
    cells = [(name, f"{size:,.0f}", f"{encode:.1f}", f"{decode:.1f}") for name, (size, encode, decode) in rows.items()]
    print(table(("encoding", "bytes", "encode, us", "decode, us"), cells))
    print(json.dumps({"encodings": rows}))


if __name__ == "__main__":
    main()
