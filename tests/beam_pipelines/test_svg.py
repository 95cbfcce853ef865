"""SVG files in the form of TU-Berlin's sketches: paths of Bézier curves in groups that move and scale them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, InputPart, Refused, _paths, svg
from boceto import dataset, storage, strokes
from boceto.__main__ import main
from boceto.errors import DataError, SettingsError

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg viewBox="0 0 800 800" preserveAspectRatio="xMinYMin meet" xmlns="http://www.w3.org/2000/svg" version="1.1">
<g fill="none" stroke="black" stroke-linecap="round" stroke-linejoin="round" stroke-width="1.8">
"""
SKETCH = (
    HEAD
    + """<g transform="translate(87.5,200) scale(2) translate(-10,-20)">
<path id="0" d="M10 20 C10 20 265 20 265 20 "/>
<path id="1" d="M110 100 L110 147 "/>
</g>
</g>
</svg>
"""
)
INK = strokes.pack([[[0, 255], [0, 0]], [[100, 100], [80, 127]]])
# An edge of 255 along the top and the left: what is drawn beside it keeps its place.
EDGE = "M0 255 V0 H255 "


def _paths_of(*paths):
    drawn = "".join(f'<path d="{path}"/>' for path in paths)
    return f"{HEAD}<g>{drawn}</g></g></svg>".encode()


def _drawn(path):
    """The strokes of a path behind EDGE, as lists of points."""
    return [stroke.tolist() for stroke in strokes.unpack(svg.ink_of(_paths_of(EDGE, path)))[1:]]


def _read(*contents):
    urls = tuple(f"memory://svg/cat/{number}.svg" for number in range(len(contents)))
    for url, content in zip(urls, contents, strict=True):
        storage.write_bytes(url, content)
    return list(svg.read(InputPart("cat", "cat", urls=urls), Settings(output="unused", input="memory://svg")))


def test_a_sketch_is_its_strokes_in_order_from_the_top_left():
    (drawing,) = _read(SKETCH.encode())
    points = [stroke.tolist() for stroke in strokes.unpack(drawing.strokes)]
    assert points == [[[0, 0], [255, 0]], [[100, 80], [100, 127]]]
    assert drawing == Drawing(INK, "cat/0.svg")


@pytest.mark.parametrize(
    ("path", "points"),
    [
        ("M1 2 3 4 5,6", [[[1, 2], [3, 4], [5, 6]]]),
        ("m1 2 3 4 5,6", [[[1, 2], [4, 6], [9, 12]]]),
        ("M1 2L3 4 5 6M7 8l-1-1", [[[1, 2], [3, 4], [5, 6]], [[7, 8], [6, 7]]]),
        ("M1 2H9v7h-2V1", [[[1, 2], [9, 2], [9, 9], [7, 9], [7, 1]]]),
        ("M1 2h9v9zl5 5", [[[1, 2], [10, 2], [10, 11], [1, 2]], [[1, 2], [6, 7]]]),
        ("M.5e1-.6E1 8+9", [[[5, 0], [8, 15]]]),  # The drawing reaches from -6 on.
        ("M1 1M2 2L4 4M9 9", [[[2, 2], [4, 4]]]),
        ("M0 0C10 10 20 20 30 30", [[[0, 0], [30, 30]]]),
        ("M0 0c10 10 20 20 30 30s20 20 30 30", [[[0, 0], [30, 30], [60, 60]]]),
        ("M0 0Q15 15 30 30T60 60", [[[0, 0], [30, 30], [60, 60]]]),
        ("M 0 0 q 15 15 30 30 t 30 30", [[[0, 0], [30, 30], [60, 60]]]),
    ],
)
def test_commands_by_hand(path, points):
    if "-.6" in path:
        drawn = [stroke.tolist() for stroke in strokes.unpack(svg.ink_of(_paths_of("M0 249V-6H255", path)))[1:]]
    else:
        drawn = _drawn(path)
    assert drawn == points


_NUMBERS = st.lists(st.integers(-500, 500), min_size=14, max_size=14)


def _on(curve, shares):
    """Points of a cubic curve by de Casteljau's construction."""
    points = [np.outer(np.ones_like(shares), point) for point in curve]
    while len(points) > 1:
        points = [before + (after - before) * shares[:, None] for before, after in itertools.pairwise(points)]
    return points[0]


def _distance(points, line):
    """Of each point from the nearest piece of a line."""
    starts, sides = line[:-1], np.diff(line, axis=0)
    away = points[:, None] - starts
    squares = np.maximum((sides**2).sum(axis=1), 1e-12)
    shares = np.clip((away * sides).sum(axis=2) / squares, 0, 1)
    return np.linalg.norm(away - shares[..., None] * sides, axis=2).min(axis=1)


