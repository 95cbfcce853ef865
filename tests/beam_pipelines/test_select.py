import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import select
from beam_pipelines.select import Smallest
from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing
from boceto.errors import SettingsError

INKS = st.lists(st.integers(0, 40).map(lambda number: b"ink %d" % number), max_size=60)
# Few keys, inks and pictures, so that everything is the same as something. Inks 0 and 9 have the same picture.
DRAWINGS = st.lists(
    st.builds(
        Drawing,
        st.integers(0, 40).map(lambda number: b"ink %d" % number),
        st.sampled_from(["", *"abcdefgh"]),
        st.none(),
        st.just(""),
    ),
    max_size=60,
)
INK_AND_SPLIT = st.tuples(st.integers(0, 40), st.sampled_from(select.ORDER))
DIVIDED = st.lists(INK_AND_SPLIT.map(lambda drawn: Drawing(b"ink %d" % drawn[0], split=drawn[1])), max_size=60)


class Alike:
    """Draws few pictures, of fewer probes."""

    def pictures(self, rows):
        return [b"picture %d" % (int(row.strokes[4:]) % 9) for row in rows]

    def probes(self, rows):
        return [b"probe  %d" % (int(row.strokes[4:]) % 3) for row in rows]


class Different:
    """Draws a picture of its own for each ink."""

    def pictures(self, rows):
        return [row.strokes for row in rows]

    def probes(self, rows):
        return [row.strokes[-8:].ljust(8) for row in rows]


ALIKE, DIFFERENT = Alike(), Different()


def _kept(drawings, keep=3, seed=0, category="cat", drawer=ALIKE):
    smallest = Smallest(keep, seed, category, drawer)
    for drawing in drawings:
        smallest.add_drawing(drawing)
    return smallest.value()


def _kept_in_any_order(drawings, random, keep, drawer=ALIKE):
    shuffled = list(drawings)
    random.shuffle(shuffled)
    kept = _kept(drawings, keep, drawer=drawer)
    assert kept == _kept(shuffled, keep, drawer=drawer)
    return kept


def _smallest(inks, keep=3, seed=0, category="cat"):
    return _kept([Drawing(ink, f"{number:03}") for number, ink in enumerate(inks)], keep, seed, category, DIFFERENT)


def _lost(classes):
    """What the stages find out together: classes with their candidates -> lost ones."""
    unclear = select.unclear({category: b"".join(map(select.claim, rows)) for category, rows in classes.items()})
    left = {
        category: [row for row in rows if row.rank[: select.RANK_BYTES] in unclear.get(category, ())]
        for category, rows in classes.items()
    }
    return select.lost(left, ALIKE)


def _taken(candidates, drawer=ALIKE):
    return [row for row, why in zip(candidates.rows, select.reasons(candidates.rows, drawer), strict=True) if not why]


@given(INKS, st.randoms())
def test_neither_order_nor_repeats_change_the_choice(inks, random):
    shuffled = list(inks)
    random.shuffle(shuffled)
    ranks = [row.rank for row in _smallest(inks).rows]
    assert ranks == [row.rank for row in _smallest(shuffled).rows]
    assert len(ranks) == min(3, len(set(inks)))


def _by_hand(drawings):
    """The rule, plainly: an ink is taken where no ink of a smaller rank has one of its keys, or its picture."""
    inks = {
        drawing.strokes: {other.key for other in drawings if other.strokes == drawing.strokes} - {""}
        for drawing in drawings
    }
    (rows,) = [_kept([Drawing(ink, "") for ink in inks], 100, drawer=DIFFERENT).rows]
    order = [row.strokes for row in rows]
    return [
        ink
        for number, ink in enumerate(order)
        if not any(inks[ink] & inks[other] or int(ink[4:]) % 9 == int(other[4:]) % 9 for other in order[:number])
    ]


@given(DRAWINGS, st.randoms(), st.integers(1, 12))
def test_of_what_shares_a_key_an_ink_or_a_picture_the_smallest_rank_is_taken(drawings, random, keep):
    kept = _kept_in_any_order(drawings, random, keep)
    assert [row.strokes for row in _taken(kept)] == _by_hand(drawings)[:keep]


