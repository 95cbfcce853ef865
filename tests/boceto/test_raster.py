from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.sources import synthetic
from boceto import strokes
from boceto.errors import SettingsError
from boceto.raster import Rasteriser, coverage_table

REFERENCE = Path(__file__).with_name("cairo_reference.npz")


def _reference():
    with np.load(REFERENCE) as arrays:
        ends = np.cumsum(arrays["lengths"])
        joined = arrays["inks"].tobytes()
        inks = [joined[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]
        return inks, {float(name.removeprefix("width_")): arrays[name] for name in arrays if name.startswith("width_")}


def test_pixels_are_those_of_supersampled_cairo():
    inks, by_width = _reference()
    assert len(by_width) == 3
    for line_width, expected in by_width.items():
        drawn = Rasteriser(128, 128, line_width, 1.0).draw(inks)
        errors = np.abs(drawn.astype(int) - expected).mean(axis=(1, 2))
        assert errors.mean() <= 0.5, f"line width {line_width}"
        assert errors.max() <= 1.0, f"line width {line_width}"


def test_the_same_pixels_with_any_number_of_threads():
    inks = [synthetic.draw(1, category, 1) for category in sorted(synthetic.RULES)] * 4
    rasteriser = Rasteriser(96, 96, 2.0, 1.0)
    alone = rasteriser.draw(inks)
    with ThreadPoolExecutor(8) as pool:
        together = np.concatenate(list(pool.map(lambda ink: rasteriser.draw([ink]), inks)))
    assert (alone == together).all()


def test_a_known_drawing_has_known_pixels():
    # Worked by hand: size 8, width 2, margin 1 -> ends at x = 2 and x = 6, the line at y = 4 covers rows 3 and 4 whole.
    drawn = Rasteriser(8, 8, 2.0, 1.0).draw([strokes.pack([[[0, 255], [7, 7]]])])[0]
    assert (drawn[3:5, 2:6] == 255).all()
    assert (drawn[:3] == 0).all()
    assert (drawn[5:] == 0).all()
    # The round end reaches one pixel beyond x = 2; half of the pixel's centre distance stands out.
    assert 0 < drawn[3, 1] < 255
    assert drawn[3, 0] == 0


def test_proportions_are_kept_and_the_drawing_is_centred():
    wide = strokes.pack([[[0, 200, 200, 0, 0], [0, 0, 50, 50, 0]]])
    drawn = Rasteriser(100, 100, 2.0, 3.0).draw([wide])[0]
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert columns[0] == 3
    assert columns[-1] == 96
    height, width = rows[-1] - rows[0] + 1 - 2, columns[-1] - columns[0] + 1 - 2
    # 100 pixels less margins and line leave 92; a quarter of them is 23.
    assert (width, height) == (pytest.approx(92, abs=1), pytest.approx(23, abs=1))
    assert rows[0] == 99 - rows[-1]


@pytest.mark.parametrize(
    ("ink", "rows", "columns"),
    [
        (
            [[[0, 200, 200, 0, 0], [0, 0, 50, 50, 0]]],
            (8, 31),
            (2, 97),
        ),  # Four times as wide as high: as wide as it can.
        ([[[0, 50, 50, 0, 0], [0, 0, 200, 200, 0]]], (2, 37), (45, 54)),
        ([[[0, 200], [0, 0]]], (19, 20), (2, 97)),
        ([[[7, 7], [0, 9]]], (2, 37), (49, 50)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_height_and_width_are_filled_each_for_itself(ink, rows, columns, turned):
    if turned:
        rows, columns, ink = columns, rows, [[ys, xs] for xs, ys in ink]
    drawn = Rasteriser(100 if turned else 40, 40 if turned else 100, 2.0, 2.0).draw([strokes.pack(ink)])[0]
    inked = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert [(found[0], found[-1]) for found in inked] == [pytest.approx(rows, abs=1), pytest.approx(columns, abs=1)]


def test_a_one_point_stroke_is_a_round_dot():
    drawn = Rasteriser(9, 9, 3.0, 1.0).draw([strokes.pack([[[7], [9]]])])[0]
    assert drawn[4, 4] == 255
    assert (drawn == drawn.T).all()
    assert (drawn == drawn[::-1]).all()
    assert drawn.sum() / 255 == pytest.approx(np.pi * 1.5**2, rel=0.05)


def test_black_ink_is_the_negative():
    ink = [synthetic.draw(0, "star", 0)]
    assert (Rasteriser(64, 64, ink="black").draw(ink) == 255 - Rasteriser(64, 64).draw(ink)).all()


def test_a_line_thinner_than_a_pixel_never_gets_brighter_than_its_width():
    assert coverage_table(0.5).max() == pytest.approx(128, abs=1)
    assert coverage_table(1.0).max() == 255


def test_no_room_between_the_margins_is_refused_by_name():
    with pytest.raises(SettingsError, match=r"prepare\.margin = 16\.0 leave no room in 32x32 pixels"):
        Rasteriser(32, 32, 2.0, 16.0)


def test_ink_at_the_border_stays_inside():
    # Width 40 at 32 pixels and no margin would reach beyond every side; the kernel must clip, not write elsewhere.
    drawn = Rasteriser(32, 32, 20.0, 0.0).draw([strokes.pack([[[0, 255, 0, 255], [0, 255, 255, 0]]])] * 3)
    assert (drawn[0] == drawn[2]).all()


def test_only_every_nth_row_may_be_drawn():
    inks = [synthetic.draw(5, "star", number) for number in range(5)]
    rows = Rasteriser(32, 32).draw(inks, np.full((5, 32, 32), 7, np.uint8), 4)[:, ::4]
    assert (rows == Rasteriser(32, 32).draw(inks)[:, ::4]).all()
