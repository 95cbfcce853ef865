"""Reads a Job, its pods and their events, and puts them in words. No cluster is asked here."""

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
# Annotations of a Job: the first and the last are the trainer's, the others are ours.
PROGRESS_NOTE = "boceto.dev/progress"
STOP_NOTE = "boceto.dev/stopped"
ATTEMPTS_NOTE = "boceto.dev/attempts-before"
END_NOTE = "boceto.dev/ended"
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
# Kubernetes writes so for which pod and code a rule has failed a Job.
FAILED_FOR = re.compile(r"for pod \S*?/(\S+) failed with exit code (\d+)")
COMPLETE, FAILED, STOPPED, SUSPENDED, ACTIVE = "complete", "failed", "stopped", "suspended", "active"


@dataclass(frozen=True)
class Attempt:
    """One pod of a Job. code: the exit code of its program, where it has ended with one."""

    pod: str
    node: str = ""
    started: str = ""
    ended: str = ""
    code: int | None = None
    why: str = ""
    message: str = ""

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "Attempt":
        """Reads an attempt that was written as JSON, perhaps by hand."""
        texts = {field.name: str(entry.get(field.name, "")) for field in fields(cls) if field.name != "code"}
        return cls(**texts, code=entry["code"] if isinstance(entry.get("code"), int) else None)


def condition(found: Object, kind: str) -> Mapping[str, Any]:
    """Returns a condition of an object; empty where it is not true."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), {})


def annotation(job: Object, name: str) -> str:
    """Returns an annotation in one line, "" where there is none."""
    return " ".join(str(job["metadata"].get("annotations", {}).get(name, "")).split())


def run_of(job: Object) -> str:
    """Returns the name of a Job's run."""
    return str(job["metadata"]["labels"].get(RUN, ""))


def program_of(job: Object) -> str:
    """Returns the program that a Job runs."""
    return str(job["metadata"]["labels"].get(PROGRAM, ""))


def queue_of(job: Object) -> str:
    """Returns the queue of Kueue that a Job waits in, "" where it needs none."""
    return str(job["metadata"]["labels"].get(QUEUE, ""))


def state(job: Object) -> str:
    """Returns COMPLETE, FAILED, STOPPED (by `boceto submit stop`), SUSPENDED (by somebody else) or ACTIVE."""
    if condition(job, "Complete"):
        return COMPLETE
    if condition(job, "Failed"):
        return FAILED
    if job["spec"].get("suspend"):
        return STOPPED if annotation(job, STOP_NOTE) else SUSPENDED
    return ACTIVE


def why_failed(job: Object) -> str:
    """Returns why a Job has failed, in the API's words."""
    found = condition(job, "Failed")
    return f"{found.get('reason', '')}: {found.get('message', '')}".strip(": ")


def how_failed(job: Object) -> str:
    """Returns why a Job that has failed is not tried again."""
    return NO_OTHER_TRY.get(condition(job, "Failed").get("reason", "")) or why_failed(job)


def attempt(pod: Object) -> Attempt:
    """Returns the attempt of one pod."""
    statuses = pod["status"].get("containerStatuses") or []
    ended = next((each["state"].get("terminated") or {} for each in statuses if each["name"] == CONTAINER), {})
    return Attempt(
        pod=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName", ""),
        started=pod["status"].get("startTime", pod["metadata"]["creationTimestamp"]),
        ended=ended.get("finishedAt") or "",
        code=ended.get("exitCode"),
        why=_why_ended(pod, ended),
        message=last_line(ended.get("message") or pod["status"].get("message", "")),
    )


def _why_ended(pod: Object, ended: Mapping[str, Any]) -> str:
    parts = []
    if disrupted := condition(pod, "DisruptionTarget"):
        parts.append(DISRUPTIONS.get(disrupted["reason"], disrupted["reason"]))
    elif pod["status"].get("reason"):
        parts.append(pod["status"]["reason"].lower())
    elif pod["metadata"].get("deletionTimestamp"):
        parts.append(DELETED)
    if ended.get("reason") == "OOMKilled":
        limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
        parts.append(f"{OUT_OF_MEMORY} (limit {limits.get('memory', 'none')})")
    elif "exitCode" in ended:
        parts.append(in_words(ended["exitCode"]))
    return ", ".join(parts) or pod["status"].get("phase", "").lower()


def in_words(code: int) -> str:
    """Returns the meaning of an exit code."""
    return CODES.get(code) or (f"ended by signal {code - SIGNALLED}" if code > SIGNALLED else "fault")


def last_line(message: str) -> str:
    """Returns the last line of a termination message, which may hold the end of the log."""
    return (message.strip().splitlines() or [""])[-1]


def result(message: str) -> dict[str, Any]:
    """Returns a program's result, where its message is one; else an empty one."""
    found = _from_json(message)
    return found if isinstance(found, dict) else {}


