"""Starts Jobs: what is there already is gone on with, waited for or left alone, and never somebody else's."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from boceto.console import Console
from boceto.errors import SettingsError
from k8s import jobs, rights
from k8s.api import Cluster, OverQuota, Unreachable, fits, is_ours
from k8s.follow import Follower, to_the_end
from k8s.render import DIGEST, MANAGED, MANAGER, RUN, TOML, Object, maps_of, of_kind, settings_of, tables, tells

POLL = 0.5
SOON, PATIENCE = 5.0, 120.0  # Seconds until it is said what is waited for, and until no more is waited.
# What the API server writes into a Job's spec and labels, and refuses from anybody else.
SERVED = ("selector", "suspend", "manualSelector")  # Kueue suspends what waits in its queue by itself.
SERVED_LABELS = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
RIGHTS = "rbac.authorization.k8s.io/v1"
ROLES = ("Role", "RoleBinding")
CLAIM = "PersistentVolumeClaim"
SHARED = ("Deployment", CLAIM)  # They hold the data of all runs of a namespace.
STANDING = {jobs.ACTIVE: "running", jobs.COMPLETE: "done"}


def start(  # noqa: PLR0913 - how it is started
    cluster: Cluster, objects: Sequence[Object], console: Console, *, replace: bool, follow: bool, whose: str
) -> Object:
    """Brings one program's objects to the cluster; returns its Job, which may be there, and even done, already.

    follow: whether it is followed then; whose: who chose the namespace.

    Raises:
        SettingsError: another's object is in the way, or a Job of this name with other settings.
    """
    objects, lacking = rights.without_rights(cluster, objects)
    rights.check(cluster, rights.to_apply(cluster, objects, replace=replace, follow=follow))
    wanted = of_kind(list(objects), "Job")
    name = wanted["metadata"]["name"]
    if lacking:
        console.line(
            f"{name} does not write its progress on its Job: that needs the right to {lacking}; its log tells it"
        )
    found = cluster.find("batch/v1", "Job", name)
    if found is not None:
        check_ours(cluster, found)
    others = [each for each in objects if each is not wanted and not _is_there(cluster, each)]
    if found is not None:
        same = jobs.annotation(found, DIGEST) == wanted["metadata"]["annotations"][DIGEST]
        if not replace or (same and jobs.state(found) in (jobs.ACTIVE, jobs.SUSPENDED)):
            _check_same(cluster, found, objects, same=same)
            _heal(cluster, found, objects, others, console)
            done = jobs.state(found) == jobs.COMPLETE
            console.line(f"{name} is {'done already' if done else 'there already, with these settings'}")
            return found
        _rehearse(cluster, wanted, others)
        remove(cluster, found, console)
    made = _make(cluster, wanted, _changeable(cluster, others, console, replace=replace))
    console.line(f"{name} is submitted to namespace {cluster.namespace} ({whose})")
    return made


def _make(cluster: Cluster, wanted: Object, others: Sequence[Object]) -> Object:
    """Makes a Job and what it needs. Its settings and rights are its own: they go when it goes, or is refused."""
    own = [each for each in others if _is_own(each, wanted)]
    new = [each for each in own if cluster.find_like(each) is None]
    try:
        made = [cluster.apply(each) for each in others]
        job = cluster.apply(wanted)
    except Unreachable:  # Whether the Job is there is not known.
        raise
    except SettingsError:
        _withdraw(cluster, new)
        raise
    _own(cluster, job, [each for each in made if _is_own(each, wanted)])
    return job


def _withdraw(cluster: Cluster, objects: Sequence[Object]) -> None:
    """Removes what was made for a Job that is refused, as far as that may be."""
    for each in objects:
        with contextlib.suppress(SettingsError):  # The refusal is what is to be told.
            if found := cluster.find_like(each):
                cluster.delete(found)


def _is_own(each: Object, job: Object) -> bool:
    """Whether an object is for a Job alone: its settings, and its rights, which bear its run's name."""
    if each["kind"] == "ConfigMap":
        return each["metadata"]["name"] in maps_of(job)
    return bool(each["metadata"].get("labels", {}).get(RUN) == jobs.run_of(job))


