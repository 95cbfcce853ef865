"""What `boceto submit` does, a function a verb: -> (result, exit code)."""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml

from boceto.console import Console, printable, table
from boceto.errors import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, SettingsError, Stopped
from k8s import jobs, rights, start
from k8s.api import Cluster, Missing, Unreachable
from k8s.follow import (
    RECORD,
    RECORD_KEY,
    Follower,
    Outcome,
    end_of,
    events_of,
    pods_of,
    result_lines,
    to_the_end,
    why_waiting,
)
from k8s.render import MANAGED, MANAGER, RUN, Object, check_images, namespace_of, place, render, shared
from k8s.settings import (
    PROGRAMS,
    ClusterSettings,
    FollowSettings,
    NamedRun,
    ProgramSettings,
    RunSettings,
    check_name,
    check_namespace,
)

Answer = tuple[dict[str, Any], int]
GONE = "its Job is gone"


def run(settings: RunSettings, console: Console) -> Answer:
    """Starts a run, or goes on with following it."""
    programs = PROGRAMS if settings.chain else (settings.program,)
    rendered = [render(settings.overlay, each, settings.name, settings.net, settings.set) for each in programs]
    common = shared(settings.overlay)
    every = [*common, *(each for _, objects in rendered for each in objects)]
    check_images(every, settings.overlay)
    said = "" if settings.namespace else namespace_of(every)
    if settings.render:
        if settings.namespace:
            place(every, check_namespace(settings.namespace))
        print(yaml.safe_dump_all(every, sort_keys=False), end="")
        return {}, EXIT_DONE
    if settings.chain and not settings.follow:
        raise SettingsError("submit.chain waits for each program before it starts the next; leave --no-follow out")
    cluster = Cluster(settings.context, settings.namespace or said)
    place(every, cluster.namespace)
    for each in every:
        if not cluster.kind(each["apiVersion"], each["kind"]).namespaced:
            del each["metadata"]["namespace"]
    whose = "by --namespace" if settings.namespace else "the overlay's" if said else "the context's"
    result: dict[str, Any] = {}
    for number, (name, objects) in enumerate(rendered, 1):
        job = start.start(
            cluster, [*common, *objects], console, replace=settings.replace, follow=settings.follow, whose=whose
        )
        if not settings.follow:
            return {"run": name, "job": job["metadata"]["name"]}, EXIT_DONE
        result, code = _followed(cluster, job, console, programs[number:])
        if code:
            break
    return result, code


def _followed(cluster: Cluster, job: Object, console: Console, later: Sequence[str] = ()) -> Answer:
    """Follows a Job to its end and tells how that was, and what `later` programs of its chain wait for."""
    name, run_name = job["metadata"]["name"], jobs.run_of(job)
    waiting = f"{' and '.join(later)} will not start by {'themselves' if len(later) > 1 else 'itself'}"
    try:
        outcome = Follower(cluster, name, console).until(to_the_end)
    except KeyboardInterrupt as error:
        if later:
            console.line(f"{waiting}: the same command goes on with the chain")
        raise Stopped(
            f"stopped following; {name} goes on without you: `boceto submit logs {run_name}` follows it again, "
            f"`boceto submit status {run_name}` shows where it stands, `boceto submit stop {run_name}` stops it"
        ) from error
    answer = told(outcome, console)
    if later and outcome.code == EXIT_STOPPED:
        console.line(f"{waiting}: go on with `boceto submit resume {run_name}`, and then with the same command")
    return answer


def told(outcome: Outcome, console: Console) -> Answer:
    """Tells how a Job ended."""
    console.line(end_of(outcome))
    if outcome.code == EXIT_DONE and result_lines(outcome):
        console.line(result_lines(outcome))
    job = outcome.job
    result = {
        "run": jobs.run_of(job),
        "job": job["metadata"]["name"],
        "state": jobs.state(job),
        "attempts": [asdict(each) for each in outcome.attempts],
        "result": jobs.result(outcome.message),
    }
    return result, outcome.code


def _jobs_of(cluster: Cluster, name: str, program: str = "") -> list[Object]:
    """The Jobs of a run, the one begun last at the end.

    Raises:
        SettingsError: there is none.
    """
    chosen = [job for job in _find_jobs(cluster, name) if not program or jobs.program_of(job) == program]
    if not chosen:
        _check_there(cluster)
        what = f"run {name}" + (f" has no Job for {program}" if program else " is not known")
        raise SettingsError(f"{what} in namespace {cluster.namespace}; see `boceto submit list`")
    return chosen


