"""Kernels where numba can keep nothing, or not what it has made, or finds what is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("boceto", "beam_pipelines", "trainer", "eval_jobs")
    for path in (ROOT / package).rglob("*.py")
    if "@kernel(" in path.read_text()
]
OWN = "from boceto.kernels import kernel\n\n\n@kernel()\ndef double(x):\n    return x + x\n\n\nprint(double(21))\n"


@pytest.fixture
def elsewhere(tmp_path):
    """Our packages where nothing can be written, not even by root: runs code there, with a folder for numba's cache."""
    for package in ("boceto", "trainer", "beam_pipelines", "eval_jobs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "own.py").write_text(OWN)
    for folder in (tmp_path, *tmp_path.rglob("*/")):
        (folder / "__pycache__").write_text("in the way")

    def run(code, cache="/dev/null/cache"):
        nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), "/dev/null/nowhere")
        environment = os.environ | nowhere | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(cache)}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )

    return run


def test_kernels_are_there_where_nothing_can_be_kept(elsewhere, tmp_path):
    assert len(KERNELS) > 3
    done = elsewhere(f"import {', '.join(KERNELS)}, own; print(boceto.kernels.__file__)")
    assert (done.stdout, done.stderr) == (f"42\n{tmp_path}/boceto/kernels.py\n", "")


def test_a_cache_that_is_damaged_or_full_costs_only_time(elsewhere, tmp_path):
    assert elsewhere("import own", tmp_path / "cache").stdout == "42\n"
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    for path in kept:
        path.write_bytes(b"")
    assert elsewhere("import own", tmp_path / "cache").stdout == "42\n"
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); import own"
    done = elsewhere(full, tmp_path / "full")
    assert (done.stdout, done.stderr) == ("42\n", "")
