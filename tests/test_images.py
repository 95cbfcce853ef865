import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROGRAMS = ("prepare", "train", "eval")


def _stages():
    """The Dockerfile's lines by the name of their stage."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_build_needs_no_address_and_no_syntax_of_another_builder():
    assert not re.search(r"://|index-url|trusted-host|#\s*syntax=|<<", DOCKERFILE)


@pytest.mark.parametrize("target", [*PROGRAMS, "emulator"])
def test_nothing_runs_as_root(target):
    users = re.findall(r"^USER (\d+):(\d+)$", _stages()[target], re.MULTILINE)
    assert len(users) == 1
    assert min(map(int, users[0])) >= 10_000


@pytest.mark.parametrize("target", PROGRAMS)
def test_an_image_says_what_it_is_made_of(target):
    text = _stages()[target]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]+)"', _stages()["program"] + text))
    assert {"title", "licenses", "version", "revision", "created", "base.name"} <= set(labels)
    given = re.findall(r"^ARG (.+)$", text, re.MULTILINE)
    assert set(re.findall(r"\$\{(\w+)\}", " ".join(labels.values()))) == set(" ".join(given).split())
    assert "RUN " not in text.partition("ARG ")[2]  # What changes with each build is last, or nothing is cached.


def _image_verb(*words):
    """The commands of `make image`."""
    verb = ["make", "--dry-run", "image", *words]
    return subprocess.run(verb, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_base_has_a_digest_where_it_is_given_by_one():
    digest = f"sha256:{'5' * 64}"
    said = _image_verb(f"PYTHON_IMAGE=python:3.11-slim@{digest}")
    assert f"--build-arg PYTHON=python:3.11-slim@{digest}" in said
    assert f"--label org.opencontainers.image.base.digest={digest})" in said
    for plain in (_image_verb(), _image_verb("PYTHON_IMAGE=python:3.12-slim")):
        assert "base.digest" not in plain
        assert all(f"--build-arg {name}=" in plain for name in ("VERSION", "REVISION", "CREATED"))


@pytest.mark.parametrize("stage", [name for name, text in _stages().items() if "--requirement" in text])
def test_libraries_come_from_a_lock_with_hashes(stage):
    text = _stages()[stage]
    (lock,) = re.findall(r"^COPY requirements/(\S+) \.$", text, re.MULTILINE)
    assert (ROOT / "requirements" / lock).exists()
    assert f"install --require-hashes --requirement {lock}" in text


def test_what_the_wheel_holds_reaches_the_build():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{package}/" for package in wheel["packages"]} <= set(let_in)


def test_the_bills_of_materials_name_what_the_images_hold(tmp_path):
    # The environment that runs the tests is the one that `make install` made.
    verb = ["make", "--old-file=install", "sbom", f"VENV={sys.prefix}", f"SBOM={tmp_path}"]
    subprocess.run(verb, cwd=ROOT, check=True, capture_output=True)
    held = {}
    for lock in (*PROGRAMS, "gpu"):
        bill = json.loads((tmp_path / f"{lock}.cdx.json").read_text())
        assert bill["bomFormat"] == "CycloneDX"
        assert bill["metadata"]["component"]["name"] == "boceto"
        held[lock] = {part["name"] for part in bill["components"]}
        assert all(re.search(r"@[\d.]+", part["purl"]) for part in bill["components"])
    assert "apache-beam" in held["prepare"]
    assert "tensorflow-cpu" in held["train"] & held["eval"]
    assert "nvidia-cudnn-cu12" in held["gpu"]
    assert not {name for name in held["prepare"] if "tensorflow" in name}
    assert not {name for name in held["train"] | held["eval"] if "beam" in name or "nvidia" in name}


def test_the_wheel_holds_the_manifests_and_no_tools_of_this_repository(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    manifests = [path for part in ("base", "components", "overlays") for path in (ROOT / "k8s" / part).rglob("*.*")]
    assert len(manifests) > 30
    assert {str(path.relative_to(ROOT)) for path in manifests} <= held
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/", "k8s/prometheus/"))]
