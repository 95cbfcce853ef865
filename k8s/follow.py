"""Follows a Job: why it waits, what its program says, how far it is, how it ends."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from boceto.console import Console
from boceto.errors import BocetoError, SettingsError
from k8s import jobs
from k8s.api import Cluster, Missing, Unknown, Unreachable
from k8s.jobs import Attempt
from k8s.render import MANAGED, MANAGER, RUN, Object

POLL = 1.0  # Seconds between looks.
HASTE = 0.2  # Where a pod is about to go, with what it says at its end.
PATIENCE = 120.0  # Seconds without an answer of the cluster.
MOST_OF_A_LINE = 2000  # Characters, of what is kept of a pod.
STEPS = re.compile(r"\bstep (\d+)/(\d+)\b")
RECORD, RECORD_KEY = "boceto.dev/record", "record.json"
KUEUE = "kueue.x-k8s.io/"  # In the version that the cluster prefers.
ENDED = (jobs.COMPLETE, jobs.FAILED)


@dataclass(frozen=True)
class Outcome:
    """How a Job ended. heard: whether what its program said last was shown with its log."""

    job: Object
    attempts: Sequence[Attempt]
    code: int
    heard: bool = False

    @property
    def message(self) -> str:
        """What its program said last."""
        return self.attempts[-1].message if self.attempts else ""


class Removed(BocetoError):  # noqa: N818 - it says what happened
    """The Job is gone, by another's doing: a fault, and none of the settings."""


