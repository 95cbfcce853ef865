import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = ("prepare", "train", "gpu", "eval", "submit", "dev")
GROUPS = ("build", "emulator")


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", EXTRAS + GROUPS)
def test_a_lock_is_what_the_project_asks_for(name, tmp_path):
    lock = ROOT / "requirements" / f"{name}.txt"
    # Starting from the lock, its versions stay as long as they satisfy pyproject.toml.
    fresh = tmp_path / "lock.txt"
    fresh.write_text(lock.read_text())
    asked = ["--group", name] if name in GROUPS else ["pyproject.toml", "--extra", name]
    words = ["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", *asked]
    uv = [sys.executable, "-m", "uv", *words, "--output-file", str(fresh)]
    subprocess.run(uv, cwd=ROOT, check=True, capture_output=True)
    assert fresh.read_text() == lock.read_text(), "run `make lock`"


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_a_lock_names_no_address_and_has_hashes(path):
    text = path.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--(extra-)?index-url|--find-links)", text, re.MULTILINE)
    for block in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in block


def test_locks_agree_with_each_other():
    everything = _pins("dev")
    for name in ("prepare", "train", "eval", "submit", *GROUPS):
        assert _pins(name).items() <= everything.items()


def test_the_installer_is_the_locked_one():
    assert _pins("uv")["uv"] == _pins("dev")["uv"]


def test_only_the_programs_that_need_it_install_it():
    assert "tensorflow-cpu" not in _pins("prepare")
    assert "apache-beam" not in _pins("train") | _pins("eval") | _pins("gpu")
    assert "keras" in _pins("train")
    assert "tensorflow-cpu" not in _pins("gpu")
    assert "tensorflow" in _pins("gpu")


def test_the_python_versions_are_the_stated_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
