import gzip
import itertools
import json
import math
import struct
import zlib

import numpy as np
import pytest
from bad_drawings import BAD, GOOD
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, Refused, quickdraw
from boceto import simplified_kernels, storage, strokes
from boceto.errors import DataError, SettingsError


def _settings(folder, **changes):
    return Settings(output="unused", input=str(folder), **changes)


def _read(folder, name, content, **changes):
    (folder / name).write_bytes(content)
    settings = _settings(folder, **changes)
    return [item for part in quickdraw.plan(settings) for item in quickdraw.read(part, settings)]


def _lines(*entries):
    return b"".join((entry if isinstance(entry, bytes) else json.dumps(entry).encode()) + b"\n" for entry in entries)


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_refused_with_its_reason_and_the_next_is_read(tmp_path, line, reason):
    refused, good = _read(tmp_path, "cat.ndjson", _lines(line, GOOD))
    assert isinstance(refused, Refused)
    assert (refused.line, refused.reason) == (1, reason)
    assert len(refused.text) <= 200
    assert good == Drawing(strokes.pack(GOOD["drawing"]), "12")


_POINTS = np.random.default_rng(5).integers(0, 256, (3000, 2, 32)).tolist()
MANY = [{**GOOD, "key_id": str(number), "drawing": [points]} for number, points in enumerate(_POINTS)]


@pytest.mark.parametrize("cut", [-1, -3, -8, -20, 0.5, 15])
def test_a_gzip_that_ends_too_early_gives_every_whole_line_and_says_so(tmp_path, cut):
    packed = gzip.compress(_lines(*MANY))
    cut = int(len(packed) * cut) if isinstance(cut, float) else cut
    whole = zlib.decompressobj(31).decompress(packed[:cut]).count(b"\n")
    *items, last = _read(tmp_path, "cat.ndjson.gz", packed[:cut])
    assert last.reason == "truncated_file"
    assert abs(len(items) - whole) <= 1
    # Where the text ends with a line, only its checksum is missing; else nobody knows how much.
    assert last.lost == (0 if len(items) == len(MANY) else max(1, len(items)))
    assert [item.key for item in items] == [entry["key_id"] for entry in MANY[: len(items)]]


@pytest.mark.parametrize("step", [-1, -2, 997, 1009])
def test_no_drawing_of_a_damaged_gzip_is_used_and_what_is_lost_is_counted(tmp_path, step):
    packed = gzip.compress(_lines(*MANY), mtime=0)
    places = range(len(packed) - 1, len(packed) - 13, -1) if step < 0 else range(10, len(packed), step)
    for at in places:
        content = bytearray(packed)
        content[at] ^= 1 << (at % 8 if step != -2 else (at + 3) % 8)
        items = _read(tmp_path, "cat.ndjson.gz", bytes(content))
        if len(items) > 1:  # The bit has no meaning: the checksum has passed.
            assert [item.key for item in items] == [entry["key_id"] for entry in MANY]
            continue
        assert items[0].reason == "damaged_file"
        assert len(MANY) / 10 <= items[0].lost <= 2 * len(MANY)  # An estimate; but it is not one line.


