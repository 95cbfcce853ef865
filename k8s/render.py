"""Renders manifests as `kubectl apply -k` would, with settings changed and a run's name on them."""

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
JOB_VARIABLE = "BOCETO_JOB"  # It gives a program the name of its Job, on which the program writes its progress.
RBAC = "rbac.authorization.k8s.io"
KEY = re.compile(r"[a-z_-]+")


def _overlay(name: str) -> Path:
    return OVERLAYS / name if "/" not in name and not Path(name).is_dir() else Path(name)


def kustomize(path: Path) -> list[Object]:
    """Returns the objects that `kubectl kustomize` makes of a folder.

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


def of_kind(objects: Sequence[Object], kind: str) -> Object:
    """Returns the only object of a kind.

    Raises:
        SettingsError: there are none or several.
    """
    found = [each for each in objects if each["kind"] == kind]
    if len(found) != 1:
        raise SettingsError(f"the overlay makes {len(found)} objects of kind {kind}; it must make one")
    return found[0]


def maps_of(job: Object) -> list[str]:
    """Returns the names of the ConfigMaps that a Job's pods mount."""
    volumes = job["spec"]["template"]["spec"].get("volumes") or []
    return [each["configMap"]["name"] for each in volumes if "configMap" in each]


def settings_of(objects: Sequence[Object]) -> Object:
    """Returns the ConfigMap with the settings that the Job reads; an overlay may have others, with dashboards, say.

    Raises:
        SettingsError: there are none or several.
    """
    mounted = maps_of(of_kind(objects, "Job"))
    maps = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] in mounted]
    found = [each for each in maps if TOML in each.get("data", {})]
    if len(found) != 1:
        raise SettingsError(f"the overlay's Job mounts {len(found)} ConfigMaps with a {TOML}; it must mount one")
    return found[0]


def tables(settings: Object) -> Tables:
    """Returns the settings in a ConfigMap, by program."""
    try:
        return tomllib.loads(settings["data"][TOML])
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"ConfigMap {settings['metadata']['name']}: no readable {TOML} in it: {error}") from error


def _changed(before: Tables, name: str, net: str, assignments: Sequence[str]) -> tuple[Tables, str]:
    """Returns the tables with the user's settings, and the name of the run.

    name: the last part of the run's folder, "" for the folder's own; assignments: as `train.epochs=3`.
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
    """Returns whether a setting can have this value: TOML has more types, times and tables."""
    if isinstance(read, list):
        return all(isinstance(each, str) for each in read)
    return isinstance(read, str | int) or (isinstance(read, float) and math.isfinite(read))


def to_toml(settings: Tables) -> str:
    """Writes tables of plain values as TOML. JSON's texts, numbers, booleans and lists are TOML's too."""
    parts = []
    for table, values in settings.items():
        # TOML has neither pairs of surrogates nor a bare DEL.
        texts = {key: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for key, value in values.items()}
        parts.append("\n".join([f"[{table}]", *(f"{key} = {text}" for key, text in texts.items())]) + "\n")
    return "\n".join(parts)


def render(
    overlay: str, program: str, name: str = "", net: str = "", assignments: Sequence[str] = ()
) -> tuple[str, list[Object]]:
    """Returns the name of the run and its objects for one program, named after the run.

    Raises:
        SettingsError: there is no such overlay, it cannot be rendered, or an assignment or a name is wrong.
    """
    found = _overlay(overlay) / program
    if not (found / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.name for path in OVERLAYS.iterdir()))
        raise SettingsError(
            f"submit.overlay = {overlay}: there is no {found}/kustomization.yaml; the overlays are {known}, or give a "
            f"folder with {', '.join(PROGRAMS)} in it"
        )
    path = found.resolve()
    objects = kustomize(path)
    settings = settings_of(objects)
    before = tables(settings)
    after, run = _changed(before, name, net, assignments)
    if after != before:
        objects = _with_settings(path, settings["metadata"], after)
    return run, _named(objects, run, program)


def _with_settings(path: Path, replaced: Mapping[str, Any], settings: Tables) -> list[Object]:
    """Renders a folder with other settings: kustomize names the ConfigMap after them, everywhere."""
    with tempfile.TemporaryDirectory(prefix="boceto-submit-") as made:
        top = Path(made).resolve()
        name, namespace = replaced["name"].rpartition("-")[0], replaced.get("namespace", "")
        generator = {"name": name, "namespace": namespace, "behavior": "replace", "files": [TOML]}
        content = {"resources": [os.path.relpath(path, top)], "configMapGenerator": [generator]}
        storage.write_bytes(str(top / "kustomization.yaml"), json.dumps(content).encode())
        storage.write_bytes(str(top / TOML), to_toml(settings).encode())
        return kustomize(top)


def shared(overlay: str) -> list[Object]:
    """Returns the objects that the runs of an overlay share; none where it has no folder `shared`.

    Raises:
        SettingsError: the folder cannot be rendered.
    """
    path = _overlay(overlay) / "shared"
    return _marked(kustomize(path.resolve())) if (path / "kustomization.yaml").is_file() else []


def _marked(objects: list[Object]) -> list[Object]:
    for each in objects:
        each["metadata"].setdefault("labels", {})[MANAGED] = MANAGER
    return objects


def _named(objects: list[Object], run: str, program: str) -> list[Object]:
    """Labels the objects, gives the Job the run's name, and adds the rights of a Job whose program writes on it."""
    job, settings = of_kind(objects, "Job"), settings_of(objects)
    job["metadata"]["name"] = f"{run}-{program}"
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        metadata.setdefault("labels", {})[RUN] = run
    own, name = tables(settings).get(program, {}), settings["metadata"]["name"]
    job["metadata"].setdefault("annotations", {})[DIGEST] = _digest(job, own, name)
    return _marked([*objects, *(progress_rights(job, run) if writes_progress(job) else ())])