def _own(cluster: Cluster, job: Object, made: Sequence[Object]) -> None:
    """Has objects go when a Job goes."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    for each in made:
        owners = each["metadata"].get("ownerReferences", [])
        if owner["uid"] not in [other["uid"] for other in owners]:
            change = {"metadata": {"ownerReferences": [*owners, {**owner, "blockOwnerDeletion": True}]}}
            with contextlib.suppress(SettingsError):  # Who may not say so leaves them behind.
                cluster.merge(each["apiVersion"], each["kind"], each["metadata"]["name"], change)


def _heal(cluster: Cluster, job: Object, objects: Sequence[Object], others: Sequence[Object], console: Console) -> None:
    """Applies again what a Job that stays needs, where it is not done: `others` of the objects it was to be made of."""
    if jobs.state(job) == jobs.COMPLETE:
        return
    others = _changeable(cluster, others, console, replace=False)
    wanted, settings = of_kind(list(objects), "Job"), settings_of(list(objects))
    name = maps_of(job)[maps_of(wanted).index(settings["metadata"]["name"])]
    if name != settings["metadata"]["name"]:  # Another program's settings have changed; this Job's own map stays.
        others = [each for each in others if each is not settings]
        if cluster.find("v1", "ConfigMap", name) is None:
            others = [*others, {**settings, "metadata": {**settings["metadata"], "name": name}}]
    made = [cluster.apply(each) for each in others]
    _own(cluster, job, [each for each in made if _is_own(each, job)])


def _rehearse(cluster: Cluster, wanted: Object, others: Sequence[Object]) -> None:
    """Asks whether the cluster would take a Job and what it needs, before the one that is there goes for it.

    The Job under another name: beside the old one it would be a change, and Jobs cannot be changed.

    Raises:
        SettingsError: it would not.
    """
    for each in others:
        cluster.apply(each, rehearse=True)
    other = {**wanted, "metadata": {**wanted["metadata"], "name": f"{wanted['metadata']['name']}-anew"}}
    with contextlib.suppress(OverQuota):  # The old Job counts as well, until it is gone.
        cluster.apply(other, rehearse=True)


def _belongings(cluster: Cluster, job: Object) -> list[Object]:
    """What goes when a Job goes, as it was applied.

    Raises:
        SettingsError: it may not be read, so that nothing could be made anew.
    """
    account = job["spec"]["template"]["spec"].get("serviceAccountName", "default")
    named = [*(("v1", "ConfigMap", name) for name in maps_of(job)), ("v1", "ServiceAccount", account)]
    there = [
        {**found, "apiVersion": api, "kind": kind}
        for api, kind, name in named
        if (found := cluster.find(api, kind, name))
    ]
    if tells(job):
        there += [each for kind in ROLES for each in cluster.list(RIGHTS, kind)]
    return [
        {**each, "metadata": {"name": each["metadata"]["name"], **_plain(each["metadata"])}}
        for each in there
        if _goes_with(each, job)
    ]


def _goes_with(each: Object, job: Object) -> bool:
    owners = each["metadata"].get("ownerReferences", [])
    return is_ours(each) and job["metadata"]["uid"] in [owner["uid"] for owner in owners]


def _is_there(cluster: Cluster, wanted: Object) -> bool:
    """Whether another made just this, so that there is nothing to apply.

    Raises:
        SettingsError: another made something else of this name.
    """
    found = cluster.find_like(wanted)
    if found is None or is_ours(found):
        return False
    labels = {name: value for name, value in wanted["metadata"]["labels"].items() if name != MANAGED}
    plain = {**wanted, "metadata": {**wanted["metadata"], "labels": labels}}
    if not fits(found, plain):
        check_ours(cluster, found)
    return True


def _changeable(cluster: Cluster, objects: Sequence[Object], console: Console, *, replace: bool) -> Sequence[Object]:
    """The objects to apply. Objects that runs share and keep data in stay as they are: a change could lose the data.

    replace: a Deployment is changed all the same.
    """
    return [each for each in objects if not _is_kept(cluster, each, console, replace=replace)]


def _is_kept(cluster: Cluster, wanted: Object, console: Console, *, replace: bool) -> bool:
    found = cluster.find_like(wanted) if wanted["kind"] in SHARED else None
    if found is None:
        return False
    try:
        same = cluster.apply(wanted, rehearse=True).get("spec") == found.get("spec")
    except Unreachable:
        raise
    except SettingsError:  # The spec of a claim cannot be changed. A missing right is reported when it is applied.
        same = fits(found.get("spec"), wanted.get("spec"))
    if same:
        return False
    change, claim = replace and wanted["kind"] != CLAIM, wanted["kind"] == CLAIM
    what = f"{wanted['kind']} {wanted['metadata']['name']}, which runs of namespace {cluster.namespace} share,"
    left = f"is there with another spec, and left as it is{'' if claim else ' (--replace changes it)'}"
    console.line(f"{what} {'is changed' if change else left}")
    return not change


def check_ours(cluster: Cluster, found: Object) -> None:
    """Raises SettingsError where `boceto submit` did not make an object."""
    if not is_ours(found):
        what = f"{found['kind']} {found['metadata']['name']}"
        raise SettingsError(
            f"{what} in namespace {cluster.namespace} was not made by `boceto submit` (no label {MANAGED}: {MANAGER}), "
            "and is left alone; give another --name or --namespace, or remove it"
        )


def _check_same(cluster: Cluster, found: Object, objects: Sequence[Object], *, same: bool) -> None:
    """Raises SettingsError where a Job that is there is neither done, nor under way, with the settings wanted."""
    name, run, state = found["metadata"]["name"], jobs.run_of(found), jobs.state(found)
    if not same:
        standing = STANDING.get(state, state)
        raise SettingsError(
            f"{name} is {standing} with other settings ({_difference(cluster, found, objects)}); give another "
            f"--name, or --replace to start it anew with these{', once it has stopped' if state == jobs.ACTIVE else ''}"
        )
    if state == jobs.STOPPING:
        raise SettingsError(f"{name} was stopped; go on with `boceto submit resume {run}`")
    if state == jobs.FAILED:
        raise SettingsError(
            f"{name} has failed ({jobs.why_failed(found)}); see `boceto submit status {run}`, mend it, and go on with "
            f"`boceto submit resume {run}`"
        )


def _difference(cluster: Cluster, found: Object, objects: Sequence[Object]) -> str:
    """What a Job that is there does otherwise than the one that is wanted."""
    wanted = of_kind(list(objects), "Job")
    program = jobs.program_of(wanted)
    old, new = (each.get(program, {}) for each in (_settings(cluster, found), tables(settings_of(list(objects)))))
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
    """The settings of a Job that is there; none where its ConfigMap is gone."""
    for name in maps_of(job):
        found = cluster.find("v1", "ConfigMap", name)
        if found and TOML in found.get("data", {}):
            return tables(found)
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
    """Removes a Job of ours, stopped gracefully first where it runs, and waits until it is gone.

    Raises:
        SettingsError: something holds it for two minutes.
    """
    if jobs.state(job) == jobs.ACTIVE:
        stop(cluster, job, console)
    cluster.delete(job)
    name, began, told = job["metadata"]["name"], time.monotonic(), False
    while (held := _held(cluster, job)) is not None:
        waited = time.monotonic() - began
        if waited > PATIENCE:
            raise SettingsError(
                f"{name} was removed and is not gone after {PATIENCE:g} s{held}; see `kubectl -n {cluster.namespace} "
                f"get job {name} -o yaml`; once it is gone, `boceto submit run` starts it again on the same folder"
            )
        if waited > SOON and not told:
            console.line(f"waiting for {name} to be gone{held}")
            told = True
        time.sleep(POLL)


def _held(cluster: Cluster, job: Object) -> str | None:
    """By what a Job that was removed is held, as `, held by …`; None once it is gone."""
    try:
        found = cluster.find("batch/v1", "Job", job["metadata"]["name"])
    except Unreachable as error:
        return f": {error}"
    if found is None or found["metadata"]["uid"] != job["metadata"]["uid"]:
        return None
    finalizers = found["metadata"].get("finalizers") or []
    holders = ["its pods" if each == "foregroundDeletion" else f"the finalizer {each}" for each in finalizers]
    return f", held by {' and '.join(holders)}" if holders else ""


def again(job: Object, ended: Sequence[jobs.Attempt]) -> Object:
    """A new Job like one that has ended or was stopped; the attempts of the old one are written on it."""
    spec = {key: value for key, value in job["spec"].items() if key not in SERVED}
    template = {**spec["template"], "metadata": _plain(spec["template"]["metadata"])}
    annotations = {jobs.BEFORE: jobs.written(ended), DIGEST: jobs.annotation(job, DIGEST)}
    metadata = {**_plain(job["metadata"]), "name": job["metadata"]["name"], "annotations": annotations}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {**spec, "template": template}}


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    labels = {name: value for name, value in metadata.get("labels", {}).items() if name not in SERVED_LABELS}
    kept = {name: value for name, value in metadata.get("annotations", {}).items() if not name.startswith("batch.")}
    return {"labels": labels, "annotations": kept}


def resume(cluster: Cluster, job: Object, ended: Sequence[jobs.Attempt], console: Console) -> Object:
    """Starts a new Job of the same name, settings and run folder in place of one that is not running."""
    belongings, new = _belongings(cluster, job), again(job, ended)
    _rehearse(cluster, new, belongings)
    remove(cluster, job, console)
    return _make(cluster, new, belongings)
