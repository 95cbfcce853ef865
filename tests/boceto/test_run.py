import json

import pytest

from boceto import run, storage
from boceto.checkpoint import Progress, WindowSums
from boceto.errors import DataError, Stopped


@pytest.fixture
def url(tmp_path):
    return f"memory://run/{tmp_path.name}"


FIELDS = {
    "stop_criterion": {"epochs": 1},
    "hyperparameters": {"net": "sknet"},
    "data_digest": "d",
    "records": 8,
    "checkpoints": [1],
    "result": None,
}


def lines(url):
    return [{name: value for name, value in line.entry.items() if name != "chain"} for line in run.history(url)]


def test_the_description_is_read_as_it_was_written(url):
    assert run.read(url) is None
    run.write(url, FIELDS)
    found = run.read(url)
    assert found == {"format": "boceto-run", "version": 3, **FIELDS, "seal": found["seal"]}
    run.write(url, found | {"records": 9})
    assert run.read(url)["records"] == 9


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"format": "boceto-run", "version": 99}', b"[" * 100_000])
def test_a_damaged_description_is_refused(url, text):
    storage.write_bytes(storage.join(url, run.DESCRIPTION), text)
    with pytest.raises(DataError, match=r"run.json is not a run's description"):
        run.read(url)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stop_criterion": None}, "stop_criterion is None, not an object"),
        ({"hyperparameters": 5}, "hyperparameters is 5, not an object"),
        ({"result": 5}, "result is 5, not an object"),
        ({"result": {}}, "step is missing"),
    ],
)
def test_a_field_of_another_type_is_named(url, change, message):
    run.write(url, FIELDS | change)
    with pytest.raises(DataError, match=rf"run.json is not a run's description: {message}; put"):
        run.read(url)
    run.write(url, {})
    with pytest.raises(DataError, match=r"stop_criterion is missing"):
        run.read(url)


def test_the_history_is_cut_behind_the_restored_step(url):
    history = run.History(url)
    history.resume(Progress())
    assert history.head == run.EMPTY
    heads = []
    for step in (1, 2, 2, 3):
        history.add({"step": step})
        heads.append(history.head)
    history.flush()
    again = run.History(url)
    again.resume(Progress(2))  # It could not be written then.
    assert lines(url) == [{"step": 1}, {"step": 2}, {"step": 2}]
    again.resume(Progress(2, history=heads[1]))
    assert lines(url) == [{"step": 1}, {"step": 2}]
    again.add({"step": 3, "loss": 0.5})
    again.flush()
    assert lines(url)[-1] == {"step": 3, "loss": 0.5}


LOGGED, VALIDATED = {"step": 4, "loss": 1.0}, {"step": 4, "validation_loss": 1.0}


@pytest.mark.parametrize(
    ("progress", "every", "kept"),
    [
        (Progress(4, window=WindowSums(1)), [LOGGED, VALIDATED], []),
        (Progress(4), [LOGGED, VALIDATED], [LOGGED]),
        (Progress(4, window=WindowSums(1), validated=4), [VALIDATED, LOGGED], [VALIDATED]),
        (Progress(4, validated=4), [LOGGED, VALIDATED], [LOGGED, VALIDATED]),
    ],
)
def test_the_lines_of_an_end_are_cut_where_no_checkpoint_names_its_last_line(url, progress, every, kept):
    history = run.History(url)
    first = {"step": 2, "validation_loss": 1.0}
    for line in (first, *every):
        history.add(line)
    history.flush()
    run.History(url).resume(progress)
    assert lines(url) == [first, *kept]


def test_lines_reach_the_file_within_seconds(url):
    now = [0.0]
    history = run.History(url, lambda: now[0])
    history.resume(Progress())
    history.add({"step": 1})
    assert lines(url) == []
    now[0] = run.FLUSH_SECONDS
    history.add({"step": 2})
    assert lines(url) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    "line", [b'{"st', b'{"step": "x"}', b'{"loss": 1}', b"5", b'{"step": 1, "a": "\xff"}', b"[" * 100_000]
)
def test_a_damaged_history_is_refused(url, line):
    storage.write_bytes(storage.join(url, run.HISTORY), run.line(run.EMPTY, {"step": 1}).text.encode() + b"\n" + line)
    with pytest.raises(DataError, match=r"history.jsonl is damaged: line 2.*put it back, or remove it"):
        run.History(url).resume(Progress(1))


@pytest.fixture
def chained(url):
    history = run.History(url)
    for step in range(1, 6):
        history.add({"step": step, "loss": 1 / step, "net": "sknet"})
    history.flush()
    return history


def changes(text):
    """A history with each byte changed, each line removed, or two exchanged."""
    for at in range(len(text)):
        yield text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
    every = text.splitlines(keepends=True)
    for at in range(len(every)):
        yield b"".join(every[:at] + every[at + 1 :])
        yield b"".join([*every[:at], every[at], *every[at:]])
    yield b"".join([every[1], every[0], *every[2:]])
    yield text.replace(b"\n", b"\r", 1)


def test_every_change_of_a_history_is_noticed(url, chained):
    path = storage.join(url, run.HISTORY)
    for changed in changes(storage.read_bytes(path)):
        storage.write_bytes(path, changed)
        with pytest.raises(DataError, match=r"history.jsonl is damaged"):
            run.History(url).resume(Progress(5, history=chained.head))


def test_a_history_that_is_gone_is_told_and_begins_anew(url, chained):
    said = []
    storage.delete(storage.join(url, run.HISTORY))
    run.History(url, alert=said.append).resume(Progress(5, history=chained.head))
    assert "history.jsonl is missing: what it said up to step 5 is lost" in said[0]
    assert lines(url) == []


def test_a_head_says_only_what_was_written(tmp_path):
    history = run.History(str(tmp_path / "run"))
    (tmp_path / "run").write_text("in the way")
    history.add({"step": 1})
    history.offer()
    assert history.head == ""
    (tmp_path / "run").unlink()
    history.offer()
    assert history.head == run.line(run.EMPTY, {"step": 1}).chain


def numbers_and_texts(entry, *above):
    """The places of all numbers and texts in a JSON object."""
    if isinstance(entry, dict | list):
        for name, value in entry.items() if isinstance(entry, dict) else enumerate(entry):
            yield from numbers_and_texts(value, *above, name)
    else:
        yield above


def test_every_changed_field_of_a_description_is_noticed(url):
    described = FIELDS | {"result": {"step": 45, "ledger": "ab"}, "seconds": {"computing": 1.5}}
    run.write(url, described)
    path = storage.join(url, run.DESCRIPTION)
    whole = json.loads(storage.read_bytes(path))
    for *above, name in numbers_and_texts(whole):
        changed = json.loads(json.dumps(whole))
        place = changed
        for step in above:
            place = place[step]
        place[name] = f"{place[name]}x" if isinstance(place[name], str) else (place[name] or 0) + 1
        storage.write_bytes(path, (json.dumps(changed, indent=1) + "\n").encode())
        with pytest.raises(DataError, match=r"run.json is not a run's description.*remove it to go on"):
            run.read(url)


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
    assert lines(str(folder)) == [{"step": 1}, {"step": 2}]


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
