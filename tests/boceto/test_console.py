import errno
import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from boceto.console import ERASE, Console, clock_time, run_program, table
from boceto.environment import MESSAGE_FILE
from boceto.errors import DataError, SettingsError, Stopped


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _clock(times):
    return iter(times).__next__


JOB = [("test", 0, 300, "steps"), ("test", 12, 300, "steps"), ("test", 120, 300, "steps"), ("waits for [bold]x",)]


def _shown(stream, times):
    console = Console(stream, _clock(times))
    for each in JOB:
        console.progress(*each)
    console.line("done")
    return stream.getvalue()


@pytest.mark.parametrize(("stream", "term"), [(io.StringIO, "xterm"), (_Terminal, "dumb")])
def test_progress_is_rare_and_plain_where_there_is_no_terminal(monkeypatch, stream, term):
    monkeypatch.setenv("TERM", term)
    expected = "120/300 steps, 10.0 steps/s, 00:18 left: test\nwaits for [bold]x\ndone\n"
    assert _shown(stream(), [1, 2, 13, 23]) == expected


@pytest.mark.parametrize("columns", [80, 30, 8])
@pytest.mark.parametrize("colours", [True, False])
def test_progress_is_a_bar_in_the_last_line_of_a_terminal(monkeypatch, columns, colours):
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "" if colours else "1"}.items():
        monkeypatch.setenv(name, value)
    erased, *lines = _shown(_Terminal(), [0, 0.1, 12, 13]).split(ERASE)
    assert (erased, lines.pop()) == ("", "done\n")
    assert (re.search(r"\x1b\[[39]", lines[1]) is not None) is colours
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert all("\x1b" not in line and len(line) <= columns for line in plain)
    if columns == 80:
        assert plain[1].endswith("120/300 steps, 10.0 steps/s, 00:18 left: test")
        assert plain[1].count("\N{BOX DRAWINGS HEAVY HORIZONTAL}") >= 4
        assert plain[2] == "waits for [bold]x"


def test_a_long_text_is_cut_and_the_bar_is_not(monkeypatch):
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stream = _Terminal()
    Console(stream, lambda: 0.0).progress("long " * 30, 5, 10, "steps")
    line = stream.getvalue().removeprefix(ERASE)
    assert (len(line), line[-1]) == (80, "\N{HORIZONTAL ELLIPSIS}")
    assert line[12:].startswith(" 5/10 steps: long long")


def test_less_done_than_at_the_start_is_another_job(monkeypatch):
    stream = io.StringIO()
    console = Console(stream, _clock([0, 10, 20, 30]))
    for done in (50, 60, 0, 20):
        console.progress("", done, 100, "drawings")
    assert stream.getvalue().splitlines() == [
        "60/100 drawings, 1.0 drawings/s, 00:40 left",
        "0/100 drawings",
        "20/100 drawings, 2.0 drawings/s, 00:40 left",
    ]


def test_names_are_neither_commands_nor_markup(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream, name = _Terminal(), "a\x1b[2J\x07\x9b[red]b"
    console = Console(stream, lambda: 0.0)
    console.progress(name)
    console.line(name)
    console.table(["name"], [[name]])
    assert "\x1b" not in stream.getvalue().replace(ERASE, "")
    assert not {"\x07", "\x9b"} & set(stream.getvalue())
    assert stream.getvalue().count("[red]b") == 3


def test_a_stop_at_once_removes_the_bar(tmp_path):
    script = (
        "from boceto.console import *\nc = Console()\nc.progress('x', 1, 2, 'steps')\nprocess.leave_at_once('stopped')"
    )
    here, there = os.openpty()
    environment = os.environ | {"TERM": "xterm", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", script], stderr=there, env=environment, check=False)
    said = os.read(here, 4096).decode()
    os.close(here)
    os.close(there)
    assert done.returncode == 75
    assert said.endswith("1/2 steps: x\r\x1b[2Kboceto : stopped; run the same command again\r\n")
    assert "\x1b[?25l" not in said  # The cursor was never hidden.


def test_times_and_tables():
    assert [clock_time(seconds) for seconds in (0, 61, 3661.4)] == ["00:00", "01:01", "1:01:01"]
    line = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    assert table(("a", "bb"), [("x", "1")]).splitlines() == ["a   bb", line * 6, "x    1"]
    assert table(("a", "b"), [("x" * 12, "1")], width=12).splitlines()[2:] == ["xxxxxxxx   1", "xxxx"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("bad"), 2),
        (DataError("bad"), 65),
        (Stopped("bad"), 75),
        (OSError("bad"), 1),
        (OSError(errno.ENOSPC, "no space"), 1),
        (OSError(errno.ELOOP, "a loop", "runs"), 2),
        (PermissionError(errno.EACCES, "not allowed", "runs"), 2),
        (PermissionError(errno.EACCES, "not allowed"), 1),  # Of a connection: no path is wrong.
        (KeyboardInterrupt(), 75),
    ],
)
def test_an_error_is_one_line_and_its_code(capsys, error, code):
    def work(console):
        raise error

    assert run_program("train", work) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("boceto train: ")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_the_result_goes_out_as_json_only_when_asked(capsys, as_json):
    assert run_program("train", lambda console: ({"step": 3}, as_json)) == 0
    out = capsys.readouterr().out
    assert (json.loads(out) if as_json else out) == ({"step": 3} if as_json else "")


@pytest.mark.parametrize("there", [True, False])
def test_the_last_word_is_left_in_the_file_that_the_environment_names(tmp_path, make_data, there):
    path = tmp_path / "message"
    path.write_text("an earlier, longer message" * 100)
    looked_at = make_data() if there else str(tmp_path / "nothing")
    command = [sys.executable, "-m", "boceto", "inspect", looked_at, "--json"]
    environment = {**os.environ, MESSAGE_FILE: str(path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if there else 2)
    assert path.read_text() == (done.stdout if there else done.stderr)


def test_a_message_that_cannot_be_left_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv(MESSAGE_FILE, str(tmp_path / "no" / "such" / "folder"))
    assert run_program("train", lambda console: ({"step": 3}, False)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_something_is_imported_is_a_stop_whatever_the_import_makes_of_it(number, tmp_path):
    (tmp_path / "native.py").write_text(
        "import time\ntry:\n    print('importing', flush=True)\n    time.sleep(60)\n"
        "except BaseException as error:\n    raise ImportError('a part of it is missing') from error\n"
    )
    script = (
        "import sys\nfrom boceto.console import quiet, run_program\n"
        "def work(console):\n    with quiet():\n        import native\n    return {}, False\n"
        "sys.exit(run_program('eval', work))"
    )
    environment = os.environ | {"BOCETO_MESSAGE_FILE": str(tmp_path / "said")}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        said = process.stderr.read()
    assert (process.returncode, said) == (75, "boceto eval: stopped; run the same command again\n")
    assert (tmp_path / "said").read_text() == said


def test_a_message_into_a_pipe_that_nobody_reads_is_not_waited_for(monkeypatch, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv(MESSAGE_FILE, str(tmp_path / "pipe"))
    assert run_program("train", lambda console: ({"step": 3}, False)) == 0


def test_an_error_that_a_library_makes_of_a_request_to_stop_is_the_stop(capsys):
    def work(console):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:  # As Beam has it.
            raise RuntimeError("a bundle failed") from error

    assert run_program("prepare", work) == 75
    assert capsys.readouterr().err == "boceto prepare: stopped; run the same command again\n"
