"""Kaggle's CSV form gives what the same drawings give as ndjson, and refuses what these refuse."""

import csv
import gzip
import io
import json

import pytest
from bad_drawings import BAD, GOOD
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.settings import Settings
from beam_pipelines.sources import Drawing, Refused, quickdraw
from boceto import strokes
from boceto.errors import SettingsError

COLUMNS = ("countrycode", "drawing", "key_id", "recognized", "timestamp", "word")
WANTED = Drawing(strokes.pack(GOOD["drawing"]), "12")


def _row(entry, columns=COLUMNS):
    """One drawing as pandas writes it."""
    text = io.StringIO()
    values = {name: json.dumps(value) if name == "drawing" else value for name, value in entry.items()}
    csv.writer(text, lineterminator="\n").writerow([values.get(name, "") for name in columns])
    return text.getvalue().encode()


def _file(*rows, columns=COLUMNS):
    return b"".join(
        [",".join(columns).encode() + b"\n", *(row if isinstance(row, bytes) else _row(row) for row in rows)]
    )


def _read(folder, content, name="cat.csv", **changes):
    (folder / name).write_bytes(content)
    settings = Settings(output="unused", input=str(folder), **changes)
    return [item for part in quickdraw.plan(settings) for item in quickdraw.read(part, settings)]


@pytest.mark.parametrize("columns", [COLUMNS, ("word", "key_id", "drawing"), ("", "drawing", "more", "word", "key_id")])
@pytest.mark.parametrize("packed", [False, True])
def test_columns_stand_in_any_order_and_others_are_passed_over(tmp_path, columns, packed):
    content = b"\xef\xbb\xbf" + _file(_row({**GOOD, "": 0, "more": 'a "b", c'}, columns), b"\n", columns=columns)
    name = "cat.csv.gz" if packed else "cat.csv"
    assert _read(tmp_path, gzip.compress(content) if packed else content.replace(b"\n", b"\r\n"), name) == [WANTED]


@pytest.mark.parametrize(("entry", "reason"), [(entry, why) for entry, why in BAD if isinstance(entry, dict)])
def test_a_row_is_refused_for_the_reason_of_the_same_line(tmp_path, entry, reason):
    entry = {"word": "cat", **entry}
    if not isinstance(entry.get("key_id", ""), str):
        entry["key_id"] = "1" * 65  # A column is always text.
    refused, good = _read(tmp_path, _file(entry, GOOD))
    assert (refused.line, refused.reason, refused.lost) == (2, reason, 1)
    assert good == WANTED


@pytest.mark.parametrize(
    ("row", "reason", "what"),
    [
        (b'US,"[[[1,2],[3,NaN]]]",1,True,t,cat\n', "not_finite", "a number is NaN"),
        (b'US,"[[[1,2],[3",1,True,t,cat\n', "broken_json", ""),
        (b'US,"[[[true,2],[3,4]]]",1,True,t,cat\n', "wrong_type", "drawing[0][0][0] = True is no number"),
        (b"US,,1,True,t,cat\n", "no_strokes", "the line has no drawing"),
        (b'US,"[[[1,2],[3,4]]]",1,True,t,c\xff\n', "not_utf8", "byte 32 is 0xff"),
        (b'US,"[[[1,2],[3,4]]]",1,True,cat\n', "broken_csv", "the row has 5 fields and the header 6"),
        (b'US,"[[[1,2],[3,4]]]"x,1,True,t,cat\n', "broken_csv", ""),
        (b"US,[[[1,2],[3,4]]],1,True,t,cat\n", "broken_csv", "the row has 9 fields"),
        (b'US,"[[[1,2]' + b" " * (1 << 21) + b',[3,4]]]",1,True,t,cat\n', "line_too_long", ""),
    ],
)
def test_a_bad_row_is_refused_with_its_reason_and_the_next_is_read(tmp_path, row, reason, what):
    refused, good = _read(tmp_path, _file(row, GOOD))
    assert (refused.line, refused.reason) == (2, reason)
    assert refused.what.startswith(what)
    assert good == WANTED


def test_a_quote_that_is_never_closed_costs_its_row_and_the_next(tmp_path):
    refused, good = _read(tmp_path, _file(b'US,"[[[1,2\n', GOOD, GOOD))
    assert (refused.reason, refused.line, refused.lost, good) == ("broken_csv", 2, 2, WANTED)