@pytest.mark.parametrize(
    ("curve", "points"),
    [
        ((0, 0, 90, 90), [0, 90]),  # As TU-Berlin's files write straight lines.
        ((0, 30 + 30j, 60 + 30j, 90), [0, 22.5 + 16.875j, 45 + 22.5j, 67.5 + 16.875j, 90]),
        ((0, 120, 120, 0), [0, 90, 0]),  # There and back.
    ],
)
def test_a_curve_has_as_many_points_as_it_needs(curve, points):
    assert (_paths.points_of([curve], 4) @ (1, 1j)).tolist() == points


@given(_NUMBERS)
def test_the_lines_stay_within_the_tolerance_of_the_curves(numbers):
    begin, first, second, end, third, last, control = np.reshape(np.array(numbers, float), (7, 2))
    text = "M{} {}C{} {} {} {} {} {}S{} {} {} {}Q{} {} 0 0".format(*numbers)
    (curves,) = _paths.strokes_of(text)
    found = _paths.points_of(curves, 0.5)
    quadratic = [last, last + (control - last) * 2 / 3, control * 2 / 3, np.zeros(2)]
    wanted = [[begin, first, second, end], [end, 2 * end - second, third, last], quadratic]
    shares = np.linspace(0, 1, 50)
    assert max(_distance(_on(curve, shares), found).max() for curve in wanted) <= 0.5 + 1e-9
    assert len(found) < 300


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("", (3, 5)),
        ("translate(10)", (13, 5)),
        ("translate(10 20)", (13, 25)),
        ("scale(2)", (6, 10)),
        ("scale(2,-3)", (6, -15)),
        ("matrix(1 2 3 4 5 6)", (1 * 3 + 3 * 5 + 5, 2 * 3 + 4 * 5 + 6)),
        ("translate(10,20), scale(2)  translate(-1,-2)", (10 + 2 * 2, 20 + 2 * 3)),
    ],
)
def test_transforms_by_hand(text, point):
    assert tuple(_paths.matrix_of(text) @ (3, 5, 1)) == (*point, 1)


def _svg(inner, attributes=""):
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{inner}</svg>'.encode()


LAUGHS = b'<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>'


