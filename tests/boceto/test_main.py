import os
import subprocess
import sys
from importlib import metadata

import pytest

from boceto import __main__ as command


def test_an_unknown_verb_says_which_there_are(capsys):
    assert command.main(["trian"]) == 2
    assert "the verbs are demo, eval, inspect, " in capsys.readouterr().err


def test_without_a_verb_help_is_shown(capsys):
    assert command.main([]) == 0
    assert "boceto prepare" in capsys.readouterr().out


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    entry = metadata.EntryPoint("train", "a_module_that_is_not_installed:main", command.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    assert command.main(["train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("`boceto train` needs `pip install '.[train]'`, in the repository's folder")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("verb", ["prepare", "train", "eval", "demo"])
def test_every_verb_has_help_and_refuses_an_unknown_flag(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"boceto {verb}" in capsys.readouterr().out
    assert command.main([verb, "--no-such-flag"]) == 2
    assert f"see `boceto {verb} --help`" in capsys.readouterr().err


def _shell(words):
    command = f"{sys.executable} -m boceto {words}"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", ["--help", "--version", "submit --help", "train --help"])
def test_an_output_that_takes_nothing_is_no_traceback(words):
    done = _shell(f"{words} >/dev/full")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(make_data, closed):
    assert _shell(f"inspect {make_data()} --json {closed}").returncode == 0
    assert _shell(f"inspect nowhere {closed}").returncode == 2
