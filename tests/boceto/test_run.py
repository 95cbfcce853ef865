import json

import pytest

from boceto import run, storage
from boceto.errors import DataError, Stopped


@pytest.fixture
def url(tmp_path):
    return f"memory://run/{tmp_path.name}"


FIELDS = {"goal": {"epochs": 1}, "mathematics": {"net": "sknet"}, "data_digest": "d", "result": None}


def lines(url):
    return [json.loads(line) for line in storage.read_bytes(storage.join(url, run.HISTORY)).splitlines()]


def test_the_description_is_read_as_it_was_written(url):
    assert run.read(url) is None
    run.write(url, FIELDS)
    assert run.read(url) == {"format": "boceto-run", "version": 1, **FIELDS}


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"format": "boceto-run", "version": 99}', b"[" * 100_000])
def test_a_damaged_description_is_refused(url, text):
    storage.write_bytes(storage.join(url, run.DESCRIPTION), text)
    with pytest.raises(DataError, match=r"run.json is not a run's description"):
        run.read(url)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": None}, "goal is None, not an object"),
        ({"mathematics": 5}, "mathematics is 5, not an object"),
        ({"result": 5}, "result is 5, not an object"),
        ({"result": {}}, "step is missing"),
    ],
)
def test_a_field_of_another_type_is_named(url, change, message):
    run.write(url, FIELDS | change)
    with pytest.raises(DataError, match=rf"run.json is not a run's description: {message}; remove it"):
        run.read(url)
    run.write(url, {})
    with pytest.raises(DataError, match=r"goal is missing"):
        run.read(url)


def test_the_history_is_cut_behind_the_restored_step(url):
    history = run.History(url)
    history.resume(0)
    for step in (1, 2, 3):
        history.add({"step": step})
    history.flush()
    again = run.History(url)
    again.resume(2)
    assert lines(url) == [{"step": 1}, {"step": 2}]
    again.add({"step": 3, "loss": 0.5})
    again.flush()
    assert lines(url)[-1] == {"step": 3, "loss": 0.5}


def test_lines_reach_the_file_within_seconds(url):
    now = [0.0]
    history = run.History(url, lambda: now[0])
    history.resume(0)
    history.add({"step": 1})
    assert lines(url) == []
    now[0] = run.FLUSH_SECONDS
    history.add({"step": 2})
    assert lines(url) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    "line", [b'{"st', b'{"step": "x"}', b'{"loss": 1}', b"5", b'{"step": 1, "a": "\xff"}', b"[" * 100_000]
)
def test_a_damaged_history_is_refused(url, line):
    storage.write_bytes(storage.join(url, run.HISTORY), b'{"step": 1}\n' + line)
    with pytest.raises(DataError, match=r"history.jsonl is damaged"):
        run.History(url).resume(1)


def test_lines_that_could_not_be_written_go_with_the_next_ones(tmp_path):
    said = []
    folder = tmp_path / "run"
    folder.mkdir()
    history = run.History(str(folder), alert=said.append)
    folder.rmdir()
    folder.write_text("in the way")
    history.add({"step": 1})
    history.offer()
    assert "history.jsonl was not written" in said[0]
    with pytest.raises(OSError, match="in the way|directory|exists"):
        history.settle()
    folder.unlink()
    history.add({"step": 2})
    history.settle()
    assert (folder / "history.jsonl").read_text().splitlines() == ['{"step": 1}', '{"step": 2}']


def test_a_history_that_is_no_longer_ours_is_left_as_it_is(tmp_path):
    def taken_over():
        raise Stopped("taken over")

    winner = run.History(str(tmp_path))
    winner.add({"step": 1, "loss": 2.0})
    winner.flush()
    before = (tmp_path / run.HISTORY).read_bytes()
    loser = run.History(str(tmp_path), confirm=taken_over)
    loser.add({"step": 1, "loss": 3.0})
    for write in (loser.offer, loser.flush):
        with pytest.raises(Stopped):
            write()
    assert (tmp_path / run.HISTORY).read_bytes() == before
