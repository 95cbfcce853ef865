"""The verbs of `boceto submit`: a function a verb, which returns (result, exit code)."""

import datetime as dt
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml

from boceto.console import Console, printable, table
from boceto.errors import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, SettingsError, Stopped
from k8s import jobs, rights, start
from k8s.api import Cluster, Missing, Unreachable
from k8s.follow import RECORD, RECORD_KEY, Follower, Outcome, events_of, pods_of, to_the_end, why_waiting
from k8s.render import MANAGED, MANAGER, RUN, Object, check_images, namespace_of, render, set_namespace, shared
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
FACTS = ("progress", "checkpoint", "goodput", "stopped")  # Annotations of a Job: `boceto.dev/progress` and so on.


def run(settings: RunSettings, console: Console) -> Answer:
    """Starts a run's Job, or all Jobs of its chain, and follows them to their end."""
    programs = PROGRAMS if settings.chain else (settings.program,)
    rendered = [render(settings.overlay, each, settings.name, settings.net, settings.set) for each in programs]
    common = shared(settings.overlay)
    every = [*common, *(each for _, objects in rendered for each in objects)]
    check_images(every, settings.overlay)
    own = "" if settings.namespace else namespace_of(every)
    if settings.render:
        if settings.namespace:
            set_namespace(every, check_namespace(settings.namespace))
        print(yaml.safe_dump_all(every, sort_keys=False), end="")
        return {}, EXIT_DONE
    if settings.chain and not settings.follow:
        raise SettingsError("submit.chain waits for each program before it starts the next; leave --no-follow out")
    cluster = Cluster(settings.context, settings.namespace or own)
    set_namespace(every, cluster.namespace)
    for each in every:
        if not cluster.kind(each["apiVersion"], each["kind"]).namespaced:
            del each["metadata"]["namespace"]
    whose = "by --namespace" if settings.namespace else "the overlay's" if own else "the context's"
    result: dict[str, Any] = {}
    for number, (name, objects) in enumerate(rendered, 1):
        job = start.start(
            cluster, [*common, *objects], console, replace=settings.replace, follow=settings.follow, whose=whose
        )
        if not settings.follow:
            return {"run": name, "job": job["metadata"]["name"]}, EXIT_DONE
        result, code = _follow(cluster, job, console, programs[number:])
        if code:
            break
    return result, code


def _follow(cluster: Cluster, job: Object, console: Console, later: Sequence[str] = ()) -> Answer:
    """Follows a Job to its end and reports it, with the `later` programs of its chain that do not start then."""
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
    console.line(end_of(outcome))
    found = jobs.result(outcome.message)
    if outcome.code == EXIT_DONE and found:
        console.line(_result_lines(found))
    if later and outcome.code == EXIT_STOPPED:
        console.line(f"{waiting}: go on with `boceto submit resume {run_name}`, and then with the same command")
    result = {
        "run": run_name,
        "job": name,
        "state": jobs.state(outcome.job),
        "attempts": [asdict(each) for each in outcome.attempts],
        "result": found or None,
    }
    return result, outcome.code


def end_of(outcome: Outcome) -> str:
    """Returns one line about how a Job ended."""
    name, state = outcome.job["metadata"]["name"], jobs.state(outcome.job)
    if state == jobs.FAILED:
        message = f": {outcome.message}" if outcome.message and not outcome.shown else ""
        return f"{name} failed, {jobs.how_failed(outcome.job)}{message}"
    if state == jobs.STOPPED:
        return f"{name} is stopped: {outcome.message or jobs.annotation(outcome.job, jobs.STOP_NOTE)}"
    return f"{name} is done"


def _result_lines(result: dict[str, Any]) -> str:
    """Returns a program's result for people: a line a value."""
    found = {name: value for name, value in result.items() if value not in (None, {})}
    width = max(map(len, found), default=0)
    return "\n".join(f"  {name.replace('_', ' '):{width}}  {_shown(value)}" for name, value in found.items())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"  # noqa: PLR2004 - speeds, and scores
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _cluster(settings: ClusterSettings, needed: Sequence[rights.Right]) -> Cluster:
    """Returns the cluster, where this user has the rights that are needed."""
    cluster = Cluster(settings.context, settings.namespace)
    rights.check(cluster, needed)
    return cluster