class Follower:
    """Looks at one Job time and again, and tells what is new."""

    def __init__(self, cluster: Cluster, name: str, console: Console) -> None:
        self._cluster = cluster
        self._name = name
        self._console = console
        self._said: dict[str, str] = {}
        self._read: dict[str, str] = {}
        self._seen: dict[str, Attempt] = {}
        self._ends: set[str] = set()
        self._last_line: dict[str, str] = {}

    def until(self, enough: Callable[[Object, Sequence[Object]], bool]) -> Outcome:
        """Looks until `enough` says so of the Job and its pods.

        Raises:
            Removed: the Job is not there any more.
            SettingsError: the cluster does not answer.
        """
        answered = time.monotonic()
        while True:
            try:
                job, pods = self._look()
                if enough(job, pods):
                    return self._outcome(job, pods)
                answered = time.monotonic()
                if self._said.pop("cluster", ""):
                    self._console.line("the cluster answers again")
            except Missing as error:
                raise Removed(
                    f"{self._name} was removed while it was followed; what it had saved is in its run's folder, and "
                    "`boceto submit run` with the same words goes on from there"
                ) from error
            except Unreachable as error:
                if time.monotonic() - answered > PATIENCE:
                    raise
                self._say("cluster", f"{error}; what runs goes on, and it is asked again", key="silent")
            time.sleep(HASTE if any(each.why.startswith(jobs.DELETED) for each in self._seen.values()) else POLL)

    def _look(self) -> tuple[Object, Sequence[Object]]:
        job = self._cluster.get("batch/v1", "Job", self._name)
        pods = pods_of(self._cluster, job)
        for pod in pods:
            self._tell(pod, stopping=jobs.state(job) == jobs.STOPPING)
        self._write_down(job, pods)
        if jobs.state(job) not in ENDED:
            why = why_waiting(self._cluster, job, pods, events_of(self._cluster))
            if why:
                self._say("waits", f"{self._name} waits: {why}", key=jobs.kind_of_wait(why))
        warnings = jobs.warnings(pods, jobs.attempts(job, pods, ()))
        for about, text in warnings.items():
            self._say(about, f"warning: {text}")
        if "node" not in warnings and self._said.pop("node", ""):
            self._console.line("its node is heard of again, or its pod is gone")
        progress = jobs.annotation(job, jobs.PROGRESS)
        if progress and self._said.get("progress") != progress:
            self._said["progress"] = progress
            self._console.progress(*steps(progress))
        return job, pods

    def _say(self, what: str, text: str, key: str = "") -> None:
        """Says something once, until there is something else to say of the same. key: what tells it apart."""
        if self._said.get(what) != (key or text):
            self._said[what] = key or text
            self._console.line(text)

    def _tell(self, pod: Object, *, stopping: bool) -> None:
        """What a pod's program has said since the last look, and how it ended."""
        name = pod["metadata"]["name"]
        if pod["status"].get("phase") == "Pending" or name in self._ends:
            return
        try:
            lines = self._cluster.log(name, jobs.CONTAINER, self._read.get(name, ""))
        except Unreachable:  # The next look tells it, end and all.
            return
        except SettingsError:  # The container has not begun, or is gone again.
            lines = []
        for when, line in lines:
            self._read[name], self._last_line[name] = when, line
            self._show(line)
        ended = jobs.attempt(pod)
        if ended.code:
            self._tell_end(_stopped(ended) if stopping else ended)

    def _show(self, line: str) -> None:
        text = of_json(line)
        if STEPS.search(text):
            self._console.progress(*steps(text))
        elif text:
            self._console.line(text)

    def _write_down(self, job: Object, pods: Sequence[Object]) -> None:
        """Keeps, in an annotation, what became of pods that have ended or are gone: the cluster forgets it."""
        there = {pod["metadata"]["name"]: jobs.attempt(pod) for pod in pods}
        kept = jobs.before(job)
        last = self._last_line
        gone = [_gone(seen, last.get(name, ""), job) for name, seen in self._seen.items() if name not in there]
        stopping, known = jobs.state(job) == jobs.STOPPING, {each.pod for each in kept}
        ended = [_stopped(each) if stopping else each for each in there.values() if each.ended]
        for each in (*gone, *(ended if stopping else ())):
            if each.pod not in known:
                self._tell_end(each)
        new = [each for each in (*gone, *ended) if each.pod not in known]
        if new:
            change = {"metadata": {"annotations": {jobs.BEFORE: jobs.written([*kept, *new])}}}
            self._write("what became of its pods", lambda: self._cluster.merge("batch/v1", "Job", self._name, change))
        self._seen = there

    def _tell_end(self, ended: Attempt) -> None:
        """Says once how a pod ended."""
        if ended.pod not in self._ends:
            self._ends.add(ended.pod)
            node = f" on {ended.node}" if ended.node else ""
            code = f" (exit code {ended.code})" if ended.code is not None else ""
            self._console.line(f"{ended.pod}{node}: {ended.why}{code}")

    def _write(self, what: str, write: Callable[[], object]) -> None:
        """Writes something to the cluster. A user who may not write follows the Job all the same."""
        try:
            write()
        except Unreachable:
            raise
        except SettingsError as error:
            self._say(what, f"warning: {what} is not written down: {error}")

    def _keep(self, job: Object, ended: Sequence[Attempt]) -> None:
        """Writes down how a Job has ended, for when it is gone: Kubernetes removes it a week later."""
        labels = {MANAGED: MANAGER, RUN: jobs.run_of(job), RECORD: jobs.program_of(job)}
        record = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{self._name}-record", "labels": labels},
            "data": {RECORD_KEY: json.dumps(jobs.record(job, ended))},
        }
        self._write("how it ended", lambda: self._cluster.apply(record))

    def _outcome(self, job: Object, pods: Sequence[Object]) -> Outcome:
        job = self._cluster.get("batch/v1", "Job", self._name)  # With what was just written down.
        every = jobs.attempts(job, pods, events_of(self._cluster))
        if jobs.state(job) in ENDED:
            self._keep(job, every)
        heard = bool(every) and of_json(self._last_line.get(every[-1].pod, "")) == every[-1].message
        return Outcome(job, every, jobs.exit_code(job, every), heard)


def _gone(seen: Attempt, line: str, job: Object) -> Attempt:
    """What is known of a pod that is not there any more, and said `line` last."""
    if seen.code is not None:
        return seen
    why = jobs.GONE if seen.why in (jobs.RUNNING, jobs.PENDING) else seen.why
    if seen.why == jobs.PENDING and jobs.state(job) == jobs.STOPPING:
        why = jobs.NOT_BEGUN
    return replace(seen, why=why, message=line[:MOST_OF_A_LINE])


