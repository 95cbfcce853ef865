"""Manifests as `kubectl apply -k` would make them, with settings changed and a run's name on them."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from boceto import storage
from boceto.errors import SettingsError
from k8s.settings import PROGRAMS, check_name

Object = dict[str, Any]
Tables = dict[str, dict[str, Any]]
OVERLAYS = Path(__file__).parent / "overlays"
MANAGER = "boceto"
MANAGED = "app.kubernetes.io/managed-by"
RUN = "boceto.dev/run"
PROGRAM = "app.kubernetes.io/component"
DIGEST = "boceto.dev/digest"
TOML = "boceto.toml"
NO_DIGEST = f"@sha256:{'0' * 64}"
SHARED = "shared"
TELLS = "BOCETO_JOB"  # The variable of a program that writes on its Job.
RIGHTS = "rbac.authorization.k8s.io"
KEY = re.compile(r"[a-z_-]+")


def _overlay(name: str) -> Path:
    return OVERLAYS / name if "/" not in name and not Path(name).is_dir() else Path(name)


def folder(overlay: str, program: str) -> Path:
    """The folder that `kubectl apply -k` takes.

    Raises:
        SettingsError: there is none.
    """
    found = _overlay(overlay) / program
    if not (found / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.name for path in OVERLAYS.iterdir()))
        raise SettingsError(
            f"submit.overlay = {overlay}: there is no {found}/kustomization.yaml; the overlays are {known}, or give a "
            f"folder with {', '.join(PROGRAMS)} in it"
        )
    return found.resolve()


def kustomize(path: Path) -> list[Object]:
    """The objects that `kubectl kustomize` makes of a folder.

    Raises:
        SettingsError: there is no kubectl, or it refuses the folder.
    """
    kubectl = shutil.which("kubectl") or shutil.which("kubectl", path=sysconfig.get_path("scripts"))
    if not kubectl:
        raise SettingsError("kubectl is not on PATH, and makes the manifests (`kubectl kustomize`); install it")
    done = subprocess.run([kubectl, "kustomize", str(path)], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise SettingsError(f"{path}: {' '.join(done.stderr.split())}")
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[Object], kind: str) -> Object:
    """The only object of a kind that every overlay has one of.

    Raises:
        SettingsError: there is not just one.
    """
    found = [each for each in objects if each["kind"] == kind]
    if len(found) != 1:
        raise SettingsError(f"the overlay makes {len(found)} objects of kind {kind}; it must make one")
    return found[0]


def maps_of(job: Object) -> list[str]:
    """The names of the ConfigMaps that a Job's pods mount."""
    volumes = job["spec"]["template"]["spec"].get("volumes") or []
    return [each["configMap"]["name"] for each in volumes if "configMap" in each]


def settings_of(objects: list[Object]) -> Object:
    """The ConfigMap with the settings that the Job reads; an overlay may bring others, with dashboards, say.

    Raises:
        SettingsError: there is not just one.
    """
    mounted = maps_of(of_kind(objects, "Job"))
    maps = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] in mounted]
    found = [each for each in maps if TOML in each.get("data", {})]
    if len(found) != 1:
        raise SettingsError(f"the overlay's Job mounts {len(found)} ConfigMaps with a {TOML}; it must mount one")
    return found[0]


def tables(settings: Object) -> Tables:
    """What the settings' ConfigMap says, by program."""
    try:
        return tomllib.loads(settings["data"][TOML])
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"ConfigMap {settings['metadata']['name']}: no readable {TOML} in it: {error}") from error


def changed(before: Tables, name: str, net: str, assignments: Sequence[str]) -> tuple[Tables, str]:
    """-> (the tables with what was asked for instead, the name of the run).

    name: the run's folder gets it as its last part, "" for the folder's own; assignments: as `train.epochs=3`.

    Raises:
        SettingsError: an assignment that is none, or a name that no Job can bear.
    """
    after = {table: dict(values) for table, values in before.items()}
    if name:
        check_name(name, "submit.name")
        for program in ("train", "eval"):
            run = after.get(program, {}).get("run")
            if run:
                after[program]["run"] = storage.join(run.rstrip("/").rpartition("/")[0] or ".", name)
    if net:
        after.setdefault("train", {})["net"] = net
    for assignment in assignments:
        table, key, value = _assignment(assignment)
        after.setdefault(table, {})[key] = value
    last = str(after.get("train", {}).get("run", "")).rstrip("/").rpartition("/")[2]
    return after, name or check_name(last, "the last part of train.run")


def _assignment(text: str) -> tuple[str, str, Any]:
    where, equals, value = text.partition("=")
    table, dot, key = where.strip().partition(".")
    try:
        read = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        read = value.strip()  # A word: TOML would have it in quotes.
    if not (equals and dot and KEY.fullmatch(key)) or table not in PROGRAMS or not _is_value(read):
        raise SettingsError(
            f"submit.set = {text!r}; give PROGRAM.SETTING=VALUE, as train.epochs=3; a value is a text, a finite "
            "number, true, false, or a list of texts"
        )
    return table, key.replace("-", "_"), read


def _is_value(read: Any) -> bool:
    """Whether a setting can have this value: TOML knows more, times and tables."""
    if isinstance(read, list):
        return all(isinstance(each, str) for each in read)
    return isinstance(read, str | int) or (isinstance(read, float) and math.isfinite(read))


def to_toml(settings: Tables) -> str:
    """Tables of plain values as TOML. JSON's texts, numbers, truths and lists are TOML's too."""
    parts = []
    for table, values in settings.items():
        lines = [f"{key} = {_json(value)}" for key, value in values.items()]
        parts.append("\n".join([f"[{table}]", *lines]) + "\n")
    return "\n".join(parts)


