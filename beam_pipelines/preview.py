"""`preview.png`: a row of drawings a class, since people would rather look than read."""

import io
import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from boceto import dataset, storage

PREVIEW = "preview.png"
DRAWINGS = 8
TILE = 48
LABEL_WIDTH = 130
MOST_ROWS = 50


def _first_of_each(labels: NDArray[np.int32], count: int) -> list[NDArray[np.int64]]:
    """The first `count` record numbers of each label."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    return [order[start : min(start + count, stop)] for start, stop in itertools.pairwise(starts)]


def draw_preview(url: str) -> None:
    """Draws `preview.png` beside the data set at `url`: columns of rows, a class a row with its name."""
    data = dataset.load(url)
    train = data.split("train", verify=False)
    rows = min(MOST_ROWS, len(data.manifest.classes))
    columns = -(-len(data.manifest.classes) // rows)
    sheet = Image.new("L", (columns * (LABEL_WIDTH + DRAWINGS * TILE), rows * TILE), 64)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for label, numbers in enumerate(_first_of_each(train.labels, DRAWINGS)):
        left, top = label // rows * (LABEL_WIDTH + DRAWINGS * TILE), label % rows * TILE
        pen.text((left + 6, top + TILE // 2), data.manifest.classes[label][:20], 255, font, anchor="lm")
        for place, image in enumerate(train.images(numbers)):
            tile = Image.fromarray(image[:, :, 0]).resize((TILE - 2, TILE - 2), Image.Resampling.BOX)
            sheet.paste(tile, (left + LABEL_WIDTH + place * TILE + 1, top + 1))
    file = io.BytesIO()
    sheet.save(file, "png")
    storage.write_bytes(storage.join(url, PREVIEW), file.getvalue())