def _find_jobs(cluster: Cluster, name: str) -> list[Object]:
    """The Jobs of a run, the one begun last at the end."""
    check_name(name, "submit.name")
    found = cluster.list("batch/v1", "Job", labels=f"{MANAGED}={MANAGER},{RUN}={name}")
    return sorted(found, key=lambda job: job["metadata"]["creationTimestamp"])


def _check_there(cluster: Cluster) -> None:
    """Raises SettingsError where a namespace is not there, as far as that may be read: all lists in it are empty."""
    try:
        cluster.get("v1", "Namespace", cluster.namespace)
    except Missing as error:
        raise SettingsError(
            f"there is no namespace {cluster.namespace} in the cluster at {cluster.host}; see `kubectl get namespaces`"
        ) from error
    except Unreachable:
        raise
    except SettingsError:
        return


def status(settings: NamedRun, console: Console) -> Answer:
    """Where a run stands."""
    cluster = _cluster(settings, rights.SEES)
    events, there = events_of(cluster), _find_jobs(cluster, settings.name)
    every = [
        {**each, "why": f"{each['why']}; {GONE}" if each["why"] else GONE}
        for each in _records(cluster, f",{RUN}={settings.name}")
        if each["job"] not in [job["metadata"]["name"] for job in there]
    ]
    for job in there if every else _jobs_of(cluster, settings.name):
        pods = pods_of(cluster, job)
        entry = {
            "job": job["metadata"]["name"],
            "state": jobs.state(job),
            "why": jobs.why_failed(job) or _why_waiting(cluster, job, pods, events),
            **_facts(job),
            "warnings": list(jobs.warnings(pods, jobs.attempts(job, pods, events)).values()),
            "attempts": [asdict(each) for each in jobs.attempts(job, pods, events)],
        }
        every.append(entry)
    for entry in every:
        console.line(_status_lines(entry))
    return {"run": settings.name, "jobs": every}, EXIT_DONE


def _cluster(settings: ClusterSettings, needed: Sequence[rights.Right]) -> Cluster:
    """The cluster, where this user may do what is needed."""
    cluster = Cluster(settings.context, settings.namespace)
    rights.check(cluster, needed)
    return cluster


def _records(cluster: Cluster, labels: str = "") -> list[dict[str, Any]]:
    """What was written down of Jobs that have ended, oldest first."""
    found = cluster.list_readable("v1", "ConfigMap", labels=f"{MANAGED}={MANAGER},{RECORD}{labels}")
    read = [jobs.result(each.get("data", {}).get(RECORD_KEY, "")) for each in found]
    return sorted([each for each in read if each and "job" in each], key=lambda each: str(each.get("created")))


