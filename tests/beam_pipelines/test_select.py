import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import select
from beam_pipelines.select import Smallest
from beam_pipelines.settings import Settings
from beam_pipelines.sources import Sketch
from boceto.errors import SettingsError

INKS = st.lists(st.integers(0, 40).map(lambda number: b"ink %d" % number), max_size=60)


def _smallest(inks, keep=3, seed=0, category="cat"):
    smallest = Smallest(keep, seed, category)
    for number, ink in enumerate(inks):
        smallest.add_sketch(Sketch(ink, f"{number:03}"))
    return smallest


@given(INKS, st.randoms())
def test_neither_order_nor_repeats_change_the_choice(inks, random):
    shuffled = list(inks)
    random.shuffle(shuffled)
    ranks = _smallest(inks).value().ranks
    assert ranks == _smallest(shuffled + shuffled[:5]).value().ranks
    assert len(ranks) == min(3, len(set(inks)))


@given(INKS, st.integers(1, 6))
def test_parts_merged_are_the_whole(inks, parts):
    whole = _smallest(inks, select.keep_of(3))
    split = []
    for part in range(parts):
        piece = Smallest(select.keep_of(3), 0, "cat")
        for number, ink in list(enumerate(inks))[part::parts]:
            piece.add_sketch(Sketch(ink, f"{number:03}"))
        split.append(select.unpack(piece.value().pack()))
    assert select.merge(split, 3, 0, "cat") == whole.value()


def test_equal_ink_keeps_the_smallest_key_and_is_counted():
    (candidate,) = _smallest([b"a", b"a", b"a"]).value().rows()
    assert (candidate.key, candidate.times) == ("000", 3)


def test_a_drawing_without_a_key_gets_the_hash_of_its_ink():
    smallest = Smallest(3, 0, "cat")
    smallest.add_sketch(Sketch(b"a", ""))
    (candidate,) = smallest.value().rows()
    assert candidate.key == candidate.ink_id.hex()


def test_seed_and_class_change_the_choice():
    inks = [b"ink %d" % number for number in range(100)]
    chosen = {_smallest(inks, 5, seed, category).value().inks for seed in (0, 1) for category in ("cat", "dog")}
    assert len(chosen) == 4


def test_ink_of_several_classes_has_one_owner_whatever_the_order():
    shared = select.shared_ink([("dog", b"a" * 16 + b"b" * 16), ("cat", b"b" * 16 + b"c" * 16)])
    assert shared == [(b"b" * 16, ["cat", "dog"])]
    assert select.owner(0, b"b" * 16, ["cat", "dog"]) == select.owner(0, b"b" * 16, ["dog", "cat"])
    owners = {select.owner(0, b"%16d" % number, ["cat", "dog"]) for number in range(50)}
    assert owners == {"cat", "dog"}


def test_the_test_drawings_stay_when_training_takes_more():
    candidates = _smallest([b"ink %d" % number for number in range(50)], 50).value().rows()
    small = select.deal(candidates, {"test": 5, "validation": 3, "train": 10})
    large = select.deal(candidates, {"test": 5, "validation": 3, "train": 40})
    assert small["test"] == large["test"]
    every = [candidate for mine in large.values() for candidate in mine]
    assert len({candidate.ink for candidate in every}) == len(every) == 48


THERE = ["airplane", "cat", "dog", "hot dog"]


@pytest.mark.parametrize(
    ("given_classes", "expected"),
    [("all", THERE), ("dog,cat", ["cat", "dog"]), (" hot dog , cat ", ["cat", "hot dog"]), ("4", THERE)],
)
def test_classes_by_name_and_number(given_classes, expected):
    assert select.choose_categories(Settings(output="", classes=given_classes), THERE) == expected


def test_classes_by_file_and_by_seed(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog\r\n\r\nhot dog\n", "utf-8-sig")
    assert select.choose_categories(Settings(output="", classes=str(names)), THERE) == ["dog", "hot dog"]
    by_seed = {
        tuple(select.choose_categories(Settings(output="", classes="2", seed=seed), THERE)) for seed in range(20)
    }
    assert len(by_seed) > 2
    assert all(len(chosen) == 2 for chosen in by_seed)


@pytest.mark.parametrize(
    ("given_classes", "message"),
    [
        ("5", "use 1 to 4"),
        ("0", "use 1 to 4"),
        ("cat,kat", "no category 'kat' .*; it has cat"),
        ("cat,cat", "twice"),
        (",", "names no"),
        ("", "names no"),
        ("/", "'/' is a folder; give a file of names"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(given_classes, message):
    with pytest.raises(SettingsError, match=message):
        select.choose_categories(Settings(output="", classes=given_classes), THERE)