def _find_jobs(cluster: Cluster, name: str = "") -> list[Object]:
    """Returns the Jobs of one run, or of all, the newest at the end."""
    selector = f"{MANAGED}={MANAGER},{RUN}" + (f"={check_name(name, 'submit.name')}" if name else "")
    return sorted(cluster.list("batch/v1", "Job", selector), key=lambda job: job["metadata"]["creationTimestamp"])


def _jobs_of(cluster: Cluster, name: str, program: str = "") -> list[Object]:
    """Returns the Jobs of a run, the newest at the end.

    Raises:
        SettingsError: there is none.
    """
    chosen = [job for job in _find_jobs(cluster, name) if not program or jobs.program_of(job) == program]
    if not chosen:
        _check_namespace_exists(cluster)
        problem = f"run {name}" + (f" has no Job for {program}" if program else " is not known")
        raise SettingsError(f"{problem} in namespace {cluster.namespace}; see `boceto submit list`")
    return chosen


def _check_namespace_exists(cluster: Cluster) -> None:
    """Raises SettingsError where the namespace does not exist. All lists in it are empty, so nothing else shows that.

    A user who may not read namespaces gets no error.
    """
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
    """Shows a run's Jobs, also those that are gone and of which a record is left."""
    cluster = _cluster(settings, rights.STATUS)
    events, found = events_of(cluster), _find_jobs(cluster, settings.name)
    names = [job["metadata"]["name"] for job in found]
    every = [each for each in _records(cluster, settings.name) if each["job"] not in names]
    for entry in every:
        entry["why"] = "; ".join(filter(None, [entry["why"], "its Job is gone"]))
    for job in found if every else _jobs_of(cluster, settings.name):
        pods = pods_of(cluster, job)
        attempts = jobs.attempts(job, pods, events)
        why = jobs.why_failed(job)
        if not why and jobs.state(job) in (jobs.ACTIVE, jobs.SUSPENDED):
            why = why_waiting(cluster, job, pods, events)
        facts = {name: jobs.annotation(job, f"boceto.dev/{name}") for name in FACTS}
        entry = {
            "job": job["metadata"]["name"],
            "state": jobs.state(job),
            "why": why,
            **{name: value for name, value in facts.items() if value},
            "warnings": list(jobs.warnings(pods, attempts).values()),
            "attempts": [asdict(each) for each in attempts],
        }
        every.append(entry)
    for entry in every:
        console.line(_status_lines(entry))
    return {"run": settings.name, "jobs": every}, EXIT_DONE


