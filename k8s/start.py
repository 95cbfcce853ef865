"""Starts, stops, resumes and removes Jobs. An object that `boceto submit` did not make is never changed."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console
from boceto.errors import SettingsError
from k8s import jobs, render, rights
from k8s.api import Cluster, OverQuota, Refused, Unreachable, is_ours
from k8s.follow import Follower, to_the_end
from k8s.render import DIGEST, MANAGED, Object, maps_of, of_kind

POLL = 0.5
SOON, PATIENCE = 5.0, 120.0  # Seconds of waiting until the user is informed, and until the command gives up.
# What the API server writes into a Job's spec and labels, and refuses from anybody else.
SERVED = ("selector", "suspend", "manualSelector")  # Kueue itself suspends the Jobs of its queues.
SERVED_LABELS = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
CLAIM = "PersistentVolumeClaim"
SHARED = ("Deployment", CLAIM)  # They hold the data of all runs of a namespace.


def start(  # noqa: PLR0913 - how it is started
    cluster: Cluster, objects: Sequence[Object], console: Console, *, replace: bool, follow: bool, whose: str
) -> Object:
    """Applies one program's objects; returns its Job, which may exist, and even be done, already.

    follow: the Job is followed afterwards; whose: the origin of the namespace, in words.

    Raises:
        SettingsError: somebody else's object has one of the names, or a Job of this name has other settings.
    """
    wanted = of_kind(objects, "Job")
    name, given = wanted["metadata"]["name"], [each for each in objects if _gives_progress(each, wanted)]
    lacking = rights.missing(cluster, rights.to_apply(cluster, given))
    if lacking:
        objects = [each for each in objects if each not in given]
        render.without_progress(wanted)
    rights.check(cluster, rights.to_apply(cluster, objects, replace=replace, follow=follow))
    if lacking:
        needed = ", ".join(map(str, lacking))
        console.line(f"{name} does not write its progress on its Job, which needs the right to {needed}; see its log")
    found = cluster.find("batch/v1", "Job", name)
    stays = False
    if found is not None:
        check_ours(cluster, found)
        same = jobs.annotation(found, DIGEST) == wanted["metadata"]["annotations"][DIGEST]
        stays = not replace or (same and jobs.state(found) in (jobs.ACTIVE, jobs.SUSPENDED))
        if stays:
            _check_usable(cluster, found, objects, same=same)
            if jobs.state(found) == jobs.COMPLETE:
                console.line(f"{name} is done already")
                return found
            objects = _with_settings_of(cluster, found, objects)
    replace = replace and not stays
    others = [each for each in objects if each is not wanted and _is_to_apply(cluster, each, console, replace=replace)]
    if not stays:
        _rehearse(cluster, wanted, found)
        if found is not None:
            remove(cluster, found, console)
    made = [cluster.apply(each) for each in others]
    job = found if found is not None and stays else cluster.apply(wanted)
    _own(cluster, job, [each for each in made if _is_own(each, job)])
    submitted = f"submitted to namespace {cluster.namespace} ({whose})"
    console.line(f"{name} is {'there already, with these settings' if stays else submitted}")
    return job


def _gives_progress(each: Object, job: Object) -> bool:
    """Returns whether an object gives a Job's program the right to write on the Job."""
    return each["apiVersion"].startswith(render.RBAC) and _is_own(each, job)


def _is_own(each: Object, job: Object) -> bool:
    """Returns whether an object is for this Job alone: its settings, and its rights, which have its run's label."""
    if each["kind"] == "ConfigMap":
        return each["metadata"]["name"] in maps_of(job)
    return bool(each["metadata"].get("labels", {}).get(render.RUN) == jobs.run_of(job))


def _own(cluster: Cluster, job: Object, objects: Sequence[Object]) -> None:
    """Makes a Job the owner of objects, so that Kubernetes removes them with it."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    for each in objects:
        others = _owners(each, without=job)
        if len(others) == len(each["metadata"].get("ownerReferences", [])):
            change = {"metadata": {"ownerReferences": [*others, {**owner, "blockOwnerDeletion": True}]}}
            with contextlib.suppress(SettingsError):  # Without this right, the objects outlive the Job.
                cluster.merge(each, change)


def _owners(each: Object, *, without: Object) -> list[Object]:
    uid = without["metadata"]["uid"]
    return [owner for owner in each["metadata"].get("ownerReferences", []) if owner["uid"] != uid]


def _with_settings_of(cluster: Cluster, job: Object, objects: Sequence[Object]) -> Sequence[Object]:
    """Returns the objects with the ConfigMap that a Job mounts: another program's settings may give it a new name."""
    wanted, settings = of_kind(objects, "Job"), render.settings_of(objects)
    name = maps_of(job)[maps_of(wanted).index(settings["metadata"]["name"])]
    if name == settings["metadata"]["name"]:
        return objects
    others = [each for each in objects if each is not settings]
    if cluster.find("v1", "ConfigMap", name) is None:
        others.append({**settings, "metadata": {**settings["metadata"], "name": name}})
    return others


