import numpy as np
import pytest

from beam_pipelines.drawer import Drawer
from beam_pipelines.select import Candidate
from beam_pipelines.sources import deflated, synthetic
from boceto import strokes
from boceto.raster import Rasteriser

STAR = synthetic.draw(5, "star", 0)


def _candidate(ink=b"", image=None):
    return Candidate(b"", b"", ink, b"" if image is None else deflated(image), [], 1)


@pytest.mark.parametrize("ink", ["white", "black"])
@pytest.mark.parametrize("channels", [1, 3])
def test_strokes_are_drawn_and_pixels_are_taken(channels, ink):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
    images = Drawer((20, 30, channels), 2.0, 1.0, ink).images([STAR, b"", STAR], [b"", deflated(image), b""])
    drawn = Rasteriser(20, 30, ink=ink).draw([STAR])[0]
    assert (images[[0, 2]] == drawn[:, :, None]).all()
    assert (images[1] == image).all()


def test_a_picture_is_the_same_where_the_pixels_are_and_nowhere_else():
    drawer = Drawer((28, 28, 1), 2.0, 1.0, "white")
    inks = [synthetic.draw(5, category, number) for category in ("star", "sun") for number in range(50)]
    # The last point drawn twice: another ink of the same picture.
    lines = [[stroke.T.tolist() for stroke in strokes.unpack(ink)] for ink in inks]
    again = [strokes.pack([[*xs, xs[-1]], [*ys, ys[-1]]] for xs, ys in drawing) for drawing in lines]
    pictures = drawer.pictures([_candidate(ink) for ink in inks])
    assert drawer.pictures([_candidate(ink) for ink in again]) == pictures
    assert drawer.pictures([_candidate(image=Rasteriser(28, 28).draw([ink])[0]) for ink in inks]) == pictures
    assert len(set(pictures)) == len(inks)


@pytest.mark.parametrize("ink", ["white", "black"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 20, 3), (128, 128, 1)])
def test_a_probe_is_the_same_where_the_picture_is_and_tells_most_others_apart(shape, ink):
    drawer = Drawer(shape, 2.0, 1.0, ink)
    inks = [synthetic.draw(5, category, number) for category in ("star", "sun") for number in range(50)]
    probes = drawer.probes([_candidate(ink) for ink in inks])
    images = [drawer.images([ink], [b""])[0].copy() for ink in inks]
    # What a call leaves in the memory that calls share must not show.
    assert drawer.probes([_candidate(image=image) for image in images]) == probes
    assert drawer.probes([_candidate(ink) for ink in inks]) == probes
    assert len(set(probes)) == len(inks)
