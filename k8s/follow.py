"""Follows a Job: reports why it waits, shows its program's log and progress, and how it ends."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from boceto.console import Console
from boceto.errors import BocetoError, SettingsError
from k8s import jobs
from k8s.api import Cluster, Missing, UnknownKind, Unreachable
from k8s.jobs import Attempt
from k8s.render import MANAGED, MANAGER, RUN, Object

POLL = 1.0  # Seconds between looks.
HASTE = 0.2  # The same where a pod is being deleted: its last words are gone with it.
PATIENCE = 120.0  # Seconds without an answer of the cluster.
LONGEST_LINE = 2000  # Characters of a log's last line that are kept.
STEPS = re.compile(r"\bstep (\d+)/(\d+)\b")
# A plain progress line of `boceto.console`, as `7/126 steps, 1.5 steps/s, 01:19 left: epoch 1/3`.
PLAIN = re.compile(r"([\d,.]+)/([\d,.]+) (\w+)(?:, \S+ \w+/s, [\d:]+ left)?(?:: (.*))?")
Shown = tuple[str, float, float, str]
RECORD, RECORD_KEY = "boceto.dev/record", "record.json"
KUEUE = "kueue.x-k8s.io/"  # In the version that the cluster prefers.
ENDED = (jobs.COMPLETE, jobs.FAILED)


@dataclass(frozen=True)
class Outcome:
    """The end of a Job. shown: whether the log has shown the program's last message already."""

    job: Object
    attempts: Sequence[Attempt]
    code: int
    shown: bool = False

    @property
    def message(self) -> str:
        """The program's last message."""
        return self.attempts[-1].message if self.attempts else ""


class Removed(BocetoError):  # noqa: N818 - as in boceto.storage
    """Somebody removed the Job: a fault, and no error of the settings."""