def _rehearse(cluster: Cluster, wanted: Object, found: Object | None) -> None:
    """Asks the cluster whether it would take a Job, before anything is made or removed for it.

    found: the Job of the same name. Its fields cannot be changed, so the cluster is asked under another name.

    Raises:
        SettingsError: the cluster would refuse it.
    """
    if found is None:
        cluster.apply(wanted, dry_run=True)
        return
    other = {**wanted, "metadata": {**wanted["metadata"], "name": f"{wanted['metadata']['name']}-anew"}}
    with contextlib.suppress(OverQuota):  # The old Job counts as well, until it is gone.
        cluster.apply(other, dry_run=True)


def _is_to_apply(cluster: Cluster, wanted: Object, console: Console, *, replace: bool) -> bool:
    """Returns whether to apply an object. An object that somebody else made is used where it is as wanted.

    An object that runs share and keep data in stays as it is: a change could lose the data.
    replace: a shared Deployment is changed all the same.

    Raises:
        SettingsError: somebody else's object of this name differs, or the cluster would refuse the object.
    """
    kind, name = wanted["kind"], wanted["metadata"]["name"]
    found = cluster.find(wanted["apiVersion"], kind, name)
    if found is None:
        return True
    labels = wanted["metadata"]["labels"]
    if not is_ours(found):
        labels = {label: value for label, value in labels.items() if label != MANAGED}
    try:
        result = cluster.apply({**wanted, "metadata": {**wanted["metadata"], "labels": labels}}, dry_run=True)
        same = _content(result) == _content(found)
    except Refused:  # The spec of a claim cannot be changed, nor a field that somebody else applied.
        if is_ours(found) and kind not in SHARED:
            raise
        same = False
    if not is_ours(found):
        if not same:
            check_ours(cluster, found)
        return False
    if same or kind not in SHARED:
        return True
    changed, advice = replace and kind != CLAIM, "" if kind == CLAIM else " (--replace changes it)"
    action = "is changed" if changed else f"is there with another spec, and left as it is{advice}"
    console.line(f"{kind} {name}, which runs of namespace {cluster.namespace} share, {action}")
    return changed


def _content(found: Object) -> Object:
    """Returns the part of an object that a user writes."""
    metadata = found["metadata"]
    fields = {key: value for key, value in found.items() if key not in ("metadata", "status")}
    return {**fields, "labels": metadata.get("labels") or {}, "annotations": metadata.get("annotations") or {}}


def check_ours(cluster: Cluster, found: Object) -> None:
    """Raises SettingsError where `boceto submit` did not make an object."""
    if not is_ours(found):
        raise SettingsError(
            f"{found['kind']} {found['metadata']['name']} in namespace {cluster.namespace} was not made by `boceto "
            f"submit` (no label {MANAGED}: {render.MANAGER}), and is left alone; give another --name or --namespace, "
            "or remove it"
        )


def _check_usable(cluster: Cluster, found: Object, objects: Sequence[Object], *, same: bool) -> None:
    """Raises SettingsError where a Job that exists has other settings, or has failed, or is stopped."""
    name, run, state = found["metadata"]["name"], jobs.run_of(found), jobs.state(found)
    if not same:
        standing = {jobs.ACTIVE: "running", jobs.COMPLETE: "done"}.get(state, state)
        raise SettingsError(
            f"{name} is {standing} with other settings ({_difference(cluster, found, objects)}); give another "
            f"--name, or --replace to start it anew with these{', once it has stopped' if state == jobs.ACTIVE else ''}"
        )
    if state == jobs.STOPPED:
        raise SettingsError(f"{name} was stopped; go on with `boceto submit resume {run}`")
    if state == jobs.FAILED:
        raise SettingsError(
            f"{name} has failed ({jobs.why_failed(found)}); see `boceto submit status {run}`, mend it, and go on with "
            f"`boceto submit resume {run}`"
        )


