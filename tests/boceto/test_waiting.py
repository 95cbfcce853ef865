import pytest

from boceto import environment, waiting
from boceto.console import Console


def test_it_waits_until_there_is_something(tmp_path):
    path, told, paused = tmp_path / "dataset.json", [], []

    def pause(seconds):
        paused.append(seconds)
        if len(paused) == 3:
            path.write_text("{}")

    waiting.until_there(str(path), 1000.0, told.append, pause)
    assert len(paused) == 3
    assert told == 3 * [f"waits for {path}, which is not there yet"]


def test_what_is_there_or_not_to_be_waited_for_is_not(tmp_path):
    (tmp_path / "there").write_text("")
    for name, seconds in (("there", 10.0), ("missing", 0.0)):
        waiting.until_there(str(tmp_path / name), seconds, pytest.fail, pytest.fail)


def test_it_waits_no_longer_than_it_was_told(tmp_path):
    waiting.until_there(str(tmp_path / "missing"), 0.05, lambda _: None)


def test_what_ends_the_pause_ends_the_wait(tmp_path):
    def stopped(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waiting.until_there(str(tmp_path / "missing"), 10.0, lambda _: None, stopped)


def test_progress_touches_the_file_that_a_probe_looks_at(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.ALIVE_FILE, str(tmp_path / "alive"))
    monkeypatch.setattr(environment, "TOUCH_EVERY", 0.0)
    for say in (Console().line, Console().progress):
        say("step 1/2")
        (tmp_path / "alive").unlink()