class Follower:
    """Looks at one Job again and again, and reports what is new."""

    def __init__(self, cluster: Cluster, name: str, console: Console) -> None:
        self._cluster = cluster
        self._name = name
        self._console = console
        self._reported: dict[str, str] = {}  # The last report about each subject.
        self._lines: dict[str, tuple[str, str]] = {}  # Time and text of each pod's last line.
        self._seen: dict[str, Attempt] = {}  # The pods at the last look.
        self._ends: set[str] = set()  # The pods whose end is reported.

    def until(self, enough: Callable[[Object, Sequence[Object]], bool]) -> Outcome:
        """Looks until `enough` returns True for the Job and its pods.

        Raises:
            Removed: the Job does not exist any more.
            SettingsError: the cluster does not answer.
        """
        answered = time.monotonic()
        while True:
            try:
                job, pods = self._look()
                if enough(job, pods):
                    return self._outcome(pods)
                answered = time.monotonic()
                if self._reported.pop("cluster", ""):
                    self._console.line("the cluster answers again")
            except Missing as error:
                raise Removed(
                    f"{self._name} was removed while it was followed; its checkpoints are in its run's folder, and "
                    "`boceto submit run` with the same words goes on from there"
                ) from error
            except Unreachable as error:
                if time.monotonic() - answered > PATIENCE:
                    raise
                self._report("cluster", f"{error}; the Job goes on, and the cluster is asked again", key="silent")
            time.sleep(HASTE if any(each.why.startswith(jobs.DELETED) for each in self._seen.values()) else POLL)

    def _look(self) -> tuple[Object, Sequence[Object]]:
        job = self._cluster.get("batch/v1", "Job", self._name)
        pods = pods_of(self._cluster, job)
        for pod in pods:
            self._read_log(pod, stopping=jobs.state(job) == jobs.STOPPED)
        self._write_attempts(job, pods)
        if jobs.state(job) not in ENDED:
            why = why_waiting(self._cluster, job, pods, events_of(self._cluster))
            if why:
                self._report("wait", f"{self._name} waits: {why}", key=jobs.kind_of_wait(why))
        warnings = jobs.warnings(pods, jobs.attempts(job, pods, ()))
        for about, text in warnings.items():
            self._report(about, f"warning: {text}")
        if "node" not in warnings and self._reported.pop("node", ""):
            self._console.line("its node answers again, or its pod is gone")
        progress = jobs.annotation(job, jobs.PROGRESS_NOTE)
        if progress != self._reported.get("progress", ""):
            self._reported["progress"] = progress
            self._console.progress(*(amounts(progress) or (progress,)))
        return job, pods

    def _report(self, about: str, text: str, key: str = "") -> None:
        """Prints a text once, until there is another about the same subject. key: stands for the text there."""
        if self._reported.get(about) != (key or text):
            self._reported[about] = key or text
            self._console.line(text)

    def _read_log(self, pod: Object, *, stopping: bool) -> None:
        """Shows the new lines of a pod's log, and how the pod ended."""
        name = pod["metadata"]["name"]
        if pod["status"].get("phase") == "Pending" or name in self._ends:
            return
        try:
            lines = self._cluster.log(name, jobs.CONTAINER, self._lines.get(name, ("", ""))[0])
        except Unreachable:  # The next look shows everything, the end too.
            return
        except SettingsError:  # The container has not begun, or is gone.
            lines = []
        for when, line in lines:
            self._lines[name] = when, line
            text = of_json(line)
            if progress := amounts(text):
                self._console.progress(*progress)
            elif text:
                self._console.line(text)
        ended = jobs.attempt(pod)
        if ended.code:
            self._report_end(_asked_for(ended) if stopping else ended)

    def _write_attempts(self, job: Object, pods: Sequence[Object]) -> None:
        """Writes an annotation about pods that have ended or are gone, because the cluster forgets them."""
        stopping, kept = jobs.state(job) == jobs.STOPPED, jobs.written_before(job)
        known, there = {each.pod for each in kept}, {pod["metadata"]["name"]: jobs.attempt(pod) for pod in pods}
        gone = [self._gone(seen, stopping=stopping) for name, seen in self._seen.items() if name not in there]
        ended = [_asked_for(each) if stopping else each for each in there.values() if each.ended]
        for each in (*gone, *(ended if stopping else ())):
            if each.pod not in known:
                self._report_end(each)
        new = [each for each in (*gone, *ended) if each.pod not in known]
        if new:
            change = {"metadata": {"annotations": {jobs.ATTEMPTS_NOTE: jobs.written([*kept, *new])}}}
            self._write("the end of its pods", lambda: self._cluster.merge(job, change))
        self._seen = there

    def _gone(self, seen: Attempt, *, stopping: bool) -> Attempt:
        """Returns the attempt of a pod that was seen and is gone."""
        if seen.code is not None:
            return seen
        why = jobs.GONE if seen.why in (jobs.RUNNING, jobs.PENDING) else seen.why
        if seen.why == jobs.PENDING and stopping:
            why = jobs.NOT_BEGUN
        return replace(seen, why=why, message=self._lines.get(seen.pod, ("", ""))[1][:LONGEST_LINE])

    def _report_end(self, ended: Attempt) -> None:
        """Reports once how a pod ended."""
        if ended.pod not in self._ends:
            self._ends.add(ended.pod)
            node = f" on {ended.node}" if ended.node else ""
            code = f" (exit code {ended.code})" if ended.code is not None else ""
            self._console.line(f"{ended.pod}{node}: {ended.why}{code}")

    def _write(self, subject: str, write: Callable[[], object]) -> None:
        """Writes something to the cluster. A user who may not write follows the Job all the same."""
        try:
            write()
        except Unreachable:
            raise
        except SettingsError as error:
            self._report(subject, f"warning: {subject} is not written down: {error}")

    def _outcome(self, pods: Sequence[Object]) -> Outcome:
        job = self._cluster.get("batch/v1", "Job", self._name)  # With the annotations of this look.
        every = jobs.attempts(job, pods, events_of(self._cluster))
        if jobs.state(job) in ENDED:  # Kubernetes removes the Job a week later.
            labels = {MANAGED: MANAGER, RUN: jobs.run_of(job), RECORD: jobs.program_of(job)}
            record = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"{self._name}-record", "labels": labels},
                "data": {RECORD_KEY: json.dumps(jobs.record(job, every))},
            }
            self._write("its end", lambda: self._cluster.apply(record))
        last = self._lines.get(every[-1].pod, ("", ""))[1] if every else ""
        shown = bool(every) and of_json(last) == every[-1].message
        return Outcome(job, every, jobs.exit_code(job, every), shown)


