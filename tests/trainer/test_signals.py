"""SIGTERM at any moment of a real `boceto train`, as process 1 of a process namespace where the machine allows one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soak import SMALL
from stopping import has_loaded, listens

from boceto import checkpoint

NAMESPACES = (["unshare"], ["unshare", "--map-root-user"], [])
FIRST = ["--pid", "--fork", "--mount-proc", "--kill-child"]
FLAGS = ("--epochs", "400", "--save-every", "2", "--log-every", "2")


@pytest.fixture(scope="module")
def namespace():
    """The words that make a command process 1 of a namespace; none where only an ordinary process can be tested."""
    for words in NAMESPACES:
        with contextlib.suppress(FileNotFoundError):
            if words and not subprocess.run([*words, *FIRST, "true"], check=False, capture_output=True).returncode:
                return [*words, *FIRST]
    return []


def until(happened, process):
    while not happened():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def trainer_of(process, namespace):
    """The process that trains: the started one, or its child in the namespace."""
    if not namespace:
        return process.pid
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: children.read_text().split(), process)
    return int(children.read_text().split()[0])


def test_handlers_are_there_before_the_imports():
    script = (
        "import signal, sys\nimport boceto.__main__ as command\n"
        "numbers = signal.SIGTERM, signal.SIGINT\n"
        "def main(argv):\n"
        "    heavy = sorted({'numpy', 'google', 'argparse', 'tensorflow'} & set(sys.modules))\n"
        "    print([signal.getsignal(number).__module__ for number in numbers], heavy)\n"
        "command.main = main\ncommand.run()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "['boceto.process', 'boceto.process'] []\n", done.stderr


def test_a_run_that_is_asked_to_stop_at_any_moment_ends_with_75_and_goes_on(make_data, tmp_path, namespace):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "boceto", "train", "--data", make_data(train=8), "--run", str(run), *SMALL, *FLAGS]

    def stopped(happened):
        with subprocess.Popen(
            [*namespace, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            trainer = trainer_of(process, namespace)
            until(lambda: happened(trainer), process)
            os.kill(trainer, signal.SIGTERM)
            said = process.stderr.read()
        assert process.returncode == 75, said
        assert "run the same command again" in said
        return said

    assert "before anything began" in stopped(listens)
    assert "nothing was lost" in stopped(lambda trainer: has_loaded(trainer, "tensorflow"))
    assert not checkpoint.files(str(run))
    assert _lease(run)["released"]
    assert [json.loads(line)["code"] for line in (run / "attempts.jsonl").read_text().splitlines()] == [75]
    said = stopped(lambda _: list(run.glob(f"{checkpoint.FOLDER}/*/{checkpoint.COMMIT}")))
    last = max(checkpoint.files(str(run)))
    assert f"stopped, step {last} of" in said
    stopped(lambda _: not _lease(run)["released"])  # Now it imports, and has something to restore.
    assert max(checkpoint.files(str(run))) >= last
    checkpoint.load(str(run), max(checkpoint.files(str(run))))


def _lease(run):
    return json.loads((run / "lease.json").read_text())