def test_a_field_with_line_breaks_and_what_never_ends(tmp_path):
    broken = json.dumps(GOOD["drawing"]).replace(",", ",\n")
    content = _file(f'"U\nS","{broken}",12,"Tr\nue",t,cat\n'.encode(), {**GOOD, "word": "dog"}, GOOD)
    first, refused, last = _read(tmp_path, content)
    assert (first, last) == (WANTED, WANTED)
    assert (refused.reason, refused.line) == ("other_word", 10)
    refused, *_ = _read(tmp_path, _file(b'"' + (b"x" * 1023 + b"\n") * 1100, GOOD))
    assert (refused.reason, refused.line) == ("line_too_long", 2)
    assert 1024 <= refused.lost < 1030  # Lines, of MAX_LINE bytes in all.


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_file_that_ends_in_a_row_is_cut_off(tmp_path, cut):
    content = _file(GOOD, {**GOOD, "key_id": "13"})
    *items, last = _read(tmp_path, content[: -1 - cut])
    assert items == [WANTED]
    assert (last.reason, last.line, last.lost) == ("truncated_file", 3, 3)
    *items, last = _read(tmp_path, gzip.compress(content)[: -9 - cut], "cat.csv.gz")
    assert last.reason == "truncated_file"


def test_a_last_row_without_a_line_break_is_whole(tmp_path):
    items = _read(tmp_path, _file(GOOD, {**GOOD, "drawing": [[[0, 256], [0, 1]]]})[:-1])
    assert [getattr(item, "reason", "") for item in items] == ["", "out_of_range"]


def test_recognized_only_leaves_out_the_others(tmp_path):
    rows = [{**GOOD, "recognized": flag} for flag in ("True", "False", "", "true")]
    items = _read(tmp_path, _file(*rows), recognized="only")
    assert [getattr(item, "reason", "") for item in items] == [
        "", "not recognized", "without the flag `recognized`", "",
    ]  # fmt: skip


def test_the_raw_form_is_simplified(tmp_path):
    raw = {**GOOD, "drawing": [[[100, 2650], [30.5, 1305.5], [0, 9]]]}
    (item,) = _read(tmp_path, _file(raw))
    assert strokes.unpack(item.strokes)[0].tolist() == [[0, 0], [255, 128]]


def test_the_words_in_the_rows_count_before_the_name(tmp_path):
    settings = Settings(output="unused", input=str(tmp_path))
    (tmp_path / "train_k0.csv").write_bytes(_file({**GOOD, "word": "hot dog"}))
    assert [(part.category, part.named) for part in quickdraw.plan(settings)] == [("hot dog", "train_k0")]
    # The look ends within a row, whose word is cut.
    long = {**GOOD, "word": "hot dog", "drawing": [[[0, 1] * 3000, [0, 1] * 3000]]}
    (tmp_path / "train_k0.csv").write_bytes(_file(*[long] * 8))
    assert [part.category for part in quickdraw.plan(settings)] == ["hot dog"]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"key_id,countrycode,drawing", "test_simplified.csv has no column `word`, but key_id, countrycode, drawing;"),
        (b"key_id,word,drawings", "no column `drawing`, but key_id, word, drawings;"),
        (b"countrycode;drawing;word", "no column `drawing` and `word`, but countrycode;drawing;word;"),
    ],
)
def test_a_header_without_a_needed_column_is_refused_with_what_to_do(tmp_path, header, told):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat.csv").write_bytes(_file(GOOD))
    (tmp_path / "test_simplified.csv").write_bytes(header + b'\n9,US,"[[[1,2],[3,4]]]"\n')
    with pytest.raises(SettingsError) as refused:
        quickdraw.plan(Settings(output="unused", input=str(tmp_path)))
    assert told in str(refused.value)
    assert "leave it out, with a pattern such as --input 'FOLDER/train*/*.csv'" in str(refused.value)
    (part,) = quickdraw.plan(Settings(output="unused", input=f"{tmp_path}/train*/*.csv"))
    assert part.category == "cat"


def test_a_table_of_something_else_is_passed_over(tmp_path):
    (tmp_path / "sample_submission.csv").write_bytes(b"key_id,word\n9,cat\n")
    assert _read(tmp_path, _file(GOOD)) == [WANTED]
    (tmp_path / "cat.csv").unlink()
    with pytest.raises(SettingsError, match="no .* file of drawings there"):
        quickdraw.plan(Settings(output="unused", input=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", ""), (b"countrycode,dra", "truncated_file"), (b'"word,drawing\n1,2\n', "broken_csv")]
)
def test_a_file_without_a_whole_header_has_no_drawing(tmp_path, content, reason):
    assert [item.reason for item in _read(tmp_path, content)] == [reason] * bool(reason)


_TEXT = st.text('ab",[]1\n\r\0é', max_size=30)


@given(st.lists(st.tuples(_TEXT, _TEXT), max_size=4), st.booleans())
def test_what_a_writer_of_csv_has_quoted_is_read_as_one_row_each(rows, is_cut):
    text = io.StringIO()
    csv.writer(text).writerows([("drawing", "word"), *rows])
    content = text.getvalue().encode()[: -3 if is_cut else None]
    lines = content.split(b"\n")
    items = list(quickdraw._kaggle.read(lines[:-1], None, "cat"))
    assert all(isinstance(item, Refused) for item in items)
    if not is_cut:
        assert len(items) == len(rows)
        assert not [item for item in items if item.reason == "broken_csv"]