def _stopped(ended: Attempt) -> Attempt:
    """Leaves out that the pod was deleted: the user has stopped the Job."""
    return replace(ended, why=ended.why.removeprefix(f"{jobs.DELETED}, "))


def to_the_end(job: Object, pods: Sequence[Object]) -> bool:
    """Whether a Job has ended, or was stopped and nothing of it runs any more."""
    return jobs.state(job) in ENDED or (jobs.state(job) == jobs.STOPPING and not _living(pods))


def _living(pods: Sequence[Object]) -> bool:
    return any(pod["status"].get("phase") in ("Pending", "Running") for pod in pods)


def pods_of(cluster: Cluster, job: Object) -> Sequence[Object]:
    """A Job's pods, oldest first."""
    labels = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
    return sorted(cluster.list("v1", "Pod", labels=labels), key=lambda pod: pod["metadata"]["creationTimestamp"])


def events_of(cluster: Cluster) -> Sequence[Object]:
    """The namespace's events; none where they may not be read."""
    return cluster.list_readable("v1", "Event")


def why_waiting(cluster: Cluster, job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Why nothing runs, "" where something does; of a Job in a queue, what the queue says."""
    why = jobs.why_waiting(job, pods, events)
    queue = jobs.queue_of(job)
    if jobs.state(job) != jobs.SUSPENDED or not queue:
        return why
    try:
        cluster.get(KUEUE, "LocalQueue", queue)
        found = cluster.list(KUEUE, "Workload")
    except Unknown:
        return f"suspended: it waits for its queue {queue}, and the cluster has no Kueue, which would start it"
    except Missing:
        return f"suspended: its queue {queue} does not exist; whoever runs Kueue here makes a LocalQueue {queue}"
    except Unreachable:
        raise
    except SettingsError:  # It may not be read.
        return why
    owned = [each for each in found if job["metadata"]["uid"] in str(each["metadata"].get("ownerReferences", ""))]
    conditions = [each for one in owned for each in one.get("status", {}).get("conditions") or []]
    said = [each["message"] for each in conditions if each["type"] == "QuotaReserved" and each["status"] == "False"]
    return f"{why}: {said[-1]}" if said else why


def of_json(line: str) -> str:
    """A line of a log as people read it, where it is JSON."""
    found = jobs.result(line)
    if not found or "message" not in found:
        return line
    text = f"warning: {found['message']}" if found.get("level") == "warning" else str(found["message"])
    if text != "progress":
        return text
    fields = [each for each in found.items() if each[0] not in {"time", "level", "message", "step", "steps"}]
    words = [f"step {found.get('step')}/{found.get('steps')}"]
    words += [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields]
    return ", ".join(words)


def steps(text: str) -> tuple[str, int, int, str] | tuple[str]:
    """Returns what `Console.progress` shows of `epoch 3/30, step 1170/4680, …`."""
    found = STEPS.search(text)
    return (text, int(found[1]), int(found[2]), "steps") if found else (text,)


def end_of(outcome: Outcome) -> str:
    """How a Job ended, in one line."""
    name, said = outcome.job["metadata"]["name"], "" if outcome.heard else outcome.message
    if jobs.state(outcome.job) == jobs.FAILED:
        return f"{name} failed, {jobs.how_failed(outcome.job)}" + (f": {said}" if said else "")
    if jobs.state(outcome.job) == jobs.STOPPING:
        return f"{name} is stopped: {outcome.message or jobs.annotation(outcome.job, jobs.STOPPED)}"
    return f"{name} is done"


def result_lines(outcome: Outcome) -> str:
    """A program's result for people: a line a value."""
    found = {name: value for name, value in (jobs.result(outcome.message) or {}).items() if value not in (None, {})}
    width = max(map(len, found), default=0)
    return "\n".join(f"  {name.replace('_', ' '):{width}}  {_shown(value)}" for name, value in found.items())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"  # noqa: PLR2004 - speeds, and scores
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
