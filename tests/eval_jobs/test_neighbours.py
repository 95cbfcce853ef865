import io

import numpy as np
from PIL import Image

from eval_jobs.neighbours import HIT, MISS, Tile, choose, draw, nearest


def test_every_class_is_shown_before_one_is_shown_twice():
    labels = np.repeat(np.arange(6, dtype=np.int32), 10)
    assert labels[choose(labels, 6, seed=0)].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.bincount(labels[choose(labels, 9, seed=0)]).tolist().count(2) == 3
    assert choose(labels, 6, seed=0).tolist() != choose(labels, 6, seed=1).tolist()
    assert len(choose(labels[:4], 9, seed=0)) == 4


def test_a_tie_shows_the_miss_first_and_the_query_never():
    distances = np.array([0.0, 1.0, 1.0, 0.0, 5.0, 2.0, 3.0])
    labels = np.array([0, 0, 1, 1, 0, 0, 0], np.int32)
    assert nearest(distances, labels, 0).tolist() == [3, 2, 1, 5, 6]


def test_hits_and_misses_have_their_frames():
    image = np.full((16, 16), 128, np.uint8)
    rows = [[Tile(image, "a", None), Tile(image, "a", True), Tile(image, "a name that is far too long", False)]]
    picture = Image.open(io.BytesIO(draw(rows))).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 16)}
    assert {HIT, MISS} <= colours
