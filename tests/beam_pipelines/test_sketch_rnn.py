"""sketch-rnn's `.npz`: drawings as moves of the pen, in a pickle of which nothing may be run."""

import codecs
import io
import os
import pickle
import pickletools
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, Refused, _pickled, _sketch_rnn, quickdraw
from boceto import storage, strokes

# Two strokes: (10, 20) to (265, 20), and (110, 100) to (110, 147).
MOVES = np.array([[10, 20, 0], [255, 0, 1], [-155, 80, 0], [0, 47, 1]], np.int16)
INK = strokes.pack([[[0, 255], [0, 0]], [[100, 100], [80, 127]]])


def _objects(*drawings):
    found = np.empty(len(drawings), object)
    for number, drawing in enumerate(drawings):
        found[number] = drawing.copy("K") if isinstance(drawing, np.ndarray) else drawing
    return found


def _npz(*train, **parts):
    file = io.BytesIO()
    np.savez_compressed(file, **({"train": _objects(*train)} if train else {}), **parts)
    return file.getvalue()


def _zipped(member, name="train.npy", length=1, **changes):
    """An archive of one member; pickles get numpy's header."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (%d,), }\n" % length
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + member)
    return file.getvalue()


def _read(content, **changes):
    storage.write_bytes("memory://npz/cat.npz", content)
    settings = Settings(output="unused", input="memory://npz", **changes)
    (part,) = quickdraw.plan(settings)
    return list(quickdraw.read(part, settings))


def test_moves_become_strokes_and_all_three_parts_are_read():
    turned = np.asfortranarray(np.flip(MOVES[:2], 0) - MOVES[:2])
    turned[:, 2] = 0
    items = _read(_npz(MOVES, valid=_objects(MOVES.astype(">f4")), test=_objects(turned, MOVES.astype(np.int64))))
    assert [item.strokes for item in items] == [INK, INK, items[2].strokes, INK]
    assert strokes.unpack(items[2].strokes)[0].tolist() == [[255, 0], [0, 21]]
    assert not any(item.key for item in items)


def test_a_drawing_of_the_simplified_form_is_the_same_drawing():
    drawing = [[[31, 0, 255], [0, 7, 255]], [[84, 84], [98, 98]], [[5], [6]]]
    points = np.array(
        [(x, y, place == len(xs) - 1) for xs, ys in drawing for place, (x, y) in enumerate(zip(xs, ys, strict=True))]
    )
    points[1:, :2] -= points[:-1, :2].copy()
    (item,) = _read(_npz(points.astype(np.int16)))
    assert item == Drawing(strokes.pack(drawing))


def _python_2(moves):
    """The pickle that numpy wrote in Python 2, as QuickDraw's files hold it."""
    raw = moves.tobytes()
    new = b"cnumpy.core.multiarray\n_reconstruct\nq\1cnumpy\nndarray\nq\2K\0\x85U\1b\x87R"
    again = b"h\1h\2K\0\x85U\1b\x87R"
    kind = b"cnumpy\ndtype\nq\4U\2%sK\0K\1\x87R(K\3U\1%sNNN%sK%ctb"
    outer = new + b"(K\1K\1\x85" + kind % (b"O8", b"|", b"J\xff\xff\xff\xff" * 2, 63) + b"\x89]("
    inner = (
        again + b"(K\1K%cK\3\x86" % len(moves) + kind.replace(b"q\4", b"") % (b"i2", b"<", b"J\xff\xff\xff\xff" * 2, 0)
    )
    return b"\x80\2" + outer + inner + b"\x89U%c%stbetb." % (len(raw), raw)


@pytest.mark.parametrize("protocol", ["python 2", 2, 3, 4])
def test_a_pickle_of_any_age_is_read(protocol):
    if protocol == "python 2":
        member = _python_2(MOVES)
        assert pickle.loads(member, encoding="latin1")[0].tolist() == MOVES.tolist()  # noqa: S301 - our own
    else:
        member = pickle.dumps(_objects(MOVES), protocol)
    assert _read(_zipped(member)) == [Drawing(INK)]


