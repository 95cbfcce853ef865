"""What a Job, its pods and their events say, in words. No cluster is asked here."""

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from boceto.errors import EXIT_DATA, EXIT_DONE, EXIT_FAULT, EXIT_SETTINGS, EXIT_STOPPED
from k8s.render import PROGRAM, RUN, Object

CONTAINER = "boceto"
QUEUE = "kueue.x-k8s.io/queue-name"
PROGRESS = "boceto.dev/progress"
STOPPED = "boceto.dev/stopped"
BEFORE = "boceto.dev/attempts-before"
TOLD = "boceto.dev/ended"  # The trainer's own word of its last attempt.
SIGNALLED = 128
MOST_KEPT = 20
CODES = {
    EXIT_DONE: "done",
    EXIT_SETTINGS: "settings refused",
    EXIT_DATA: "data refused",
    EXIT_STOPPED: "stopped on request, saved",
}
DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted (Eviction API)",
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "evicted from a tainted node",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "ended by its node",
}
NO_OTHER_TRY = {
    "PodFailurePolicy": "another try would end the same",
    "BackoffLimitExceeded": "no try is left",
    "DeadlineExceeded": "its time is over",
}
IMAGE, IMAGE_REASONS = "image", ("ErrImagePull", "ImagePullBackOff")
OUT_OF_MEMORY = "out of memory"
DELETED = "its pod was deleted"
GONE = "its pod is gone: deleted, evicted, or lost with its node"
REMOVED = "its pod is gone since"
NOT_BEGUN = "stopped before it began"
RUNNING, PENDING = "running", "pending"  # Phases of a pod.
# How Kubernetes says for which pod and code a rule has failed a Job.
PUT_DOWN_TO = re.compile(r"for pod \S*?/(\S+) failed with exit code (\d+)")
COMPLETE, FAILED, STOPPING, SUSPENDED, ACTIVE = "complete", "failed", "stopped", "suspended", "active"


@dataclass(frozen=True)
class Attempt:
    """One pod of a Job. code: the exit code of its program, where it has ended and told one."""

    pod: str
    node: str = ""
    started: str = ""
    ended: str = ""
    code: int | None = None
    why: str = ""
    message: str = ""


TEXTS = tuple(field.name for field in fields(Attempt) if field.name != "code")


def condition(found: Object, kind: str) -> Mapping[str, Any] | None:
    """A condition of an object, where it is true."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def annotation(job: Object, name: str) -> str:
    """An annotation in one line, "" where there is none."""
    return " ".join(str(job["metadata"].get("annotations", {}).get(name, "")).split())


def run_of(job: Object) -> str:
    """The run that a Job is of."""
    return str(job["metadata"]["labels"].get(RUN, ""))


def program_of(job: Object) -> str:
    """The program that a Job runs."""
    return str(job["metadata"]["labels"].get(PROGRAM, ""))


def state(job: Object) -> str:
    """COMPLETE, FAILED, STOPPING (suspended by `boceto submit stop`), SUSPENDED (by whoever else) or ACTIVE."""
    if condition(job, "Complete"):
        return COMPLETE
    if condition(job, "Failed"):
        return FAILED
    if job["spec"].get("suspend"):
        return STOPPING if annotation(job, STOPPED) else SUSPENDED
    return ACTIVE


def why_failed(job: Object) -> str:
    """Why a Job has failed, in the API's words."""
    found = condition(job, "Failed") or {}
    return f"{found.get('reason', '')}: {found.get('message', '')}".strip(": ")


def how_failed(job: Object) -> str:
    """Why a Job that has failed is not tried again."""
    reason = (condition(job, "Failed") or {}).get("reason", "")
    return NO_OTHER_TRY.get(reason) or why_failed(job)


def attempt(pod: Object) -> Attempt:
    """What became of one pod, as far as it is known."""
    ended = _terminated(pod)
    return Attempt(
        pod=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName", ""),
        started=pod["status"].get("startTime", pod["metadata"]["creationTimestamp"]),
        ended=ended.get("finishedAt") or "",
        code=ended.get("exitCode"),
        why=_why(pod, ended),
        message=last_word(ended.get("message") or pod["status"].get("message", "")),
    )


def _terminated(pod: Object) -> Mapping[str, Any]:
    for status in pod["status"].get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            found: Mapping[str, Any] = status["state"].get("terminated") or {}
            return found
    return {}


