"""The picture of neighbours: test drawings beside those nearest to them, hits and misses marked."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

NEAREST = 5
TILE = 112
FRAME = 5
GAP = 10
TEXT = 15
TOP = 34
HIT, MISS, QUERY = (26, 140, 70), (205, 50, 40), (70, 70, 70)
PAPER, INK = (250, 250, 250), (30, 30, 30)


@dataclass(frozen=True)
class Tile:
    """One drawing: uint8[H, W], its class's name, and whether it is a hit (None for the query)."""

    image: NDArray[np.uint8]
    name: str
    hit: bool | None


def choose(labels: NDArray[np.int32], count: int, seed: int) -> NDArray[np.int64]:
    """int32[N] -> int64[<= count] drawings to show, of as many classes as there are, in the order of their classes."""
    random = np.random.default_rng([seed, len(labels)])
    shuffled = random.permutation(len(labels))
    # The n-th drawing of its class comes after all (n - 1)-th ones.
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[shuffled] == label)
        turn[mine] = np.arange(len(mine))
    chosen = shuffled[np.argsort(turn, kind="stable")[:count]]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def nearest(distances: NDArray[np.float64], labels: NDArray[np.int32], query: int) -> NDArray[np.int64]:
    """float64[N], int32[N] -> int64[<= 5], the nearest others; ties: the irrelevant ones first, then by number."""
    order = np.lexsort((np.arange(len(labels)), labels == labels[query], distances))
    return order[order != query][:NEAREST]


def draw(rows: Sequence[Sequence[Tile]]) -> bytes:
    """Rows of a query and its neighbours -> a PNG."""
    cell = TILE + 2 * FRAME
    columns = max(len(row) for row in rows)
    width, height = GAP + columns * (cell + GAP) + GAP, TOP + len(rows) * (cell + TEXT + 2 * GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    _draw_legend(picture)
    for down, row in enumerate(rows):
        for right, tile in enumerate(row):
            # A wider gap keeps the query apart from its neighbours.
            x = GAP + right * (cell + GAP) + (GAP if right else 0)
            _draw_tile(picture, tile, x, TOP + down * (cell + TEXT + 2 * GAP))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _draw_legend(picture: Image.Image) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    x: float = GAP
    words = (("query", QUERY), (f"its {NEAREST} nearest:", INK), ("hit", HIT), ("miss (crossed)", MISS))
    for text, colour in words:
        pen.text((x, GAP), text, colour, font)
        x += pen.textlength(text, font) + 2 * GAP


def _draw_tile(picture: Image.Image, tile: Tile, x: int, y: int) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    colour = QUERY if tile.hit is None else HIT if tile.hit else MISS
    side = TILE + 2 * FRAME
    pen.rectangle((x, y, x + side - 1, y + side - 1), colour)
    filter_ = Image.Resampling.NEAREST if max(tile.image.shape) < TILE else Image.Resampling.LANCZOS
    picture.paste(Image.fromarray(tile.image).resize((TILE, TILE), filter_), (x + FRAME, y + FRAME))
    if tile.hit is False:  # A mark beside the colour, for those who do not see it.
        near, far = x + side - 22, y + 22
        pen.rectangle((near, y, x + side - 1, far), colour)
        pen.line((near + 6, y + 6, x + side - 7, far - 6), PAPER, 3)
        pen.line((near + 6, far - 6, x + side - 7, y + 6), PAPER, 3)
    text = tile.name
    while text and pen.textlength(text, font) > side:
        text = f"{text.removesuffix('...')[:-1]}..."
    pen.text((x, y + side + 2), text, colour, font)