def _from_json(text: str) -> Any:
    """Returns the value of a text that anybody may have written; None where it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def attempts(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> list[Attempt]:
    """Returns all attempts of a Job, oldest first.

    Their sources: the pods that exist, the annotations and the condition of the Job, and the events of pods' making.
    """
    known = {each.pod: each for each in (*_from_condition(job), *_from_program(job), *written_before(job))}
    for event in sorted(events, key=_time):
        if event["reason"] == "SuccessfulCreate" and event["involvedObject"].get("uid") == job["metadata"]["uid"]:
            name = event["message"].rpartition(" ")[2]
            known.setdefault(name, Attempt(name, started=_time(event), why=GONE))
    known |= {pod["metadata"]["name"]: attempt(pod) for pod in pods}
    found = sorted(known.values(), key=lambda each: each.started)
    if state(job) == COMPLETE and (not found or found[-1].code is None):  # Nobody saw the last pod end.
        last, status = found.pop() if found else Attempt("?"), job["status"]
        started, ended = last.started or status.get("startTime", ""), status.get("completionTime", "")
        why = f"{CODES[EXIT_DONE]}, {REMOVED}"
        found.append(replace(last, started=started, ended=ended, code=EXIT_DONE, why=why))
    return found


def _from_condition(job: Object) -> list[Attempt]:
    """Returns the attempt for which a Job has failed, as its condition says."""
    found = condition(job, "Failed")
    match = FAILED_FOR.search(found.get("message", ""))
    if not match:
        return []
    code, ended = int(match[2]), found.get("lastTransitionTime", "")
    return [Attempt(match[1], started=ended, ended=ended, code=code, why=f"{in_words(code)}, {REMOVED}")]


def _from_program(job: Object) -> list[Attempt]:
    """Returns the attempt whose end the program wrote on its Job."""
    kept = Attempt.read(result(job["metadata"].get("annotations", {}).get(END_NOTE, "")))
    return [replace(kept, why=f"{in_words(kept.code)}, {REMOVED}")] if kept.pod and kept.code is not None else []


def written_before(job: Object) -> list[Attempt]:
    """Returns the attempts that a follower wrote on the Job; none where the annotation holds something else."""
    found = _from_json(job["metadata"].get("annotations", {}).get(ATTEMPTS_NOTE, "[]"))
    return [Attempt.read(each) for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def written(ended: Sequence[Attempt]) -> str:
    """Writes the last attempts as an annotation."""
    kept = [asdict(each) for each in ended[-MOST_KEPT:]]
    return json.dumps([{key: value for key, value in each.items() if value not in {"", None}} for each in kept])


def record(job: Object, ended: Sequence[Attempt]) -> dict[str, Any]:
    """Returns a record of a Job for the time when the Job is gone."""
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


def _time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def why_waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Returns why no pod of a Job runs, in the words of the cluster; "" where one runs."""
    if state(job) == SUSPENDED:
        if queue_of(job):
            return f"suspended: it waits for its queue {queue_of(job)}"
        name = job["metadata"]["name"]
        return f'suspended: `kubectl patch job {name} -p \'{{"spec":{{"suspend":false}}}}\'` starts it'
    if any(pod["status"]["phase"] in ("Running", "Succeeded") for pod in pods):
        return ""
    pending = [pod for pod in pods if pod["status"]["phase"] == "Pending"]
    if not pending:
        return _newest(job, events, ("FailedCreate",))
    pod = pending[-1]
    return _why_pending(pod) or _newest(pod, events, ("Failed", "FailedScheduling", "FailedMount")) or "the pod starts"


def _why_pending(pod: Object) -> str:
    found = [each["state"].get("waiting") or {} for each in pod["status"].get("containerStatuses") or []]
    conditions = pod["status"].get("conditions") or []
    found += [each for each in conditions if (each["type"], each["status"]) == ("PodScheduled", "False")]
    return next((f"{each.get('reason', '')}: {each['message']}" for each in found if each.get("message")), "")


def _newest(about: Object, events: Sequence[Object], reasons: Sequence[str]) -> str:
    """Returns the newest event of an object that has one of these reasons, in words."""
    uid = about["metadata"]["uid"]
    mine = [each for each in events if each["involvedObject"].get("uid") == uid and each["reason"] in reasons]
    newest = max(mine, key=_time, default=None)
    return f"{newest['reason']}: {newest['message']}" if newest else ""


def kind_of_wait(why: str) -> str:
    """Returns a reason to wait without names and numbers, so that two looks at the same problem compare equal."""
    reason, _, text = why.partition(":")
    return IMAGE if reason in IMAGE_REASONS else re.sub(r'"[^"]*"|\d+', "", f"{reason}:{text}")


def warnings(pods: Sequence[Object], ended: Sequence[Attempt]) -> dict[str, str]:
    """Returns the warnings about a Job that runs, by their subject: its node, its memory."""
    found = {"node": _silent_node(pods), "memory": _twice_out_of_memory(ended)}
    return {about: text for about, text in found.items() if text}


def _silent_node(pods: Sequence[Object]) -> str:
    """Returns a warning where the node of a running pod is silent.

    Kubernetes sets a pod to not ready 40 seconds after the last sign of its node, and gives no reason then; the node
    itself always gives one.
    """
    for pod in pods:
        for each in pod["status"].get("conditions") or []:
            not_ready = (each["type"], each["status"]) == ("Ready", "False") and not each.get("reason")
            if not_ready and pod["status"].get("phase") == "Running":
                node = pod["spec"].get("nodeName", "")
                return (
                    f"node {node} is silent since {each.get('lastTransitionTime', '?')}, and whether "
                    f"{pod['metadata']['name']} still runs is unknown. Kubernetes evicts it some minutes later, and "
                    f"another pod starts when the node is back or removed: see `kubectl describe node {node}`"
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
    """Returns the Job's exit code: that of the last attempt that had one other than 0; of a stopped Job 75."""
    if state(job) == COMPLETE:
        return EXIT_DONE
    if state(job) == STOPPED:
        return EXIT_STOPPED
    codes = [each.code for each in ended if each.code]
    return codes[-1] if codes else EXIT_FAULT


def age(since: str, now: dt.datetime) -> str:
    """Returns the time since a time of the API: `12s`, `5m`, `3h`, `2d`."""
    seconds = max(0, int((now - dt.datetime.fromisoformat(since)).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