def _why(pod: Object, ended: Mapping[str, Any]) -> str:
    disrupted = condition(pod, "DisruptionTarget")
    code = ended.get("exitCode")
    parts = []
    if disrupted:
        parts.append(DISRUPTIONS.get(disrupted["reason"], disrupted["reason"]))
    elif pod["status"].get("reason"):
        parts.append(pod["status"]["reason"].lower())
    elif pod["metadata"].get("deletionTimestamp"):
        parts.append(DELETED)
    if ended.get("reason") == "OOMKilled":
        limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
        parts.append(f"{OUT_OF_MEMORY} (limit {limits.get('memory', 'none')})")
    elif code is not None:
        parts.append(in_words(code))
    return ", ".join(parts) or pod["status"].get("phase", "").lower()


def in_words(code: int) -> str:
    """What an exit code means."""
    if code in CODES:
        return CODES[code]
    return f"ended by signal {code - SIGNALLED}" if code > SIGNALLED else "fault"


def last_word(message: str) -> str:
    """The last line of a termination message: before it, where it was taken from the log, may be more."""
    return (message.strip().splitlines() or [""])[-1]


def result(message: str) -> dict[str, Any] | None:
    """A program's result, where its last word is one."""
    try:
        found = json.loads(message)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def attempts(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> list[Attempt]:
    """All pods that the Job had, oldest first: those that are there, those that were seen to go, and those of which
    only the event of their making is left.
    """
    known = {each.pod: each for each in (*_by_condition(job), *_by_program(job), *before(job))}
    for event in sorted(events, key=_time):
        if event["reason"] == "SuccessfulCreate" and event["involvedObject"].get("uid") == job["metadata"]["uid"]:
            name = event["message"].rpartition(" ")[2]
            known.setdefault(name, Attempt(name, started=_time(event), why=GONE))
    known |= {pod["metadata"]["name"]: attempt(pod) for pod in pods}
    found = sorted(known.values(), key=lambda each: each.started)
    if state(job) == COMPLETE and (not found or found[-1].code is None):
        found = [*found[:-1], _complete(job, found[-1] if found else Attempt("?"))]
    return found


def _complete(job: Object, last: Attempt) -> Attempt:
    """The attempt that a Job which is done has ended with, whose pod nobody saw end."""
    status = job["status"]
    started, ended = last.started or status.get("startTime", ""), status.get("completionTime", "")
    return replace(last, started=started, ended=ended, code=EXIT_DONE, why=f"{CODES[EXIT_DONE]}, {REMOVED}")


def _by_condition(job: Object) -> list[Attempt]:
    """The attempt that a Job has failed for, as its condition says."""
    found = condition(job, "Failed") or {}
    said = PUT_DOWN_TO.search(found.get("message", ""))
    if not said:
        return []
    code, ended = int(said[2]), found.get("lastTransitionTime", "")
    return [Attempt(said[1], started=ended, ended=ended, code=code, why=f"{in_words(code)}, {REMOVED}")]


def _by_program(job: Object) -> list[Attempt]:
    """The attempt whose end the program wrote on its Job."""
    found = result(job["metadata"].get("annotations", {}).get(TOLD, "")) or {}
    kept = _kept(found)
    return [replace(kept, why=f"{in_words(kept.code)}, {REMOVED}")] if kept.pod and kept.code is not None else []


def before(job: Object) -> list[Attempt]:
    """The attempts that were written down because their pods are gone; what anybody else wrote there is none."""
    try:
        found = json.loads(job["metadata"].get("annotations", {}).get(BEFORE, "[]"))
    except ValueError:
        return []
    return [_kept(each) for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _kept(entry: Mapping[str, Any]) -> Attempt:
    code, texts = entry.get("code"), {name: str(entry.get(name, "")) for name in TEXTS}
    return Attempt(**texts, code=code if isinstance(code, int) else None)


def record(job: Object, ended: Sequence[Attempt]) -> dict[str, Any]:
    """What is worth to be known of a Job when it is gone."""
    return {
        "run": run_of(job),
        "program": program_of(job),
        "job": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "created": job["metadata"]["creationTimestamp"],
        "state": state(job),
        "why": why_failed(job),
        "attempts": [asdict(each) for each in ended[-MOST_KEPT:]],
    }


def written(ended: Sequence[Attempt]) -> str:
    """Attempts as an annotation, the last ones where there are many."""
    kept = [
        {key: value for key, value in asdict(each).items() if value not in {"", None}} for each in ended[-MOST_KEPT:]
    ]
    return json.dumps(kept)


def _time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def why_waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Why nothing runs, in the words of the cluster; "" where something does."""
    if state(job) == SUSPENDED:
        if queue_of(job):
            return f"suspended: it waits for its queue {queue_of(job)}"
        name = job["metadata"]["name"]
        return f'suspended: `kubectl patch job {name} -p \'{{"spec":{{"suspend":false}}}}\'` sets it going'
    living = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
    if any(pod["status"]["phase"] in ("Running", "Succeeded") for pod in pods):
        return ""
    if not living:
        return _said(job, events, ("FailedCreate",))
    pod = living[-1]
    return _why_pending(pod) or _said(pod, events, ("Failed", "FailedScheduling", "FailedMount")) or "the pod starts"


def queue_of(job: Object) -> str:
    """The queue of Kueue that a Job waits in, "" where it needs none."""
    return str(job["metadata"]["labels"].get(QUEUE, ""))


def kind_of_wait(why: str) -> str:
    """What two reasons to wait have in common where they are the same but for names and numbers."""
    reason, _, said = why.partition(":")
    return IMAGE if reason in IMAGE_REASONS else re.sub(r'"[^"]*"|\d+', "", f"{reason}:{said}")


def _why_pending(pod: Object) -> str:
    for status in pod["status"].get("containerStatuses") or []:
        waiting = status["state"].get("waiting") or {}
        if waiting.get("message"):
            return f"{waiting['reason']}: {waiting['message']}"
    for each in pod["status"].get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{each.get('reason', '')}: {each.get('message', '')}"
    return ""


def _said(about: Object, events: Sequence[Object], reasons: Sequence[str]) -> str:
    """What the newest event of these reasons says about an object."""
    mine = [
        event
        for event in events
        if event["involvedObject"].get("uid") == about["metadata"]["uid"] and event["reason"] in reasons
    ]
    newest = max(mine, key=_time, default=None)
    return f"{newest['reason']}: {newest['message']}" if newest else ""


def warnings(pods: Sequence[Object], ended: Sequence[Attempt]) -> dict[str, str]:
    """What a user should know of a Job that runs, by what it is about: its node, its memory."""
    found = {"node": _silent_node(pods), "memory": _twice_out_of_memory(ended)}
    return {about: text for about, text in found.items() if text}


def _silent_node(pods: Sequence[Object]) -> str:
    """Whether the node of a running pod is silent.

    Kubernetes takes a pod's readiness away 40 seconds after the last word of its node, and names no reason then; the
    node itself always names one.
    """
    for pod in pods:
        for each in pod["status"].get("conditions") or []:
            if (each["type"], each["status"]) == ("Ready", "False") and not each.get("reason"):
                if pod["status"].get("phase") != "Running":
                    continue
                node = pod["spec"].get("nodeName", "")
                return (
                    f"node {node} is silent since {each.get('lastTransitionTime', '?')}: nobody knows whether "
                    f"{pod['metadata']['name']} runs on. Kubernetes evicts it some minutes later, and another pod "
                    f"starts when the node is back or removed: see `kubectl describe node {node}`"
                )
    return ""


def _twice_out_of_memory(ended: Sequence[Attempt]) -> str:
    last = [each.why for each in ended if each.ended][-2:]
    if len(last) < 2 or not all(OUT_OF_MEMORY in why for why in last):  # noqa: PLR2004 - two in a row
        return ""
    limit = last[-1].rpartition("(limit ")[2].rstrip(")")
    return (
        f"out of memory twice in a row, limit {limit}: the next try needs more. Raise memory in `limits` and "
        "`requests` of the Job, by a patch in your overlay like that of k8s/components/small, or lower the program's "
        "batch_size or workers by `--set`; then `boceto submit run` with `--replace`"
    )


def exit_code(job: Object, ended: Sequence[Attempt]) -> int:
    """The Job's exit code: that of its last attempt that told one; stopped on request is 75."""
    if state(job) == COMPLETE:
        return EXIT_DONE
    if state(job) == STOPPING:
        return EXIT_STOPPED
    codes = [each.code for each in ended if each.code]
    return codes[-1] if codes else EXIT_FAULT


def age(since: str, now: dt.datetime) -> str:
    """How long ago a time of the API was: `12s`, `5m`, `3h`, `2d`."""
    seconds = max(0, int((now - dt.datetime.fromisoformat(since)).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