@pytest.mark.parametrize(
    ("moves", "reason", "what"),
    [
        (np.zeros((0, 3), np.int16), "no_strokes", "the array is empty"),
        (MOVES[:1], "one_point", "all points are one"),
        (MOVES[:, :2].copy(), "wrong_type", "the array has the shape (4, 2), and not (N, 3)"),
        (np.zeros(3, np.int16), "wrong_type", "the array has the shape (3,), and not (N, 3)"),
        (MOVES.astype(bool), "wrong_type", "the array is of '|b1', and not of numbers"),
        (np.array(MOVES, "S2"), "wrong_type", "the array is of '|S2', and not of numbers"),
        (np.array([[0, 0, 0], [np.nan, 1, 0]]), "not_finite", "a number is not finite"),
        (np.array([[0, 0, 0], [1e300, 1, 0]]), "out_of_range", "a move is beyond 9.0072e+15"),
        (np.array([[0, 0, 0], [3, 1, 2]]), "out_of_range", "the pen is 2, and neither 0 nor 1"),
        (np.array([[step % 2, 0, 0] for step in range(70_000)], "b"), "too_many_points", "a stroke has"),
        (np.zeros((1 << 19, 3), "b"), "foreign_pickle", "train: it has a value of 1,572,864 bytes, more than"),
    ],
)
def test_a_bad_drawing_is_refused_with_its_reason(moves, reason, what):
    good, refused, *rest = _read(_npz(MOVES, moves, MOVES))
    assert good == Drawing(INK)
    assert (refused.line, refused.reason) == (2, reason)
    assert refused.what.startswith(what)
    assert refused.text == ("train" if reason == "foreign_pickle" else "train[1]")
    assert rest == ([] if reason == "foreign_pickle" else [Drawing(INK)])
    assert refused.lost == 3 - 1 - len(rest)


class _Call:
    def __init__(self, function, *arguments):
        self._called = function, arguments

    def __reduce__(self):
        return self._called


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (_Call(os.mkdir, "made"), "it asks for posix.mkdir, which is no part of an array of numbers"),
        (_Call(eval, "open('made', 'w')"), "it asks for builtins.eval"),
        (_Call(np.fromfile, "made"), "it asks for numpy.fromfile"),
        (_Call(codecs.decode, b"made", "utf-8"), "it asks for _codecs.decode"),
        ({"a": MOVES}, "it has the operation EMPTY_DICT"),
        ([MOVES.tolist()], "1 of its 2 entries are no arrays of numbers"),
        (None, "1 of its 2 entries are no arrays of numbers"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_of_a_pickle_is_run(tmp_path, monkeypatch, value, told, protocol):
    monkeypatch.chdir(tmp_path)
    good, refused = _read(_zipped(pickle.dumps(_objects(MOVES, value), protocol), length=2))
    assert good == Drawing(INK)
    assert (refused.reason, refused.line, refused.lost) == ("foreign_pickle", 2, 1)
    assert told.replace("builtins", "__builtin__" if protocol == 2 else "builtins") in refused.what
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\4cnumpy\nndarray\n)R.",  # A class that is called.
        b"\x80\4cnumpy\ndtype\n)R.",
        b"\x80\4cnumpy\ndtype\nX\2\0\0\0i2\x85RK\5b.",
        b"\x80\4cnumpy.core.multiarray\n_reconstruct\n)R(K\1K\1\x85N\x89Jxxx\1tb.",  # bytes(a large number)
        b"\x80\4h\1.",
        b"\x80\4cnump\\\xb5\nndarray\n.",
        b"\x80\4(t\x93.",
        b"\x80\4Nr\xff\xff\xff\xff.",  # A place in the memo that takes 32 GiB where a list holds it.
        b"\x80\4B\xff\xff\xff\x7f",
        b"\x80\4",
        b"no pickle",
    ],
)
def test_a_forged_pickle_is_refused_and_takes_no_memory(pickled):
    (refused,) = _read(_zipped(pickled))
    assert (refused.reason, refused.lost) == ("foreign_pickle", 1)


@pytest.mark.parametrize("operation", [b"(", b"N", b"]", b"\x8c\0", b"\x8c\xff" + b"a" * 255])
def test_a_pickle_that_only_piles_up_is_refused(operation):
    (refused,) = _read(_zipped(b"\x80\4" + operation * 30_000 + b"."))
    assert "it holds more than 10,000 values or 4,194,304 bytes at once" in refused.what


def test_a_forged_length_counts_no_more_than_the_file_may_hold():
    (refused,) = _read(_zipped(b"\x80\4.", length=999_999_999))
    assert refused.lost < 1000