def test_the_members_before_a_damaged_one_are_used(tmp_path):
    one, two = gzip.compress(_lines(*MANY[:1000])), bytearray(gzip.compress(_lines(*MANY[1000:])))
    two[len(two) // 2] ^= 4
    *items, last = _read(tmp_path, "cat.ndjson.gz", one + bytes(two))
    assert [item.key for item in items] == [entry["key_id"] for entry in MANY[:1000]]
    assert last.reason == "damaged_file"
    assert 500 < last.lost < 4000
    assert last.what == "its gzip data is damaged behind the first 1,000 lines; fetch it again"


def test_a_file_cut_in_its_second_member_counts_as_half_missing(tmp_path):
    one, two = gzip.compress(_lines(*MANY[:200])), gzip.compress(_lines(*MANY[200:300]))
    for cut in (-1, 5, 12, len(two) // 2):
        *items, last = _read(tmp_path, "cat.ndjson.gz", one + two[:cut])
        assert [item.key for item in items] == [entry["key_id"] for entry in MANY[: len(items)]]
        assert (last.reason, last.lost) == ("truncated_file", 0 if cut == -1 else len(items))
        assert len(items) >= 200


def test_several_members_and_what_is_behind_them(tmp_path):
    text = _lines(*MANY)
    members = b"".join(gzip.compress(text[at : at + 50_000]) for at in range(0, len(text), 50_000))
    for padding in (b"", b"\0", b"\0" * 10_000):
        items = _read(tmp_path, "cat.ndjson.gz", members + padding)
        assert [item.key for item in items] == [entry["key_id"] for entry in MANY]
    for behind, lost in ((b"garbage", 0), (b"\0\0garbage", 0), (bytes(range(1, 256)) * 200, len(MANY))):
        *items, last = _read(tmp_path, "cat.ndjson.gz", members + behind)
        assert [item.key for item in items] == [entry["key_id"] for entry in MANY]
        assert last.reason == "trailing_bytes"
        assert last.lost == pytest.approx(lost * 51_000 / len(members), rel=0.1, abs=0)


def test_a_name_that_says_plain_and_content_that_is_packed(tmp_path):
    assert [item.key for item in _read(tmp_path, "cat.ndjson", gzip.compress(_lines(GOOD)))] == ["12"]


def test_a_name_that_says_packed_and_content_that_is_not(tmp_path):
    assert [item.key for item in _read(tmp_path, "cat.ndjson.gz", _lines(GOOD))] == ["12"]
    (item,) = _read(tmp_path, "cat.ndjson.gz", b"no gzip data, and no lines" * 100)
    assert (item.reason, item.lost) == ("damaged_file", 20)


def test_a_last_line_that_breaks_off_is_no_bad_line(tmp_path):
    items = _read(tmp_path, "cat.ndjson", _lines(*MANY)[:-20])
    assert [item.key for item in items[:-1]] == [entry["key_id"] for entry in MANY[:-1]]
    assert (items[-1].reason, items[-1].lost) == ("truncated_file", len(MANY))  # Nobody knows how much is missing.
    items = _read(tmp_path, "cat.ndjson", _lines(GOOD, GOOD)[:-1])
    assert [item.key for item in items] == ["12", "12"]


@pytest.mark.parametrize("content", [b"x", _lines(GOOD)[:-5], gzip.compress(_lines(GOOD), mtime=0)])
def test_a_file_that_changed_since_it_was_planned_is_not_read(tmp_path, content):
    path = tmp_path / "cat.ndjson.gz"
    path.write_bytes(gzip.compress(_lines(GOOD, GOOD)))
    (part,) = quickdraw.plan(_settings(tmp_path))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cat\.ndjson\.gz has changed since the job began"):
        list(quickdraw.read(part, _settings(tmp_path)))


def test_a_byte_order_mark_is_no_damage(tmp_path):
    bom = b"\xef\xbb\xbf"
    items = _read(tmp_path, "a.ndjson", bom + _lines(GOOD) + bom + _lines(GOOD))
    assert [item.key for item in items] == ["12", "12"]
    assert [item.key for item in _read(tmp_path, "a.ndjson.gz", bom + _lines(GOOD))][:1] == ["12"]


@pytest.mark.parametrize(
    ("change", "reason", "what"),
    [
        ({"drawing": [[[0, 256], [0, 1]]]}, "out_of_range", "drawing[0][0][1] = 256 is outside 0 to 255"),
        (
            {"drawing": [[[0, 1], [0, 1]], [[5, 6], [7, -1]]]},
            "out_of_range",
            "drawing[1][1][1] = -1 is outside 0 to 255",
        ),
        (
            {"drawing": [[[0, 1], [0, 1], [0, 9]], [[5, 6], [7, 8]]]},
            "mixed_forms",
            "drawing[1] = [[5, 6], [7, 8]] has 2 lists and drawing[0] 3: raw and simplified form",
        ),
        ({"drawing": [[[0, 1], [0, 1]], [[5], [6], [7]]]}, "mixed_forms", "drawing[1] = [[5], [6], [7]] has 3 lists"),
        ({"drawing": [[[0, 1, 2], [0, 1]]]}, "uneven_stroke", "drawing[0] has 3 and 2 numbers"),
        ({"drawing": [[[0, 1.5], [0, 1]]]}, "wrong_type", "drawing[0][0][1] = 1.5 is no whole number"),
        ({"drawing": [[[0, True], [0, 1]]]}, "wrong_type", "drawing[0][0][1] = True is no number"),
        ({"word": "dog"}, "other_word", "word = 'dog', and the file is of 'cat'"),
        ({"key_id": [1]}, "wrong_type", "key_id = [1] is no text"),
    ],
)
def test_what_is_wrong_names_the_field_and_its_value(tmp_path, change, reason, what):
    _, refused = _read(tmp_path, "cat.ndjson", _lines(GOOD, {**GOOD, **change}))
    assert refused.reason == reason
    assert refused.what.startswith(what)


def test_fields_in_any_order_a_number_as_key_and_no_key(tmp_path):
    drawing = GOOD["drawing"]
    entries = [{"drawing": drawing, "key_id": 7, "word": "cat"}, {"recognized": True, "drawing": drawing}]
    assert [item.key for item in _read(tmp_path, "cat.ndjson", _lines(*entries))] == ["7", ""]


def test_whatever_stands_as_time_and_a_key_of_null_do_no_harm(tmp_path):
    line = {"word": "cat", "drawing": [[[1, 20], [3, 4], 5]], "note": "true", "key_id": None}
    (item,) = _read(tmp_path, "cat.ndjson", _lines(line))
    assert isinstance(item, Drawing)
    assert item.key == ""


@pytest.mark.parametrize("pattern", ["./in/*.ndjson", "in//c*.ndjson", "i*/cat.ndjson", "in/cat.ndjson", "in"])
def test_a_pattern_finds_its_files_however_it_is_written(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cat.ndjson").write_bytes(_lines(GOOD))
    (tmp_path / "in" / "dead.ndjson").symlink_to("nowhere")
    assert [part.category for part in quickdraw.plan(_settings(pattern))] == ["cat"]
    assert [part.category for part in quickdraw.plan(_settings(f"file://{tmp_path}/in/*.ndjson"))] == ["cat"]


def test_recognized_only_leaves_out_the_others(tmp_path):
    entries = [{**GOOD, "recognized": True}, {**GOOD, "recognized": False}, GOOD]
    items = _read(tmp_path, "cat.ndjson", _lines(*entries), recognized="only")
    assert [getattr(item, "reason", "") for item in items] == ["", "not recognized", "without the flag `recognized`"]


def test_the_raw_form_is_simplified_as_google_does(tmp_path):
    # A straight line of many points, ten times too large and shifted: its two ends remain, scaled to 255.
    xs = [100 + 2550 * step / 50 for step in range(51)]
    ys = [30 + 1275 * step / 50 for step in range(51)]
    (item,) = _read(tmp_path, "cat.ndjson", _lines({"word": "cat", "drawing": [[xs, ys, list(range(51))]]}))
    assert [stroke.tolist() for stroke in strokes.unpack(item.strokes)] == [[[0, 0], [255, 128]]]


def _simplified(tmp_path, *drawing):
    line = {"word": "cat", "drawing": [[xs, ys, [0] * len(xs)] for xs, ys in drawing]}
    (item,) = _read(tmp_path, "cat.ndjson", _lines(line))
    return [stroke.T.tolist() for stroke in strokes.unpack(item.strokes)]


def test_a_stroke_out_and_back_is_measured_from_the_endless_line(tmp_path):
    # Every point lies on the line through both ends, so these alone remain, though the way went beyond the second.
    square = [[0, 255, 255], [0, 0, 255]]
    assert _simplified(tmp_path, [[0, 255, 128], [0, 0, 0]], square) == [[[0, 128], [0, 0]], square]


def test_a_stroke_of_one_point_has_two_ends(tmp_path):
    square = [[0, 255, 255], [0, 0, 255]]
    assert _simplified(tmp_path, [[7], [9]], [[8, 8], [10, 10]], square)[:2] == [[[7, 7], [9, 9]], [[8, 8], [10, 10]]]


def test_a_half_is_rounded_to_the_even_neighbour_because_the_division_comes_last(tmp_path):
    # 25 * 255 / 50 is 127.5; 25 * (255 / 50) is a little less, and would become 127.
    assert _simplified(tmp_path, [[0, 50], [0, 0]], [[25, 45], [0, 0]])[1] == [[128, 230], [0, 0]]


def test_a_scribble_is_taken_however_often_it_crosses_the_drawing(tmp_path):
    (scribble,) = _simplified(tmp_path, [[200 * (n % 2) for n in range(400)], [n // 2 for n in range(400)]])
    assert len(scribble[0]) > 390  # Its way is 399 times its extent.


def _by_hand(points):
    """As the description says, plainly: a point every 1, then the farthest from the line, as long as it is beyond 2."""
    lengths = [math.sqrt((ax - bx) ** 2 + (ay - by) ** 2) for (ax, ay), (bx, by) in itertools.pairwise(points)]
    dense, at, before = [points[0]], 1.0, 0.0
    for (ax, ay), (bx, by), length in zip(points, points[1:], lengths, strict=False):
        while at < before + length:
            share = (at - before) / length
            dense.append((ax * (1 - share) + bx * share, ay * (1 - share) + by * share))
            at += 1.0
        before += length
    return _thinned([*dense, points[-1]])


def _thinned(points):
    (ax, ay), (bx, by) = points[0], points[-1]
    apart = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
    if apart:
        far = [abs((bx - ax) * (ay - y) - (by - ay) * (ax - x)) / apart for x, y in points]
    else:
        far = [math.sqrt((ax - x) ** 2 + (ay - y) ** 2) for x, y in points]
    middle = far.index(max(far[1:-1], default=0.0))
    if far[middle] <= 2:
        return [points[0], points[-1]]
    return _thinned(points[: middle + 1])[:-1] + _thinned(points[middle:])


# Numbers with few digits: many points are equally far, and the first of them is kept.
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8), st.integers(1, 30))
def test_a_stroke_is_thinned_to_what_a_plain_reading_of_the_description_gives(corners, scale):
    points = [(float(x * scale), float(y * scale)) for x, y in corners]
    found, left = simplified_kernels.simplify(np.array(points), 2.0, 1 << 20)
    assert left >= 0
    assert found.tolist() == [list(point) for point in _by_hand(points)]


def test_raw_corners_survive_and_small_wiggles_go(tmp_path):
    xs, ys = [0, 100, 200, 200, 200], [0, 1, 0, 100, 200]
    (item,) = _read(tmp_path, "cat.ndjson", _lines({"word": "cat", "drawing": [[xs, ys, [0] * 5]]}))
    assert strokes.unpack(item.strokes)[0].tolist() == [[0, 0], [255, 0], [255, 255]]


def _binary(drawing, key=99, recognized=1):
    body = struct.pack("<Q2sbIH", key, b"ES", recognized, 0, len(drawing))
    for xs, ys in drawing:
        body += struct.pack("<H", len(xs)) + bytes(xs) + bytes(ys)
    return body


def test_the_binary_form_gives_the_same_drawing(tmp_path):
    items = _read(tmp_path, "cat.bin", _binary(GOOD["drawing"], 12) + _binary([[[1], [1]]]) + _binary([]))
    assert items[0] == Drawing(strokes.pack(GOOD["drawing"]), "12")
    assert [item.reason for item in items[1:]] == ["one_point", "no_strokes"]


@pytest.mark.parametrize("cut", [1, 10, 20, 23])
def test_a_binary_file_cut_anywhere_is_refused_at_its_record(tmp_path, cut):
    one = _binary(GOOD["drawing"], 12)
    items = _read(tmp_path, "cat.bin", one + one[:cut])
    assert isinstance(items[0], Drawing)
    assert (items[1].line, items[1].reason, items[1].lost) == (2, "truncated_file", 2)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("full%2Fsimplified%2Faxe.ndjson", "axe"),
        ("full%2fsimplified%2fhot%20dog.ndjson", "hot dog"),
        ("full-simplified-door.ndjson", "door"),
        ("full_raw_yoga.ndjson.gz", "yoga"),
        ("sketchrnn_ice cream.npz", "ice cream"),
        ("sketchrnn%2Fcat.full.npz", "cat"),
        ("full stop.full (1).npz", "full stop"),
        ("cat (1).ndjson", "cat"),
        ("cat(2).ndjson.gz", "cat"),
        ("cat.ndjson (1).gz", "cat"),
        ("cat - Copy.bin", "cat"),
        ("cat - Copy (2).ndjson", "cat"),
        ("cat copy 2.ndjson", "cat"),
        ("cat-00000-of-00004.ndjson", "cat"),
        ("cafe\u0301.ndjson", "caf\u00e9"),
        ("shape-1.ndjson", "shape-1"),
        ("t-shirt.ndjson", "t-shirt"),
        ("The Eiffel Tower.NDJSON", "The Eiffel Tower"),
        ("100%.ndjson", "100%"),
    ],
)
def test_a_name_tells_the_category_where_the_lines_do_not(tmp_path, name, category):
    (tmp_path / name).write_bytes(_lines({"drawing": GOOD["drawing"]}))
    (part,) = quickdraw.plan(_settings(tmp_path))
    assert (part.category, part.named) == (category, "")


@pytest.mark.parametrize(
    "name", ["._cat.ndjson", ".hidden.ndjson", ".ipynb_checkpoints/cat.ndjson", "__MACOSX/cat.ndjson", ".git/a/b.bin"]
)
def test_what_is_hidden_is_no_category(tmp_path, name):
    (tmp_path / "dog.ndjson").write_bytes(_lines({**GOOD, "word": "dog"}))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    assert [part.category for part in quickdraw.plan(_settings(tmp_path))] == ["dog"]


def test_the_words_in_the_lines_count_before_the_name(tmp_path):
    contents = {
        "shape-1": _lines(*[{**GOOD, "word": "shape"}] * 3),
        "route-66": _lines(*[{**GOOD, "word": "route-66"}] * 3),
        "hot_dog": _lines(*[{**GOOD, "word": "hot dog"}] * 3),
        "cat": _lines({**GOOD, "word": "dog"}, {**GOOD, "word": "dog"}, GOOD),  # Most are dogs, but a cat is named.
        "bird": _lines(b"nonsense", {**GOOD, "word": "owl"}, {**GOOD, "word": "crow"}, {**GOOD, "word": "owl"}),
    }
    for name, text in contents.items():
        (tmp_path / f"{name}.ndjson.gz").write_bytes(gzip.compress(text))
    parts = quickdraw.plan(_settings(tmp_path))
    assert {part.name.removesuffix(".ndjson.gz"): (part.category, part.named) for part in parts} == {
        "shape-1": ("shape", ""),
        "route-66": ("route-66", ""),
        "hot_dog": ("hot dog", "hot_dog"),
        "cat": ("cat", ""),
        "bird": ("owl", "bird"),
    }


def test_a_word_in_either_way_of_writing_accents_is_one_category(tmp_path):
    (tmp_path / "cafe\u0301.ndjson").write_bytes(
        _lines({**GOOD, "word": "cafe\u0301"}, {**GOOD, "word": "caf\u00e9", "key_id": "13"})
    )
    (part,) = quickdraw.plan(_settings(tmp_path))
    assert part.category == "caf\u00e9"
    assert [item.key for item in quickdraw.read(part, _settings(tmp_path))] == ["12", "13"]


def test_a_first_line_longer_than_a_look_still_tells_its_word(tmp_path):
    long = {"drawing": [[list(range(9000)), [0] * 9000, [0] * 9000]], "word": "dog"}
    (tmp_path / "cat.ndjson").write_bytes(_lines(long))
    assert [(part.category, part.named) for part in quickdraw.plan(_settings(tmp_path))] == [("dog", "cat")]


@pytest.mark.parametrize("pattern", ["in [1]", "in [1]/*.ndjson", "in [1]/c[a]t.ndjson", "i? [[]1]/*"])
def test_a_folder_with_brackets_is_no_pattern_and_one_behind_it_is(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in [1]").mkdir()
    (tmp_path / "in [1]" / "cat.ndjson").write_bytes(_lines(GOOD))
    assert [part.category for part in quickdraw.plan(_settings(pattern))] == ["cat"]


def test_names_with_spaces_parts_and_folders_are_one_category(tmp_path):
    names = [
        "hot dog.ndjson",
        "hot dog-00000-of-00002.ndjson",
        "t-shirt.ndjson.gz",
        "a/full_simplified_hot dog.ndjson",
        "x.txt",
    ]
    (tmp_path / "a").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"")
    parts = quickdraw.plan(_settings(tmp_path))
    assert sorted(part.category for part in parts) == ["hot dog", "hot dog", "hot dog", "t-shirt"]
    assert [part.category for part in quickdraw.plan(_settings(f"{tmp_path}/t*.gz"))] == ["t-shirt"]
    assert [part.category for part in quickdraw.plan(_settings(f"{tmp_path}/hot dog.ndjson"))] == ["hot dog"]
    assert [part.category for part in quickdraw.plan(_settings(f"file://{tmp_path}/a"))] == ["hot dog"]


def test_a_folder_without_drawings_is_refused(tmp_path):
    with pytest.raises(
        SettingsError, match=r"no \.ndjson, \.ndjson\.gz, \.csv, .* or \.bin file of drawings there that is not hidden"
    ):
        quickdraw.plan(_settings(tmp_path))


@pytest.mark.parametrize("name", ["d\nog.ndjson", "d\x1bog.bin"])
def test_a_file_whose_name_is_no_text_is_refused_and_not_passed_over(tmp_path, name):
    (tmp_path / "cat.ndjson").touch()
    (tmp_path / name).touch()
    with pytest.raises(SettingsError, match="is no readable text; rename it"):
        quickdraw.plan(_settings(tmp_path))


def test_input_in_memory_is_read_too():
    storage.write_bytes("memory://bucket/in/cat.ndjson", _lines(GOOD))
    settings = _settings("memory://bucket/in")
    (part,) = quickdraw.plan(settings)
    assert part.category == "cat"
    assert [item.key for item in quickdraw.read(part, settings)] == ["12"]


_PACKED = st.builds(lambda content, length: gzip.compress(content)[:length], st.binary(max_size=40), st.integers(0, 80))


@given(st.binary(max_size=300) | _PACKED | st.binary(max_size=20).map(lambda content: b"\x1f\x8b" + content))
def test_no_bytes_make_the_reader_fail(content):
    storage.write_bytes("memory://fuzz/cat.ndjson", content)
    storage.write_bytes("memory://fuzz/cat.bin", content)
    storage.write_bytes("memory://fuzz/cat.npz", content)
    storage.write_bytes("memory://fuzz/cat.csv", b"word,drawing\n" + content)
    storage.write_bytes("memory://fuzz/cat.csv.gz", b"word,drawing" + content.replace(b"\n", b" "))
    settings = _settings("memory://fuzz")
    items = [item for part in quickdraw.plan(settings) for item in quickdraw.read(part, settings)]
    for item in items:
        if isinstance(item, Drawing):
            assert strokes.unpack(item.strokes)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.integers(0, 255), min_size=2, max_size=2),
    max_leaves=20,
)


@given(_JSON)
def test_whatever_stands_as_a_drawing_is_taken_whole_or_refused(drawing):
    storage.write_bytes("memory://fuzz2/cat.ndjson", json.dumps({"drawing": drawing}).encode())
    settings = _settings("memory://fuzz2")
    (item,) = [item for part in quickdraw.plan(settings) for item in quickdraw.read(part, settings)]
    if isinstance(item, Drawing):
        taken = strokes.unpack(item.strokes)
        assert len(taken) == len(drawing)
        if all(len(stroke) == 2 for stroke in drawing):
            assert all((stroke == np.array(line).T).all() for stroke, line in zip(taken, drawing, strict=True))