@given(st.lists(st.integers(0, 300), max_size=600), st.randoms(), st.integers(1, 5))
def test_what_is_taken_stays_the_same_where_much_is_thrown_away(numbers, random, keep):
    # Each key has two inks, as where raw and simplified files lie side by side.
    drawings = [Drawing(b"ink %d" % number, str(number // 2)) for number in numbers]
    kept = _kept_in_any_order(drawings, random, keep, drawer=DIFFERENT)
    assert len(_taken(kept, DIFFERENT)) == min(keep, len({drawing.key for drawing in drawings}))


@given(DRAWINGS, st.integers(1, 6))
def test_parts_merged_are_the_whole(drawings, parts):
    keep = select.keep_of(Settings("", train_per_class=3, test_per_class=0))
    kept = [_kept(drawings[part::parts], keep) for part in range(parts)]
    assert select.merge(kept, keep, 0, "cat", ALIKE) == _kept(drawings, keep)


@given(DIVIDED, st.randoms(), st.integers(1, 12))
def test_a_fixed_split_is_kept_whole_and_the_test_drawing_of_two_that_are_the_same(drawings, random, keep):
    kept = _kept_in_any_order(drawings, random, keep)
    fixed = [drawing for drawing in drawings if drawing.split]
    merged = select.merge([_kept(fixed[part::3], keep) for part in range(3)], keep, 0, "cat", ALIKE)
    assert merged == _kept(fixed, keep)
    taken = _taken(kept)
    splits = {int(row.strokes[4:]) % 9: row.split for row in taken}
    assert len(splits) == len(taken)  # Each picture is there once.
    for drawing in drawings:
        picture = int(drawing.strokes[4:]) % 9
        first = min(select.ORDER.index(other.split) for other in drawings if int(other.strokes[4:]) % 9 == picture)
        assert splits.get(picture) == select.ORDER[first] or select.ORDER[first] == ""
    assert sum(not row.split for row in taken) <= keep


@given(DIVIDED, st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.sampled_from([0, 0.2, 0.5, 0.9]))
def test_each_candidate_is_dealt_once_to_its_split(drawings, test, validation, train, share):
    settings = Settings("", test_per_class=test, validation_per_class=validation, train_per_class=train,
                        validation_share=share)  # fmt: skip
    rows = _taken(_kept(drawings, 100, drawer=DIFFERENT), DIFFERENT)
    dealt = select.deal(rows, settings)
    ranks = [row.rank for split in dealt.values() for row in split]
    assert len(set(ranks)) == len(ranks)
    fixed = {row.rank for row in rows if row.split}
    free = len(rows) - len(fixed)
    assert fixed <= set(ranks)
    assert len(ranks) - len(fixed) == (min(free, test + validation + train) if train else free)
    assert all(row.split in {"test", ""} for row in dealt["test"])
    moved = [row for row in dealt["validation"] if row.split == "train"]
    assert bool(moved) <= (share > 0)
    trained = len(dealt["train"])
    if share and test == validation == 0:
        total = trained + sum(row.split != "validation" for row in dealt["validation"])
        assert trained == total - max(0, min(round(share * total), total - 1))


def test_what_is_held_is_bounded_where_everything_is_the_same():
    smallest = Smallest(3, 0, "cat", DIFFERENT)
    for number in range(30_000):
        smallest.add_drawing(Drawing(b"%d" % number, "one key"))
        smallest.add_drawing(Drawing(b"one ink", str(number)))
    kept = smallest.value()
    assert len(kept.rows) < 5000
    assert max(len(row.keys) for row in kept.rows) <= select.MOST_KEYS


def test_equal_ink_keeps_the_smallest_key_and_is_counted():
    (candidate,) = _smallest([b"a", b"a", b"a"]).rows
    assert (candidate.key, candidate.times) == ("000", 3)


def test_a_drawing_without_a_key_gets_the_hash_of_its_ink():
    (candidate,) = _kept([Drawing(b"a", "")], drawer=DIFFERENT).rows
    assert candidate.key == candidate.content_id.hex()


def test_empty_keys_are_no_keys():
    assert len(_taken(_kept([Drawing(b"a", ""), Drawing(b"b", "")], drawer=DIFFERENT), DIFFERENT)) == 2


def test_what_is_the_same_is_counted_by_why():
    rows = [
        select.Candidate(b"1", b"", b"ink 0", b"", ["x"], 3, b"p"),
        select.Candidate(b"2", b"", b"ink 1", b"", ["x", "y"], 2, b"q"),
        select.Candidate(b"3", b"", b"ink 9", b"", ["z"], 1, b"p"),
        select.Candidate(b"4", b"", b"ink 3", b"", [], 1, b"p"),  # Only its probe is the same.
        select.Candidate(b"5", b"", b"", b"pixels", [], 3, b"r"),
    ]
    whys = select.reasons(rows, ALIKE)
    assert whys == ["", "key", "picture", "", ""]
    assert select.count(rows, whys, -1) == {"ink": 2, "key": 2, "picture": 3}
    assert select.count(rows, whys, 0) == {"ink": 2, "key": 0, "picture": 0}


def test_seed_and_class_change_the_choice():
    inks = [b"ink %d" % number for number in range(100)]
    chosen = {
        tuple(row.strokes for row in _smallest(inks, 5, seed, category).rows)
        for seed in (0, 1)
        for category in ("cat", "dog")
    }
    assert len(chosen) == 4


@given(st.dictionaries(st.sampled_from(["cat", "dog", "eel"]), DRAWINGS), st.randoms())
def test_no_two_classes_take_what_shares_an_ink_or_a_picture(classes, random):
    kept = {category: _taken(_kept(drawings, 30, 0, category)) for category, drawings in classes.items()}
    lost = set(_lost(kept))
    shuffled = list(kept.items())
    random.shuffle(shuffled)
    assert set(_lost(dict(shuffled))) == lost
    gone = {(category, rank) for category, rank, _ in lost}
    left = [row for name, rows in kept.items() for row in rows if (name, row.rank[: select.RANK_BYTES]) not in gone]
    for same in ([row.strokes for row in left], ALIKE.pictures(left)):
        assert len(set(same)) == len(same)
    # Of each thing that is shared, a class keeps it, or has it in a drawing that it lost for another reason.
    assert bool(left) == any(kept.values())


def test_a_key_is_one_of_its_class():
    (cat,) = _kept([Drawing(b"ink 0", "1")], category="cat").rows
    (dog,) = _kept([Drawing(b"ink 3", "1")], category="dog").rows
    assert not _lost({"cat": [cat], "dog": [dog]})


def test_what_a_class_loses_is_told_with_why():
    (cat,) = _kept([Drawing(b"ink 0", "a")], category="cat").rows
    (dog,) = _kept([Drawing(b"ink 9", "b")], category="dog").rows
    loser = "cat" if cat.rank > dog.rank else "dog"
    found = _lost({"cat": [cat], "dog": [dog]})
    assert [(category, why) for category, _, why in found] == [(loser, "picture")]


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