def test_an_archive_of_something_else_is_refused_in_words():
    (refused,) = _read(_npz(weights=np.zeros(3)))
    assert (refused.reason, refused.what) == (
        "wrong_type",
        "the file has no array train, valid or test, but weights.npy",
    )
    refused, good = _read(_npz(valid=_objects(MOVES), train=np.zeros((5, 4, 3), np.int16)))
    assert good == Drawing(INK)
    assert "it is no row of drawings, int16[N, 3] each, but \"{'descr': '<i2'" in refused.what


def test_a_bomb_is_not_unpacked(monkeypatch):
    content = _zipped(b"\0" * 3_000_000)
    assert len(content) < 4000
    monkeypatch.setattr(_sketch_rnn, "MAX_BYTES", 1_000_000)
    (refused,) = _read(content)
    assert refused.reason == "damaged_file"
    assert "it has 3,000," in refused.what


@pytest.mark.parametrize("cut", [1, 30, 0.5, 0.9, -1, -21])
def test_a_file_that_ends_too_early_gives_nothing_and_says_so(cut):
    whole = _npz(*[MOVES + np.int16([number, 0, 0]) for number in range(300)])
    (refused,) = _read(whole[: int(len(whole) * cut) if isinstance(cut, float) else cut])
    assert refused.reason == ("damaged_file" if cut == 1 else "truncated_file")
    assert refused.what.endswith("fetch it again")


def test_no_drawing_of_a_damaged_array_is_used():
    whole = bytearray(_npz(*[MOVES] * 50, valid=_objects(MOVES, MOVES)))
    whole[whole.index(b"train.npy") + 60] ^= 4
    refused, *items = _read(bytes(whole))
    assert refused.reason == "damaged_file"
    assert refused.lost >= 1
    assert items == [Drawing(INK)] * 2


def test_a_drawing_that_its_file_names_twice_is_left_out_the_second_time():
    one, other = MOVES.copy(), MOVES[:2].copy()
    twice = np.empty(4, object)
    twice[:] = [one, other, one, other]
    first, second, *again = _read(_npz(train=twice))
    assert [type(item) for item in (first, second)] == [Drawing] * 2
    assert [item.reason for item in again] == ["a drawing that stands in its file before"] * 2
    refused = _read(_zipped(pickle.dumps(twice, 4), length=3))[-1]
    assert "it has more than the 3 entries of its header" in refused.what


def test_an_array_whose_place_is_before_the_file_is_refused(tmp_path):
    content = _npz(MOVES)
    end = content.rindex(b"PK\5\6")
    place = struct.pack("<L", int.from_bytes(content[end + 16 : end + 20], "little") + 5)  # Of the list of arrays.
    (tmp_path / "cat.npz").write_bytes(content[: end + 16] + place + content[end + 20 :])
    settings = Settings(output="unused", input=str(tmp_path))
    ((refused,),) = [list(quickdraw.read(part, settings)) for part in quickdraw.plan(settings)]
    assert refused.what == "train cannot be unpacked: its place is before the file's begin; fetch it again"


def test_drawings_without_a_flag_are_no_recognized_ones():
    (item,) = _read(_npz(MOVES), recognized="only")
    assert item.reason == "without the flag `recognized`"


_WHOLE = _npz(MOVES, MOVES[:2], valid=_objects(MOVES))


@given(st.integers(0, len(_WHOLE) - 1), st.integers(1, 255), st.integers(0, len(_WHOLE)))
def test_no_damage_makes_the_reader_fail(at, flip, length):
    content = bytearray(_WHOLE[: max(at + 1, length)])
    content[at] ^= flip
    for item in _read(bytes(content)):
        assert isinstance(item, Refused) or strokes.unpack(item.strokes)


_OPERATIONS = [each.code.encode("latin-1") for each in pickletools.opcodes]


@given(st.lists(st.sampled_from(_OPERATIONS) | st.binary(max_size=4), max_size=40).map(b"".join))
def test_no_pickle_makes_the_reader_fail(pickled):
    reached = b"\x80\4cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nX\2\0\0\0i2\x85R"
    try:
        for found in _pickled.arrays(io.BytesIO(reached + pickled)):
            assert isinstance(found.data, bytes)
    except _pickled.Foreign:
        pass
