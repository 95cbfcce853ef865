"""`preview.png`: a row of drawings a class, since people would rather look than read."""

import io
import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from boceto import dataset, storage
from boceto.dataset import DataSet

PREVIEW = "preview.png"
DRAWINGS = 8
TILE = 48
LABEL_WIDTH = 130
MOST_ROWS = 50


def _first_of_each(data: DataSet) -> list[list[NDArray[np.uint8]]]:
    """The first drawings of each class, uint8[H, W, C]; shards are read only until there are enough of all."""
    found: list[list[NDArray[np.uint8]]] = [[] for _ in data.manifest.classes]
    wanted = [min(DRAWINGS, count) for count in data.manifest.splits["train"].per_class]
    for shard in data.shards("train"):
        order = np.argsort(shard.labels, kind="stable")
        starts = np.searchsorted(shard.labels[order], np.arange(len(found) + 1))
        for label, (start, stop) in enumerate(itertools.pairwise(starts)):
            missing = wanted[label] - len(found[label])
            found[label].extend(shard.images(order[start : min(start + missing, stop)]))
        if [len(images) for images in found] == wanted:
            break
    return found


def draw_preview(url: str) -> None:
    """Draws `preview.png` beside the data set at `url`: columns of rows, a class a row with its name."""
    data = dataset.load(url)
    rows = min(MOST_ROWS, len(data.manifest.classes))
    columns = -(-len(data.manifest.classes) // rows)
    sheet = Image.new(
        "L" if data.manifest.channels == 1 else "RGB",
        (columns * (LABEL_WIDTH + DRAWINGS * TILE), rows * TILE),
        "#404040",
    )
    width, height = data.manifest.width, data.manifest.height
    longest = max(width, height)
    size = max(1, round(width * (TILE - 2) / longest)), max(1, round(height * (TILE - 2) / longest))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for label, images in enumerate(_first_of_each(data)):
        left, top = label // rows * (LABEL_WIDTH + DRAWINGS * TILE), label % rows * TILE
        pen.text((left + 6, top + TILE // 2), data.manifest.classes[label][:20], "white", font, anchor="lm")
        for place, image in enumerate(images):
            drawing = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
            sheet.paste(drawing.resize(size, Image.Resampling.BOX), (left + LABEL_WIDTH + place * TILE + 1, top + 1))
    file = io.BytesIO()
    sheet.save(file, "png")
    storage.write_bytes(storage.join(url, PREVIEW), file.getvalue())
