"""Each option of each program that takes a path, with what cannot be used there: refused at once, in a line with it."""

import contextlib
import ctypes
import os
import signal
import socket
from importlib import metadata
from pathlib import Path

import pytest

from boceto.__main__ import GROUP

SYNTHETIC = ("--source", "synthetic", "--classes", "3", "--size", "16", "--workers", "1")
TRAINED = ("--run", "RUN", "--data", "DATA")
NEITHER = ("pipe", "device", "socket")
FILE = (*NEITHER, "unreadable", "folder")
FOLDER = (*NEITHER, "closed", "file")
OPTIONS = [  # Verb, option, what else is given, what is refused, and the name that it has.
    ("prepare", "--input", ("--output", "OUT"), FILE, "cat.ndjson"),
    ("prepare", "--output", SYNTHETIC, FOLDER, "out"),
    ("prepare", "--classes", ("--output", "OUT", *SYNTHETIC), FILE, "names"),
    ("train", "--data", TRAINED, FOLDER, "data"),
    ("train", "--run", TRAINED, FOLDER, "run"),
    ("eval", "--data", TRAINED, FOLDER, "data"),
    ("eval", "--run", TRAINED, FOLDER, "run"),
    ("predict", "--input", ("--run", "RUN"), (*NEITHER, "folder"), "in"),
    ("predict", "--output", ("--run", "RUN", "--input", "DRAWN"), (*NEITHER, "folder"), "out.csv"),
    ("predict", "--run", ("--input", "DRAWN"), FOLDER, "run"),
    ("predict", "--data", ("--run", "RUN", "--input", "DRAWN"), FOLDER, "data"),
    ("preflight", "--data", TRAINED, FOLDER, "data"),
    ("preflight", "--run", TRAINED, FOLDER, "run"),
    ("verify-resume", "--data", ("--work", "OUT"), FOLDER, "data"),
    ("verify-resume", "--work", ("--data", "DATA"), FOLDER, "work"),
    ("inspect", "", (), (*FOLDER, "folder"), "path"),
    ("demo", "--output", (), FOLDER, "demo"),
    *((verb, "--config", (), (*FILE, "file"), "set.toml") for verb in ("prepare", "train", "eval", "predict", "demo")),
    ("submit", "--config", ("status",), (*FILE, "file"), "set.toml"),
]
CASES = [(verb, option, more, name, kind) for verb, option, more, kinds, name in OPTIONS for kind in kinds]


@contextlib.contextmanager
def _bound_by_rights():
    """Takes from root, in this thread, what lets it pass over the rights of files (CAP_DAC_OVERRIDE, _READ_SEARCH)."""
    library = ctypes.CDLL(None, use_errno=True)
    version, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert library.capget(version, before) == 0
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~0b110
    assert library.capset(version, less) == 0
    try:
        yield
    finally:
        assert library.capset(version, before) == 0


def _make(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "closed":
        path.mkdir(0o000)
    else:
        path.write_text("nothing of ours")
        path.chmod(0o000 if kind == "unreadable" else 0o600)


def _too_late(*_):
    raise TimeoutError("it waits")


@pytest.mark.parametrize(
    ("verb", "option", "more", "name", "kind"),
    CASES,
    ids=[f"{verb} {option} {kind}" for verb, option, *_, kind in CASES],
)
def test_a_path_that_cannot_be_used_is_refused_at_once(  # noqa: PLR0913, PLR0917
    make_data, tmp_path, monkeypatch, capsys, verb, option, more, name, kind
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    _make(Path(name), kind)  # The name of a socket may have 107 signs.
    given = {
        "DATA": make_data(classes=3, train=4, test=2, name="there"),
        "RUN": str(tmp_path / "a run"),
        "OUT": str(tmp_path / "an output"),
        "DRAWN": str(tmp_path / "drawn.ndjson"),
    }
    Path(given["DRAWN"]).write_text('{"drawing": [[[0, 9], [0, 9]]]}')
    words = [given.get(word, word) for word in more]
    words += [f"{option}={path}"] if option else [str(path)]
    (program,) = [entry.load() for entry in metadata.entry_points(group=GROUP) if entry.name == verb]
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(600)  # The first case may import TensorFlow on a busy machine.
    try:
        with _bound_by_rights():
            code = program(words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    out, err = capsys.readouterr()
    assert code in {2, 65}, err
    assert str(path) in err.splitlines()[-1]
    assert "Traceback" not in out + err