def _why_waiting(cluster: Cluster, job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    return why_waiting(cluster, job, pods, events) if jobs.state(job) in (jobs.ACTIVE, jobs.SUSPENDED) else ""


def _facts(job: Object) -> dict[str, Any]:
    """What a Job's annotations tell: `boceto.dev/goodput` and the like."""
    names = ("progress", "checkpoint", "goodput", "stopped")
    facts = {name: jobs.annotation(job, f"boceto.dev/{name}") for name in names}
    return {name: value for name, value in facts.items() if value}


def _status_lines(entry: dict[str, Any]) -> str:
    head = f"{entry['job']}: {entry['state']}" + (f", {entry['why']}" if entry["why"] else "")
    facts = [f"  {name}: {entry[name]}" for name in ("progress", "checkpoint", "goodput", "stopped") if name in entry]
    facts += [f"  warning: {text}" for text in entry.get("warnings", ())]
    rows = [
        [str(number), each["pod"], each["node"], _clock(each["started"]), _clock(each["ended"]), _ended(each)]
        for number, each in enumerate(entry["attempts"], 1)
    ]
    attempts = table(["attempt", "pod", "node", "started", "ended", "how"], rows, left=6) if rows else "no attempt yet"
    return "\n".join([head, *facts, *(f"  {line}" for line in attempts.splitlines())])


def _clock(time: str) -> str:
    """The time of day in a time of the API."""
    found = re.search(r"T(\d\d:\d\d:\d\d)", time)
    return found[1] if found else ""


def _ended(entry: dict[str, Any]) -> str:
    said = "" if jobs.result(entry["message"]) else entry["message"]
    code = "" if entry["code"] is None else f" (exit code {entry['code']})"
    return f"{entry['why']}{code}" + (f": {said}" if said else "")


def logs(settings: FollowSettings, console: Console) -> Answer:
    """What a run's program said, and says."""
    cluster = _cluster(settings, rights.FOLLOWS)
    job = _jobs_of(cluster, settings.name, settings.program)[-1]
    pods = pods_of(cluster, job)
    if not pods and (jobs.state(job) in (jobs.COMPLETE, jobs.FAILED) or not settings.follow):
        console.line(
            f"{job['metadata']['name']} has no pod any more, and its log went with it; `boceto submit status "
            f"{settings.name}` shows what is known of it"
        )
        return {}, EXIT_FAULT
    if settings.follow:
        return _followed(cluster, job, console)
    for pod in pods:
        for _, line in cluster.log(pod["metadata"]["name"], jobs.CONTAINER):
            print(printable(line))
    return {}, EXIT_DONE


def stop(settings: ProgramSettings, console: Console) -> Answer:
    """Stops what runs of a run, with everything saved."""
    cluster = _cluster(settings, rights.STOPS)
    job = _jobs_of(cluster, settings.name, settings.program)[-1]
    name = job["metadata"]["name"]
    if jobs.state(job) not in (jobs.ACTIVE, jobs.SUSPENDED):
        console.line(f"{name} does not run: it is {jobs.state(job)}")
        return {"job": name, "state": jobs.state(job)}, EXIT_DONE
    job = start.stop(cluster, job, console)
    console.line(f"{name}: {jobs.annotation(job, jobs.STOPPED)}")
    if jobs.state(job) == jobs.STOPPING:
        console.line(f"`boceto submit resume {settings.name}` goes on")
    return {"job": name, "state": jobs.state(job), "said": jobs.annotation(job, jobs.STOPPED)}, EXIT_DONE


def resume(settings: FollowSettings, console: Console) -> Answer:
    """Goes on with a run that was stopped, or has failed, in a new Job on the same folder."""
    cluster = _cluster(settings, rights.RESUMES)
    found = _jobs_of(cluster, settings.name, settings.program)
    job = ([job for job in found if jobs.state(job) != jobs.COMPLETE] or found)[-1]
    name, state = job["metadata"]["name"], jobs.state(job)
    if state in (jobs.STOPPING, jobs.FAILED):
        ended = jobs.attempts(job, pods_of(cluster, job), events_of(cluster))
        job = start.resume(cluster, job, ended, console)
        console.line(f"{name} goes on")
    elif state == jobs.COMPLETE:
        raise SettingsError(_nothing_to_resume(settings, found))
    else:
        console.line(f"{name} is under way already")
    return _followed(cluster, job, console) if settings.follow else ({"job": name}, EXIT_DONE)


def _nothing_to_resume(settings: FollowSettings, found: Sequence[Object]) -> str:
    """What to do with a run all of whose Jobs are done: it may have lost the trainer's."""
    there = [jobs.program_of(job) for job in found]
    name = found[-1]["metadata"]["name"]
    if settings.program or "train" in there:
        return f"{name} is done, and there is nothing to resume; `boceto submit run --name` starts another"
    return (
        f"{name} is done, and run {settings.name} has no Job for train to go on with; `boceto submit run --name "
        f"{settings.name}`, with the overlay and settings that it had, starts one on the same folder"
    )


def list_runs(settings: ClusterSettings, console: Console) -> Answer:
    """All runs of a namespace."""
    cluster = _cluster(settings, rights.LISTS)
    found = cluster.list("batch/v1", "Job", labels=f"{MANAGED}={MANAGER},{RUN}")
    if not found:
        _check_there(cluster)
    now = dt.datetime.now(dt.UTC)
    entries = [
        {
            "run": jobs.run_of(job),
            "program": jobs.program_of(job),
            "state": jobs.state(job),
            "age": jobs.age(job["metadata"]["creationTimestamp"], now),
            "progress": jobs.annotation(job, jobs.PROGRESS),
        }
        for job in sorted(found, key=lambda job: job["metadata"]["creationTimestamp"])
    ]
    rows = [[str(value) for value in entry.values()] for entry in entries]
    text = table(["run", "program", "state", "age", "progress"], rows, left=5) if rows else "no run"
    console.line(text if rows else f"no run in namespace {cluster.namespace}; `boceto submit run` starts one")
    return {"runs": entries}, EXIT_DONE