def _asked_for(ended: Attempt) -> Attempt:
    """Leaves out that the pod was deleted: the user has stopped the Job."""
    return replace(ended, why=ended.why.removeprefix(f"{jobs.DELETED}, "))


def to_the_end(job: Object, pods: Sequence[Object]) -> bool:
    """Returns whether a Job has ended, or was stopped and has no pod that runs."""
    running = any(pod["status"].get("phase") in ("Pending", "Running") for pod in pods)
    return jobs.state(job) in ENDED or (jobs.state(job) == jobs.STOPPED and not running)


def pods_of(cluster: Cluster, job: Object) -> Sequence[Object]:
    """Reads a Job's pods, oldest first."""
    labels = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
    return sorted(cluster.list("v1", "Pod", labels=labels), key=lambda pod: pod["metadata"]["creationTimestamp"])


def events_of(cluster: Cluster) -> Sequence[Object]:
    """Reads the namespace's events; none where the user may not read them."""
    return cluster.list_readable("v1", "Event")


def why_waiting(cluster: Cluster, job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Returns why no pod of a Job runs, "" where one runs; for a Job in a queue, the queue's own reason."""
    why, queue = jobs.why_waiting(job, pods, events), jobs.queue_of(job)
    if jobs.state(job) != jobs.SUSPENDED or not queue:
        return why
    try:
        cluster.get(KUEUE, "LocalQueue", queue)
        found = cluster.list(KUEUE, "Workload")
    except UnknownKind:
        return f"suspended: it waits for its queue {queue}, and the cluster has no Kueue, which would start it"
    except Missing:
        return f"suspended: its queue {queue} does not exist; ask the administrator of Kueue for a LocalQueue {queue}"
    except Unreachable:
        raise
    except SettingsError:  # The user may not read it.
        return why
    owned = [each for each in found if job["metadata"]["uid"] in str(each["metadata"].get("ownerReferences", ""))]
    conditions = [each for one in owned for each in one.get("status", {}).get("conditions") or []]
    reasons = [each["message"] for each in conditions if (each["type"], each["status"]) == ("QuotaReserved", "False")]
    return f"{why}: {reasons[-1]}" if reasons else why


def of_json(line: str) -> str:
    """Returns a line of a log for people, where it is JSON."""
    found = jobs.result(line)
    if "message" not in found:
        return line
    if found["message"] != "progress":
        return f"{'warning: ' if found.get('level') == 'warning' else ''}{found['message']}"
    fields = [each for each in found.items() if each[0] not in {"time", "level", "message", "step", "steps"}]
    words = [f"step {found.get('step')}/{found.get('steps')}"]
    words += [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields]
    return ", ".join(words)


def amounts(text: str) -> Shown | None:
    """Returns the arguments of `Console.progress` for a program's progress line; None where a line is no progress."""
    if found := PLAIN.fullmatch(text):
        texts = [found[group].replace(",", "") for group in (1, 2)]
        done, total = (float(text) if "." in text else int(text) for text in texts)
        return found[4] or "", done, total, found[3]
    found = STEPS.search(text)  # As in `epoch 3/30, step 1170/4680, …`.
    return (text, int(found[1]), int(found[2]), "steps") if found else None