def _digest(job: Object, settings: Mapping[str, Any], name: str) -> str:
    """Returns 32 hexadecimal digits over a Job's spec, image and all, and its own program's settings.

    name: that of the ConfigMap, which is left out: it changes with the settings of every program.
    """
    text = json.dumps([job["spec"], settings], sort_keys=True, default=str).replace(json.dumps(name), '""')
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def writes_progress(job: Object) -> bool:
    """Returns whether a Job's program writes its progress on the Job."""
    containers = job["spec"]["template"]["spec"]["containers"]
    return any(each["name"] == JOB_VARIABLE for container in containers for each in container.get("env", []))


def without_progress(job: Object) -> None:
    """Changes a Job so that its program does not write on it, and gets no token for that."""
    pod = job["spec"]["template"]["spec"]
    pod["automountServiceAccountToken"] = False
    for container in pod["containers"]:
        container["env"] = [each for each in container.get("env", []) if each["name"] != JOB_VARIABLE]


def progress_rights(job: Object, run: str) -> list[Object]:
    """Returns a Role and a RoleBinding that let a Job's account write on it, as `k8s/rights/progress` does.

    The label of the run distinguishes them from the objects that runs share.
    """
    name = f"{job['metadata']['name']}-progress"
    subject = {"kind": "ServiceAccount", "name": job["spec"]["template"]["spec"]["serviceAccountName"]}
    rule = {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": [job["metadata"]["name"]]}
    parts: Mapping[str, Object] = {
        "Role": {"rules": [{**rule, "verbs": ["patch"]}]},
        "RoleBinding": {"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name}, "subjects": [subject]},
    }
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": {"name": name, "labels": {RUN: run}}, **part}
        for kind, part in parts.items()
    ]


def check_images(objects: Sequence[Object], overlay: str) -> None:
    """Raises SettingsError where an image has the digest of a template in place of its own."""
    specs = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Job"]
    for image in [container["image"] for spec in specs for container in spec["containers"]]:
        if image.endswith(NO_DIGEST):
            raise SettingsError(
                f"submit.overlay = {overlay}: {image.partition('@')[0]} has no digest yet; write where your images are "
                f"and the digest that `docker push` prints into `images` of "
                f"{_overlay(overlay)}/common/kustomization.yaml"
            )


def namespace_of(objects: Sequence[Object]) -> str:
    """Returns the namespace of an overlay's objects, "" where they have none.

    Raises:
        SettingsError: they have several.
    """
    found = sorted({each["metadata"].get("namespace", "") for each in objects} - {""})
    if len(found) > 1:
        raise SettingsError(
            f"the overlay's objects are in {len(found)} namespaces ({', '.join(found)}), and a run is in one; write "
            "`namespace:` once, in the folder that all its programs share, or give --namespace"
        )
    return "".join(found)


def set_namespace(objects: Sequence[Object], namespace: str) -> None:
    """Moves all objects, and the accounts that a binding names in its own namespace, into a namespace."""
    for each in objects:
        before = each["metadata"].get("namespace", "")
        each["metadata"]["namespace"] = namespace
        for subject in each.get("subjects", []):
            if subject["kind"] == "ServiceAccount" and subject.get("namespace", "") in ("", before):
                subject["namespace"] = namespace