def _records(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Returns the records of a run's Jobs that have ended, oldest first."""
    found = cluster.list_readable("v1", "ConfigMap", labels=f"{MANAGED}={MANAGER},{RECORD},{RUN}={name}")
    read = [jobs.result(each.get("data", {}).get(RECORD_KEY, "")) for each in found]
    return sorted([each for each in read if "job" in each], key=lambda each: str(each.get("created")))


def _status_lines(entry: dict[str, Any]) -> str:
    head = f"{entry['job']}: {entry['state']}" + (f", {entry['why']}" if entry["why"] else "")
    facts = [f"  {name}: {entry[name]}" for name in FACTS if name in entry]
    facts += [f"  warning: {text}" for text in entry.get("warnings", ())]
    rows = [
        [str(number), each["pod"], each["node"], _clock(each["started"]), _clock(each["ended"]), _end(each)]
        for number, each in enumerate(entry["attempts"], 1)
    ]
    attempts = table(["attempt", "pod", "node", "started", "ended", "how"], rows, left=6) if rows else "no attempt yet"
    return "\n".join([head, *facts, *(f"  {line}" for line in attempts.splitlines())])


def _clock(time: str) -> str:
    """Returns the time of day in a time of the API."""
    found = re.search(r"T(\d\d:\d\d:\d\d)", time)
    return found[1] if found else ""


def _end(attempt: dict[str, Any]) -> str:
    message = "" if jobs.result(attempt["message"]) else attempt["message"]
    code = "" if attempt["code"] is None else f" (exit code {attempt['code']})"
    return f"{attempt['why']}{code}" + (f": {message}" if message else "")


def logs(settings: FollowSettings, console: Console) -> Answer:
    """Shows the log of a run's program, and follows it."""
    cluster = _cluster(settings, rights.FOLLOW)
    job = _jobs_of(cluster, settings.name, settings.program)[-1]
    pods = pods_of(cluster, job)
    if not pods and (jobs.state(job) in (jobs.COMPLETE, jobs.FAILED) or not settings.follow):
        console.line(
            f"{job['metadata']['name']} has no pod any more, and its log went with it; `boceto submit status "
            f"{settings.name}` shows what is known of it"
        )
        return {}, EXIT_FAULT
    if settings.follow:
        return _follow(cluster, job, console)
    for pod in pods:
        for _, line in cluster.log(pod["metadata"]["name"], jobs.CONTAINER):
            print(printable(line))
    return {}, EXIT_DONE


def stop(settings: ProgramSettings, console: Console) -> Answer:
    """Stops a run's Job gracefully."""
    cluster = _cluster(settings, rights.STOP)
    job = _jobs_of(cluster, settings.name, settings.program)[-1]
    name = job["metadata"]["name"]
    if jobs.state(job) not in (jobs.ACTIVE, jobs.SUSPENDED):
        console.line(f"{name} does not run: it is {jobs.state(job)}")
        return {"job": name, "state": jobs.state(job)}, EXIT_DONE
    job = start.stop(cluster, job, console)
    console.line(f"{name}: {jobs.annotation(job, jobs.STOP_NOTE)}")
    if jobs.state(job) == jobs.STOPPED:
        console.line(f"`boceto submit resume {settings.name}` goes on")
    return {"job": name, "state": jobs.state(job), "said": jobs.annotation(job, jobs.STOP_NOTE)}, EXIT_DONE


def resume(settings: FollowSettings, console: Console) -> Answer:
    """Goes on with a run that was stopped or has failed, in a new Job on the same folder."""
    cluster = _cluster(settings, rights.RESUME)
    found = _jobs_of(cluster, settings.name, settings.program)
    job = ([job for job in found if jobs.state(job) != jobs.COMPLETE] or found)[-1]
    name, state = job["metadata"]["name"], jobs.state(job)
    if state in (jobs.STOPPED, jobs.FAILED):
        ended = jobs.attempts(job, pods_of(cluster, job), events_of(cluster))
        job = start.resume(cluster, job, ended, console)
        console.line(f"{name} goes on")
    elif state != jobs.COMPLETE:
        console.line(f"{name} is under way already")
    elif settings.program or "train" in [jobs.program_of(job) for job in found]:
        raise SettingsError(
            f"{name} is done, and there is nothing to resume; `boceto submit run --name` starts another"
        )
    else:
        raise SettingsError(
            f"{name} is done, and run {settings.name} has no Job for train to go on with; `boceto submit run --name "
            f"{settings.name}`, with the overlay and settings that it had, starts one on the same folder"
        )
    return _follow(cluster, job, console) if settings.follow else ({"job": name}, EXIT_DONE)


def list_runs(settings: ClusterSettings, console: Console) -> Answer:
    """Lists all runs of a namespace."""
    cluster = _cluster(settings, rights.LIST)
    found, now = _find_jobs(cluster), dt.datetime.now(dt.UTC)
    if not found:
        _check_namespace_exists(cluster)
        console.line(f"no run in namespace {cluster.namespace}; `boceto submit run` starts one")
        return {"runs": []}, EXIT_DONE
    entries = [
        {
            "run": jobs.run_of(job),
            "program": jobs.program_of(job),
            "state": jobs.state(job),
            "age": jobs.age(job["metadata"]["creationTimestamp"], now),
            "progress": jobs.annotation(job, jobs.PROGRESS_NOTE),
        }
        for job in found
    ]
    console.line(table(list(entries[0]), [list(entry.values()) for entry in entries], left=5))
    return {"runs": entries}, EXIT_DONE
