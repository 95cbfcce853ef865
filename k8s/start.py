"""Starts Jobs: what is there already is gone on with, waited for or left alone, and never somebody else's."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console
from boceto.errors import SettingsError
from k8s import jobs
from k8s.api import Cluster, fits, is_ours
from k8s.follow import Follower, pods_of, to_the_end
from k8s.render import DIGEST, MANAGED, MANAGER, Object, of_kind, tables

POLL = 0.5
# What the API server writes into a Job's spec and labels, and refuses from anybody else.
SERVED = ("selector", "suspend", "manualSelector")
SERVED_LABELS = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
RIGHTS = "rbac.authorization.k8s.io/v1"
OWNED = (("v1", "ConfigMap"), ("v1", "ServiceAccount"), (RIGHTS, "Role"), (RIGHTS, "RoleBinding"))
QUEUE = "kueue.x-k8s.io/queue-name"


def start(cluster: Cluster, objects: Sequence[Object], console: Console, *, replace: bool) -> Object:
    """Brings one program's objects to the cluster; returns its Job, which may be there, and even done, already.

    Raises:
        SettingsError: another's object is in the way, or a Job of this name with other settings.
    """
    _place(objects, cluster.namespace)
    wanted = of_kind(list(objects), "Job")
    name = wanted["metadata"]["name"]
    others = [each for each in objects if each is not wanted and not _is_there(cluster, each)]
    found = cluster.find("batch/v1", "Job", name)
    if found is not None:
        check_ours(cluster, found)
        same = jobs.annotation(found, DIGEST) == wanted["metadata"]["annotations"][DIGEST]
        if not replace or (same and jobs.state(found) in (jobs.ACTIVE, jobs.SUSPENDED)):
            _check_same(cluster, found, objects, same=same)
            console.line(f"{name} is {_in_words(found)}")
            return found
        remove(cluster, found, console)
    made = _make(cluster, wanted, others)
    console.line(f"{name} is submitted to namespace {cluster.namespace}")
    return made


def _make(cluster: Cluster, wanted: Object, others: Sequence[Object]) -> Object:
    """Makes a Job and what it needs. Its settings and rights are its own: they go when it goes."""
    made = [cluster.apply(each) for each in others]
    job = cluster.apply(wanted)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    for each in made:
        if each["kind"] == "ConfigMap" or each["metadata"]["name"].startswith(owner["name"]):
            owners = [*each["metadata"].get("ownerReferences", []), {**owner, "blockOwnerDeletion": True}]
            with contextlib.suppress(SettingsError):  # Who may not say so leaves them behind.
                cluster.merge(each["apiVersion"], each["kind"], each["metadata"]["name"], _owned_by(owners))
    return job


def _owned_by(owners: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"metadata": {"ownerReferences": owners}}


def _belongings(cluster: Cluster, job: Object) -> list[Object]:
    """What goes when a Job goes, as it was applied."""
    found = []
    for api, kind in OWNED:
        for each in cluster.list_readable(api, kind, labels=f"{MANAGED}={MANAGER}"):
            if any(owner["uid"] == job["metadata"]["uid"] for owner in each["metadata"].get("ownerReferences", [])):
                metadata = {"name": each["metadata"]["name"], **_plain(each["metadata"])}
                found.append({**each, "apiVersion": api, "kind": kind, "metadata": metadata})
    return found


def _place(objects: Sequence[Object], namespace: str) -> None:
    """Fills in what a binding alone must say: the namespace of its accounts."""
    for subject in [each for found in objects for each in found.get("subjects", [])]:
        subject["namespace"] = namespace


def _is_there(cluster: Cluster, wanted: Object) -> bool:
    """Whether another made just this, so that there is nothing to apply.

    Raises:
        SettingsError: another made something else of this name.
    """
    found = cluster.find(wanted["apiVersion"], wanted["kind"], wanted["metadata"]["name"])
    if found is None or is_ours(found):
        return False
    labels = {name: value for name, value in wanted["metadata"]["labels"].items() if name != MANAGED}
    plain = {**wanted, "metadata": {**wanted["metadata"], "labels": labels, "namespace": cluster.namespace}}
    if not fits(found, plain):
        check_ours(cluster, found)
    return True


def check_ours(cluster: Cluster, found: Object) -> None:
    """Raises SettingsError where `boceto submit` did not make an object."""
    if not is_ours(found):
        what = f"{found['kind']} {found['metadata']['name']}"
        raise SettingsError(
            f"{what} in namespace {cluster.namespace} was not made by `boceto submit` (no label {MANAGED}: {MANAGER}), "
            "and is left alone; give another --name or --namespace, or remove it"
        )


def _in_words(job: Object) -> str:
    if jobs.state(job) == jobs.COMPLETE:
        return "done already"
    return "there already, with these settings"


def _check_same(cluster: Cluster, found: Object, objects: Sequence[Object], *, same: bool) -> None:
    """Raises SettingsError where a Job that is there is neither done, nor under way, with the settings wanted."""
    name, run, state = found["metadata"]["name"], jobs.run_of(found), jobs.state(found)
    if not same:
        raise SettingsError(
            f"{name} is {_standing(state)} with other settings ({_difference(cluster, found, objects)}); give another "
            f"--name, or --replace to start it anew with these{', once it has stopped' if state == jobs.ACTIVE else ''}"
        )
    if state == jobs.STOPPING:
        raise SettingsError(f"{name} was stopped; go on with `boceto submit resume {run}`")
    if state == jobs.FAILED:
        raise SettingsError(
            f"{name} has failed ({jobs.why_failed(found)}); see `boceto submit status {run}`, mend it, and go on with "
            f"`boceto submit resume {run}`"
        )


def _standing(state: str) -> str:
    return {jobs.ACTIVE: "running", jobs.COMPLETE: "done", jobs.FAILED: "failed"}.get(state, state)


def _difference(cluster: Cluster, found: Object, objects: Sequence[Object]) -> str:
    """What a Job that is there does otherwise than the one that is wanted."""
    wanted = of_kind(list(objects), "Job")
    parts = [
        f"{name} = {before} there, {after} here"
        for name, before, after in differences(
            _settings(cluster, found), tables(of_kind(list(objects), "ConfigMap")), jobs.program_of(wanted)
        )
    ]
    there, here = (job["spec"]["template"]["spec"]["containers"][0]["image"] for job in (found, wanted))
    if there != here:
        parts.append(f"image {there} there, {here} here")
    return "; ".join(parts) or "its manifest has changed"


def differences(there: Mapping[str, Any], here: Mapping[str, Any], program: str) -> list[tuple[str, Any, Any]]:
    """-> (name, value there, value here) of each setting of a program that differs."""
    old, new = there.get(program, {}), here.get(program, {})
    every = [*old, *(name for name in new if name not in old)]
    pairs = [(f"{program}.{name}", old.get(name, "default"), new.get(name, "default")) for name in every]
    return [each for each in pairs if each[1] != each[2]]


def _settings(cluster: Cluster, job: Object) -> Mapping[str, Any]:
    """The settings of a Job that is there; none where its ConfigMap is gone."""
    for volume in job["spec"]["template"]["spec"].get("volumes", []):
        if "configMap" in volume:
            found = cluster.find("v1", "ConfigMap", volume["configMap"]["name"])
            return tables(found) if found else {}
    return {}


def stop(cluster: Cluster, job: Object, console: Console) -> Object:
    """Stops a Job gracefully: its pod gets SIGTERM, saves and ends; the Job stays, suspended. -> the Job."""
    name = job["metadata"]["name"]
    asked = {"metadata": {"annotations": {jobs.STOPPED: "asked to stop"}}, "spec": {"suspend": True}}
    follower = Follower(cluster, name, console)
    follower.until(lambda *_: True)  # What runs now will be gone afterwards.
    cluster.merge("batch/v1", "Job", name, asked)
    outcome = follower.until(to_the_end)
    said = outcome.message or "nothing of it ran"
    return cluster.merge("batch/v1", "Job", name, {"metadata": {"annotations": {jobs.STOPPED: said}}})


def remove(cluster: Cluster, job: Object, console: Console) -> None:
    """Removes a Job of ours, stopped gracefully first where it runs, and waits until it is gone."""
    if jobs.state(job) == jobs.ACTIVE:
        stop(cluster, job, console)
    cluster.delete(job)
    uid = job["metadata"]["uid"]
    while True:
        found = cluster.find("batch/v1", "Job", job["metadata"]["name"])
        if found is None or found["metadata"]["uid"] != uid:
            return
        time.sleep(POLL)


def again(job: Object, ended: Sequence[jobs.Attempt]) -> Object:
    """A new Job like one that has ended or was stopped; the attempts of the old one are written on it."""
    spec = {key: value for key, value in job["spec"].items() if key not in SERVED}
    template = {**spec["template"], "metadata": _plain(spec["template"]["metadata"])}
    if QUEUE in job["metadata"]["labels"]:
        spec["suspend"] = True
    annotations = {jobs.BEFORE: jobs.written(ended), DIGEST: jobs.annotation(job, DIGEST)}
    metadata = {**_plain(job["metadata"]), "name": job["metadata"]["name"], "annotations": annotations}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {**spec, "template": template}}


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    labels = {name: value for name, value in metadata.get("labels", {}).items() if name not in SERVED_LABELS}
    kept = {name: value for name, value in metadata.get("annotations", {}).items() if not name.startswith("batch.")}
    return {"labels": labels, "annotations": kept}


def resume(cluster: Cluster, job: Object, ended: Sequence[jobs.Attempt], console: Console) -> Object:
    """Starts a new Job of the same name, settings and run folder in place of one that is not running."""
    belongings = _belongings(cluster, job)
    remove(cluster, job, console)
    return _make(cluster, again(job, ended), belongings)


def known_attempts(cluster: Cluster, job: Object, events: Sequence[Object]) -> list[jobs.Attempt]:
    """All attempts of a Job."""
    return jobs.attempts(job, pods_of(cluster, job), events)