def _difference(cluster: Cluster, found: Object, objects: Sequence[Object]) -> str:
    """Returns, in words, how a Job that exists differs from the wanted one."""
    wanted = of_kind(objects, "Job")
    program = jobs.program_of(wanted)
    old, new = _settings(cluster, found).get(program, {}), render.tables(render.settings_of(objects)).get(program, {})
    parts = [
        f"{program}.{name} = {old.get(name, 'default')} there, {new.get(name, 'default')} here"
        for name in {**old, **new}
        if old.get(name, "default") != new.get(name, "default")
    ]
    there, here = (job["spec"]["template"]["spec"]["containers"][0]["image"] for job in (found, wanted))
    if there != here:
        parts.append(f"image {there} there, {here} here")
    return "; ".join(parts) or "its manifest has changed"


def _settings(cluster: Cluster, job: Object) -> Mapping[str, Any]:
    """Reads the settings that a Job mounts; none where its ConfigMap is gone."""
    for name in maps_of(job):
        found = cluster.find("v1", "ConfigMap", name)
        if found and render.TOML in found.get("data", {}):
            return render.tables(found)
    return {}


def stop(cluster: Cluster, job: Object, console: Console) -> Object:
    """Stops a Job gracefully: its pod gets SIGTERM, saves and ends; the Job stays, suspended. Returns the Job."""
    follower = Follower(cluster, job["metadata"]["name"], console)
    follower.until(lambda *_: True)  # The pods that run now will be gone afterwards.
    cluster.merge(job, {"metadata": {"annotations": {jobs.STOP_NOTE: "asked to stop"}}, "spec": {"suspend": True}})
    outcome = follower.until(to_the_end)
    return cluster.merge(job, {"metadata": {"annotations": {jobs.STOP_NOTE: outcome.message or "no pod ran"}}})


def remove(cluster: Cluster, job: Object, console: Console) -> None:
    """Removes a Job of ours, stopped gracefully first where it runs, and waits until it is gone.

    Raises:
        SettingsError: it is not gone after two minutes.
    """
    if jobs.state(job) == jobs.ACTIVE:
        stop(cluster, job, console)
    cluster.delete(job)
    name, began, informed = job["metadata"]["name"], time.monotonic(), False
    while (held := _held(cluster, job)) is not None:
        waited = time.monotonic() - began
        if waited > PATIENCE:
            raise SettingsError(
                f"{name} was removed and is not gone after {PATIENCE:g} s{held}; see `kubectl -n {cluster.namespace} "
                f"get job {name} -o yaml`; once it is gone, `boceto submit run` starts it again on the same folder"
            )
        if waited > SOON and not informed:
            console.line(f"waiting for {name} to be gone{held}")
            informed = True
        time.sleep(POLL)


def _held(cluster: Cluster, job: Object) -> str | None:
    """Returns the holders of a Job that was removed, as `, held by …`; None once it is gone."""
    try:
        found = cluster.find("batch/v1", "Job", job["metadata"]["name"])
    except Unreachable as error:
        return f": {error}"
    if found is None or found["metadata"]["uid"] != job["metadata"]["uid"]:
        return None
    finalizers = found["metadata"].get("finalizers") or []
    holders = ["its pods" if each == "foregroundDeletion" else f"the finalizer {each}" for each in finalizers]
    return f", held by {' and '.join(holders)}" if holders else ""


def resume(cluster: Cluster, job: Object, ended: Sequence[jobs.Attempt], console: Console) -> Object:
    """Starts a new Job of the same name, settings and run folder in place of one that does not run; returns it."""
    new = _anew(job, ended)
    _rehearse(cluster, new, job)
    own = render.progress_rights(job, jobs.run_of(job)) if render.writes_progress(job) else []
    names = [(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in own]
    names += [("v1", "ConfigMap", each) for each in maps_of(job)]
    found = [each for name in names if (each := cluster.find(*name)) and is_ours(each)]
    # The new Job takes its settings and rights over from the old one, so they must not go with that.
    kept = [cluster.merge(each, {"metadata": {"ownerReferences": _owners(each, without=job)}}) for each in found]
    remove(cluster, job, console)
    made = cluster.apply(new)
    _own(cluster, made, kept)
    return made


def _anew(job: Object, ended: Sequence[jobs.Attempt]) -> Object:
    """Returns a new Job like one that has ended or was stopped; the attempts of the old one are written on it."""
    spec = {key: value for key, value in job["spec"].items() if key not in SERVED}
    template, name = spec["template"], job["metadata"]["name"]
    pod = {"labels": _labels(template), "annotations": template["metadata"].get("annotations", {})}
    annotations = {jobs.ATTEMPTS_NOTE: jobs.written(ended), DIGEST: jobs.annotation(job, DIGEST)}
    metadata = {"name": name, "labels": _labels(job), "annotations": annotations}
    spec["template"] = {**template, "metadata": pod}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _labels(found: Object) -> Object:
    return {name: text for name, text in found["metadata"].get("labels", {}).items() if name not in SERVED_LABELS}