@pytest.mark.parametrize(
    ("content", "reason", "what"),
    [
        (
            _svg('<path d="M0 0 A5 5 0 0 1 9 9"/>'),
            "unsupported_svg",
            "line 1: <path>: 'A' is neither a number nor",
        ),
        (_svg('<path d="M0 0 L5"/>'), "unsupported_svg", "line 1: <path>: L has 1 numbers, and takes 2"),
        (_svg('<path d="M0 0 L"/>'), "unsupported_svg", "line 1: <path>: L has 0 numbers, and takes 2"),
        (_svg('<path d="M0 0 z 5"/>'), "unsupported_svg", "line 1: <path>: z has 1 numbers, and takes 0"),
        (_svg('<path d="L0 0"/>'), "unsupported_svg", "line 1: <path>: it begins with 'L0 0', and not with M"),
        (_svg('<path d="M0 NaN"/>'), "unsupported_svg", "line 1: <path>: 'NaN' is neither"),
        (_svg('<g transform="rotate(9)"/>'), "unsupported_svg", "line 1: <g>: 'rotate(9)' is neither translate, nor"),
        (_svg('<g transform="matrix(9)"/>'), "unsupported_svg", "line 1: <g>: matrix has 1 numbers"),
        (_svg("<text>cat</text>"), "unsupported_svg", "line 1: <text> is not read; draw it with paths"),
        (_svg('<image href="file:///etc/passwd"/>'), "unsupported_svg", "line 1: <image> is not read"),
        (_svg("<g>" * 70 + "</g>" * 70), "unsupported_svg", "line 1: groups are nested deeper than 64"),
        (_svg(_svg("").decode()), "unsupported_svg", "line 1: <svg> is not read"),
        (b"<html></html>", "unsupported_svg", "line 1: <html> is not read"),
        (LAUGHS, "unsupported_svg", "the file defines the entity 'a'"),
        (LAUGHS.decode().encode("utf-16"), "unsupported_svg", "the file defines the entity 'a'"),
        (_svg("<title>M</title>"), "no_strokes", "the file has no path"),
        (_svg('<path d="M1 1"/>'), "no_strokes", "the file has no path"),
        (_svg('<path d="M1 1L1 1"/>'), "one_point", "all points are one"),
        (_svg('<path d="M0 0L1e999 1"/>'), "out_of_range", "a point is beyond"),
        (_svg('<g transform="scale(1e200) scale(1e200)"><path d="M0 0L1 1"/></g>'), "out_of_range", "a point is"),
        (_svg('<path d="M0 0' + "h1v1" * 10_000 + '"/>'), "too_many_points", "the drawing has more than 16,384 curves"),
        (_svg("<!--" + "x" * (1 << 22) + "-->"), "too_large", "the file has more than 4,194,304 bytes"),
        (SKETCH.encode()[:-9], "broken_svg", "unclosed token: line 9"),
        (b"", "broken_svg", "no element found"),
        (b'<?xml version="1.0" encoding="hex"?><svg/>', "broken_svg", ""),
        (SKETCH.encode().replace(b"M110", b"M\xff"), "broken_svg", "not well-formed"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason_and_file(content, reason, what):
    refused, good = _read(content, SKETCH.encode())
    assert (refused.reason, refused.line, refused.file) == (reason, 1, "cat/0.svg")
    assert refused.what.startswith(what)
    assert good == Drawing(INK, "cat/1.svg")


def test_what_is_not_drawn_is_passed_over():
    unseen = '<title>a</title><metadata><x:text xmlns:x="urn:x"><text/></x:text></metadata><defs><path d="?"/></defs>'
    named = '<x:view xmlns:x="urn:x"><path d="?"/></x:view>'
    assert _read(SKETCH.replace("<path id", unseen + named + "<path id", 1).encode())[0].strokes == INK
    assert _read(SKETCH.replace(' xmlns="http://www.w3.org/2000/svg"', "").encode())[0].strokes == INK


def test_the_folder_of_a_file_is_its_class(tmp_path):
    names = ["in/cat/1.svg", "in/more/hot dog/2.SVG", "in/more/cat/1.svg", "in/cat/.3.svg", "in/filelist.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SKETCH)
    settings = Settings(output="unused", input=str(tmp_path / "in"))
    assert [(part.category, len(part.urls), part.size) for part in svg.plan(settings)] == [
        ("cat", 2, 2 * len(SKETCH)), ("hot dog", 1, len(SKETCH)),
    ]  # fmt: skip
    (part, _) = svg.plan(settings)
    (tmp_path / "in/cat/1.svg").unlink()
    with pytest.raises(DataError, match=r"1\.svg has gone since the job began"):
        list(svg.read(part, settings))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a/1.png"], "no .svg file there"),
        (["1.svg"], "1.svg is in no folder of a class"),
        (["a\n/1.svg"], "is no readable text"),
    ],
)
def test_a_folder_without_classes_is_refused(tmp_path, names, told):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SKETCH)
    with pytest.raises(SettingsError, match=told):
        svg.plan(Settings(output="unused", input=str(tmp_path)))
    with pytest.raises(SettingsError, match="prepare.input is missing"):
        svg.plan(Settings(output="unused"))


def test_sketches_become_a_data_set_with_strokes(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(4):
            content = SKETCH.replace("147", str(130 + 10 * label + number))
            (tmp_path / "in" / name / f"{number}.svg").write_text(content)
    (tmp_path / "in" / "ant" / "double.svg").write_text(SKETCH.replace("147", "131"))
    words = ["--source", "svg", "--input", tmp_path / "in", "--output", tmp_path / "data", "--size", 16, "--workers", 1]
    assert main(list(map(str, ["prepare", *words, "--train-per-class", 3, "--test-per-class", 1]))) == 0
    data = dataset.load(str(tmp_path / "data"))
    assert data.manifest.classes == ["ant", "bee"]
    assert data.manifest.duplicates["ink"] == 1
    assert all(data.split("train").strokes(number) for number in range(6))


_WHOLE = SKETCH.encode()


@given(st.integers(0, len(_WHOLE) - 1), st.binary(min_size=1, max_size=3), st.integers(0, len(_WHOLE)))
def test_no_damage_makes_the_reader_fail(at, put, length):
    content = _WHOLE[:at] + put + _WHOLE[at + len(put) :][: max(0, length - at)]
    (item,) = _read(content)
    assert isinstance(item, Refused) or strokes.unpack(item.strokes)


@given(st.text("MmLlHhVvCcSsQqTtZzAa0123456789.-+eE, (", max_size=40))
def test_no_path_makes_the_reader_fail(text):
    (item,) = _read(_paths_of(EDGE, text))
    assert isinstance(item, Refused) or strokes.unpack(item.strokes)
