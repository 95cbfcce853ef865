"""A `boceto prepare` that dies or fails at a write: the same command again makes the same data set."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_store import Fault

from boceto import dataset
from boceto.__main__ import main
from boceto.errors import DataError

FLAGS = (
    "--source", "synthetic", "--classes", "2", "--train-per-class", "6", "--test-per-class", "2", "--size", "16",
    "--records-per-shard", "4", "--workers", "1", "--no-preview",
)  # fmt: skip
SHARD, MANIFEST = r"\.tfrecord$", r"/dataset\.json$"
LAUNCHER = Path(__file__).parent.parent / "faulty_boceto.py"


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("whole"))
    assert main(["prepare", *FLAGS, "--output", folder]) == 0
    return dataset.load(folder).manifest.digest


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (-9, Fault("truncated", SHARD, "write", 2)),
        (-9, Fault("kill-after", SHARD, "write", 2)),
        (-9, Fault("kill-before", MANIFEST, "create")),
        (-9, Fault("truncated", MANIFEST, "create")),
        (-9, Fault("kill-after", MANIFEST, "create")),
        (1, Fault("full", SHARD, "write", 2)),
        (1, Fault("full", MANIFEST, "create")),
    ],
    ids=lambda value: f"{value.kind} {value.pattern[-6:-1]}" if isinstance(value, Fault) else "",
)
def test_the_same_command_again_makes_the_same_data_set(tmp_path, digest, status, fault):
    folder = str(tmp_path / "data")
    words = [sys.executable, LAUNCHER, fault.to_json(), "prepare", *FLAGS, "--output", folder]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == status, done.stderr
    if fault.kind == "full":
        assert f"prepare.output = {folder} is full: " in done.stderr
    if fault != Fault("kill-after", MANIFEST, "create"):
        with pytest.raises(DataError, match=r"there is no dataset\.json"):
            dataset.load(folder)
    assert main(["prepare", *FLAGS, "--output", folder]) == 0
    found = dataset.load(folder)
    assert found.manifest.digest == digest
    found.split("train", verify=True)
    assert not list(Path(folder).rglob("*.partial"))


# Each phase of a job: at what is written or removed in it.
PHASES = {
    "taking the folder": Fault("term-before", r"/owner\.json$", "create"),
    "reading": Fault("term-before", r"/_work/read-[^/]*$"),
    "first shard": Fault("term-before", SHARD, "write"),
    "manifest": Fault("term-before", MANIFEST, "create"),
    "made": Fault("term-after", MANIFEST, "create"),
    "preview": Fault("term-before", r"/preview\.png$", "write"),
    "tidying": Fault("term-before", r"/owner\.json$", "delete"),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
def test_a_job_that_is_asked_to_stop_ends_in_one_line_and_goes_on(tmp_path, digest, phase, workers):
    folder, told = str(tmp_path / "data"), tmp_path / "told"
    fault = dataclasses.replace(PHASES[phase], told=str(told))
    words = ["prepare", *FLAGS, "--preview", "--output", folder]
    command = [sys.executable, LAUNCHER, fault.to_json(), *words, "--workers", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.exists()
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "boceto prepare: stopped; run the same command again"
    assert main(words) == 0
    assert dataset.load(folder).manifest.digest == digest
    dataset.load(folder).split("train", verify=True)