def _json(value: Any) -> str:
    """JSON that is TOML too, which has no pairs of surrogates, and no bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def render(
    overlay: str, program: str, name: str = "", net: str = "", assignments: Sequence[str] = ()
) -> tuple[str, list[Object]]:
    """-> (the name of the run, its objects for one program, named after it).

    Raises:
        SettingsError: it cannot be rendered.
    """
    path = folder(overlay, program)
    objects = kustomize(path)
    settings = settings_of(objects)
    before = tables(settings)
    after, run = changed(before, name, net, assignments)
    if after != before:
        objects = _with_settings(path, settings["metadata"], after)
    return run, named(objects, run, program)


def _with_settings(path: Path, replaced: Mapping[str, Any], settings: Tables) -> list[Object]:
    """The objects of a folder with other settings: kustomize names the ConfigMap after them, everywhere."""
    with tempfile.TemporaryDirectory(prefix="boceto-submit-") as made:
        top = Path(made).resolve()
        name, namespace = replaced["name"].rpartition("-")[0], replaced.get("namespace", "")
        generator = {"name": name, "namespace": namespace, "behavior": "replace", "files": [TOML]}
        content = {"resources": [os.path.relpath(path, top)], "configMapGenerator": [generator]}
        storage.write_bytes(str(top / "kustomization.yaml"), json.dumps(content).encode())
        storage.write_bytes(str(top / TOML), to_toml(settings).encode())
        return kustomize(top)


def shared(overlay: str) -> list[Object]:
    """What the runs of an overlay share and keep data in, none where it has no folder `shared`.

    Raises:
        SettingsError: it cannot be rendered.
    """
    path = _overlay(overlay) / SHARED
    if not (path / "kustomization.yaml").is_file():
        return []
    objects = kustomize(path.resolve())
    for each in objects:
        each["metadata"].setdefault("labels", {})[MANAGED] = MANAGER
    return objects


def named(objects: list[Object], run: str, program: str) -> list[Object]:
    """The objects with the labels to find them by; the Job, and what is for it alone, gets the run's name."""
    job, settings = of_kind(objects, "Job"), settings_of(objects)
    new = f"{run}-{program}"
    objects += _rights(job, run, new)
    for each in objects:
        each["metadata"].setdefault("labels", {})[MANAGED] = MANAGER
    job["metadata"]["name"] = new
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        metadata.setdefault("labels", {})[RUN] = run
    job["metadata"].setdefault("annotations", {})[DIGEST] = digest(
        job, tables(settings).get(program, {}), settings["metadata"]["name"]
    )
    return objects


def tells(job: Object) -> bool:
    """Whether a Job's program writes on it."""
    containers = job["spec"]["template"]["spec"]["containers"]
    return any(each["name"] == TELLS for container in containers for each in container.get("env", []))


def silence(job: Object) -> None:
    """Has a Job's program write on it no more: it gets no token."""
    pod = job["spec"]["template"]["spec"]
    pod["automountServiceAccountToken"] = False
    for container in pod["containers"]:
        container["env"] = [each for each in container.get("env", []) if each["name"] != TELLS]


def _rights(job: Object, run: str, new: str) -> list[Object]:
    """The Role of a program that writes on its Job, and the binding to its account: what `k8s/rights/progress` is for
    those who only have kubectl. The label of the run tells them from what runs share.
    """
    pod = job["spec"]["template"]["spec"]
    if not tells(job):
        return []
    name, labels = f"{new}-progress", {RUN: run}
    rule = {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": [new], "verbs": ["patch"]}
    subject = {"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": "default"}
    role = {"kind": "Role", "rules": [rule]}
    to = {"apiGroup": RIGHTS, "kind": "Role", "name": name}
    binding = {"kind": "RoleBinding", "roleRef": to, "subjects": [subject]}
    return [
        {"apiVersion": f"{RIGHTS}/v1", **each, "metadata": {"name": name, "labels": dict(labels)}}
        for each in (role, binding)
    ]


def digest(job: Object, settings: Mapping[str, Any], name: str) -> str:
    """32 hexadecimal digits over a Job's spec, image and all, and its own program's settings.

    name: that of the ConfigMap, which is left out: it changes with the settings of every program.
    """
    text = json.dumps([job["spec"], settings], sort_keys=True, default=str).replace(json.dumps(name), '""')
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_images(objects: Sequence[Object], overlay: str) -> None:
    """Raises SettingsError where an image has a digest that is none: nobody has said yet which image it is."""
    specs = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Job"]
    for image in [container["image"] for spec in specs for container in spec["containers"]]:
        if image.endswith(NO_DIGEST):
            raise SettingsError(
                f"submit.overlay = {overlay}: {image.partition('@')[0]} has no digest yet; write where your images are "
                f"and the digest that `docker push` says into `images` of {_overlay(overlay)}/common/kustomization.yaml"
            )


def namespace_of(objects: Sequence[Object]) -> str:
    """The namespace that overlays say, "" where they say none.

    Raises:
        SettingsError: they say several.
    """
    found = sorted({each["metadata"].get("namespace", "") for each in objects} - {""})
    if len(found) > 1:
        raise SettingsError(
            f"the overlay's objects are in {len(found)} namespaces ({', '.join(found)}), and a run is in one; say "
            "`namespace:` once, in what all its programs share, or give --namespace"
        )
    return "".join(found)


def place(objects: Sequence[Object], namespace: str) -> None:
    """Puts all objects into a namespace, and with them the accounts that a binding names."""
    for each in objects:
        each["metadata"]["namespace"] = namespace
        for subject in each.get("subjects", []):
            subject["namespace"] = namespace
