import numpy as np
import pytest

from beam_pipelines.sources import synthetic
from boceto import dataset, strokes
from boceto.errors import DataError
from boceto.raster import Rasteriser
from trainer import order, redraw

INKS = [synthetic.draw(1, category, 1) for category in sorted(synthetic.RULES)]


@pytest.fixture
def split(make_data):
    return dataset.load(make_data(size=48, channels=1)).split("train")


def keys(count, epoch=0):
    return order.draws(0, np.full(count, epoch), np.arange(count), 1, "stroke")[:, 0]


def test_without_strength_a_drawing_is_drawn_as_in_its_data_set(split):
    drawn = redraw.Redrawer(split, 0.0).draw(INKS, keys(len(INKS)))[..., 0]
    # Positions are rounded otherwise, by 1/256 pixel.
    assert np.abs(drawn.astype(int) - Rasteriser(48, 48).draw(INKS)).max() <= 4


def test_a_drawing_is_a_function_of_its_key_alone(split):
    redrawer = redraw.Redrawer(split, 1.0)
    together = redrawer.draw(INKS, keys(len(INKS)))
    alone = [redrawer.draw([ink], key[None]) for ink, key in zip(INKS, keys(len(INKS)), strict=True)]
    assert (np.concatenate(alone) == together).all()
    other = redrawer.draw(INKS, keys(len(INKS), epoch=1))
    assert all((one != two).any() for one, two in zip(together, other, strict=True))


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_the_margin_stays_free_and_there_is_ink(split, strength):
    drawn = redraw.Redrawer(split, strength).draw(INKS * 20, keys(20 * len(INKS)))[..., 0]
    for edge in (drawn[:, 0], drawn[:, -1], drawn[:, :, 0], drawn[:, :, -1]):
        assert (edge == 0).all()
    assert (drawn.max(axis=(1, 2)) > 150).all()


def test_the_longest_stroke_stays_and_a_dot_may_go(split):
    ink = strokes.pack([[[0, 255], [200, 200]], [[128], [0]]])
    drawn = redraw.Redrawer(split, 1.0).draw([ink] * 1000, keys(1000))[..., 0]
    rows = (drawn > 100).any(axis=2)
    tall = np.array([np.ptp(np.flatnonzero(row)) for row in rows])  # The dot stands high above the line.
    assert 0.07 < (tall < 20).mean() < 0.13
    assert ((drawn > 100).any(axis=1).sum(axis=1) > 30).all()


def test_a_line_is_thicker_or_thinner_and_straight_lines_bend(split):
    drawn = redraw.Redrawer(split, 1.0).draw([strokes.pack([[[0, 255], [0, 0]]])] * 200, keys(200))[..., 0]
    ink = drawn.sum(axis=(1, 2)) / 255 / (drawn > 0).any(axis=1).sum(axis=1)
    assert ink.min() < 1.7
    assert ink.max() > 2.5
    middles = (drawn * np.arange(48.0)[:, None]).sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
    bent = [np.abs(np.diff(middle[middle > 0], 2)).sum() for middle in middles]
    assert np.median(bent) > 0.2


def test_size_channels_and_ink_are_those_of_the_data_set(make_data):
    split = dataset.load(make_data(size=20, width=30, channels=3)).split("train")
    split.manifest.options["ink"] = "black"
    drawn = redraw.Redrawer(split, 1.0).draw(INKS[:2], keys(2))
    assert drawn.shape == (2, 20, 30, 3)
    assert (drawn[:, 0] == 255).all()
    assert (drawn == drawn[..., :1]).all()


def test_pictures_without_strokes_are_refused_in_words(make_run):
    run = make_run(strokes=False)
    code, said = run.train("--augment", "stroke", "--max-steps", "1")
    assert code == 2
    assert "train.augment = 'stroke' needs drawings with strokes, and this data set holds pictures without" in said
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize("ink", [b"\x05", b"\x02\x00\x01\x01\x01", b"\x00\x00", INKS[0] + b"\x01\x00\x01"])
def test_strokes_that_are_cut_off_are_damage(split, ink):
    with pytest.raises(DataError, match="the strokes of a drawing are cut off"):
        redraw.Redrawer(split, 1.0).draw([ink], keys(1))
