"""How an attempt ended is in the run folder, whoever else writes there, and where its pod is gone."""

import json
import os
import subprocess
import sys
import threading

import pytest

from boceto import run as runs
from boceto import storage
from trainer import attempts
from trainer.attempts import Attempt


def _lines(run):
    return [json.loads(line) for line in storage.read_bytes(storage.join(str(run), runs.ATTEMPTS)).splitlines()]


@pytest.fixture
def _container(monkeypatch, tmp_path):
    monkeypatch.setenv("BOCETO_MESSAGE_FILE", str(tmp_path / "message"))


@pytest.mark.usefixtures("_container")
def test_each_attempt_is_a_line_with_its_code_and_reason(tmp_path):
    for code, said in ((75, "stopped"), (65, "the shard train-00001 is damaged")):
        attempt = Attempt()
        attempt.run = str(tmp_path / "run")
        attempt.ended(code, said)
    first, second = _lines(tmp_path / "run")
    assert (first["code"], second["code"], second["message"]) == (75, 65, "the shard train-00001 is damaged")
    assert first["pod"] == second["pod"]
    assert first["started"] <= first["ended"] <= second["ended"]


@pytest.mark.usefixtures("_container")
def test_two_that_end_at_once_lose_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "SECONDS", 60.0)
    monkeypatch.setattr(attempts, "TRIES", 1000)
    every = [Attempt() for _ in range(8)]
    for attempt in every:
        attempt.run = str(tmp_path / "run")
    threads = [threading.Thread(target=attempt.ended, args=(number, "")) for number, attempt in enumerate(every)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line["code"] for line in _lines(tmp_path / "run")) == list(range(8))


@pytest.mark.usefixtures("_container")
def test_the_newest_lines_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "MOST", 3)
    attempt = Attempt()
    attempt.run = str(tmp_path)
    for code in range(5):
        attempt.ended(code, "")
    assert [line["code"] for line in _lines(tmp_path)] == [2, 3, 4]


@pytest.mark.usefixtures("_container")
def test_a_run_that_cannot_be_written_costs_the_line_alone(tmp_path):
    (tmp_path / "file").write_text("")
    attempt = Attempt()
    attempt.run = str(tmp_path / "file" / "run")
    attempt.ended(65, "")
    attempt.run = ""
    attempt.ended(2, "")


@pytest.mark.parametrize("watched", [True, False])
def test_a_refused_attempt_leaves_a_line_in_a_container_and_no_folder_elsewhere(tmp_path, watched):
    environment = {**os.environ, "BOCETO_ALIVE_FILE": str(tmp_path / "alive")}
    if watched:
        environment["BOCETO_MESSAGE_FILE"] = str(tmp_path / "message")
    words = ["--data", str(tmp_path / "none"), "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode in {2, 65}
    assert (tmp_path / "alive").exists()
    assert (tmp_path / "run").exists() == watched
    if watched:
        (line,) = _lines(tmp_path / "run")
        assert line["code"] == done.returncode
        assert line["message"] in done.stderr
