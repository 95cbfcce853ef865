"""Reads k8s/ as kubectl does."""

import functools
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import yaml

K8S = Path(__file__).parent.parent / "k8s"
JOBS = ("prepare", "train", "eval")
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml"))


@functools.cache
def kustomize(folder):
    """What `kubectl apply -k` would apply, as text."""
    # The wheel's kubectl, whatever stands first on PATH.
    kubectl = shutil.which("kubectl", path=sysconfig.get_path("scripts"))
    built = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return built.stdout


def render(folder):
    return list(yaml.load_all(kustomize(folder), yaml.CSafeLoader))


@functools.cache
def _alone(component):
    with tempfile.TemporaryDirectory() as folder:
        base, part = (os.path.relpath(K8S / name, folder) for name in ("base/train", f"components/{component}"))
        (Path(folder) / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{part}]\n")
        return kustomize(folder)


def alone(component):
    """The trainer with one component and nothing else: each works by itself."""
    return list(yaml.load_all(_alone(component), yaml.CSafeLoader))


def of_kind(objects, kind):
    return [found for found in objects if found["kind"] == kind]


def templates(objects):
    """The pod templates among `objects`."""
    return [found["spec"]["template"] for found in objects if "template" in found.get("spec", {})]


def containers(objects):
    """The containers among `objects`."""
    specs = [template["spec"] for template in templates(objects)]
    return [
        container for spec in specs for part in ("initContainers", "containers") for container in spec.get(part, [])
    ]
