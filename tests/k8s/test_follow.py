"""What whoever follows a Job is told, while pods come and go on an API server without controllers."""

import json

import pytest

from boceto.console import Console
from k8s import follow, jobs
from k8s.api import Cluster
from k8s.follow import Follower

NAME = "first-train"
JOB = f"/apis/batch/v1/namespaces/here/jobs/{NAME}"
POD = f"/api/v1/namespaces/here/pods/{NAME}-abcde"
STAMP = "2026-01-02T03:04:05.5Z"


@pytest.fixture
def cluster(api):
    metadata = {"name": NAME, "uid": "u", "labels": {}, "annotations": {}}
    api.put(JOB, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}, "status": {}})
    return Cluster("", "")


def put_pod(api, phase, terminated=None, **metadata):
    labels = {"batch.kubernetes.io/controller-uid": "u"}
    containers = [{"name": "boceto", "state": {"terminated": terminated}}] if terminated else []
    metadata = {"name": f"{NAME}-abcde", "labels": labels, **metadata}
    status = {"phase": phase, "containerStatuses": containers}
    spec = {"nodeName": "one", "containers": [{}]}
    api.put(POD, {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status})


def follow_through(cluster, *changes):
    """Follows the Job, with a change of the world after each look."""
    left = iter(changes)

    def enough(*_):
        for change in left:
            change()
            return False
        return True

    follow.POLL, before = 0.0, follow.POLL
    try:
        return Follower(cluster, NAME, Console()).until(enough)
    finally:
        follow.POLL = before


def kept(api):
    return jobs.written_before(api.objects[JOB])


def test_what_a_stop_ended_is_kept_when_its_pod_is_gone(api, cluster, capsys):
    put_pod(api, "Running")
    ended = {"exitCode": 75, "finishedAt": STAMP, "message": "stopped after step 7 of 9, saved"}

    def stop():
        api.objects[JOB]["metadata"]["annotations"][jobs.STOP_NOTE] = "asked to stop"
        api.objects[JOB]["spec"]["suspend"] = True
        put_pod(api, "Failed", ended, deletionTimestamp=STAMP)

    follow_through(cluster, stop)
    (attempt,) = kept(api)
    assert (attempt.why, attempt.code) == ("stopped on request, saved", 75)
    assert (attempt.node, attempt.ended, attempt.message) == ("one", STAMP, ended["message"])
    assert "first-train-abcde on one: stopped on request, saved (exit code 75)\n" in capsys.readouterr().err


def test_a_pod_that_never_began_is_not_told_as_lost(api, cluster, capsys):
    put_pod(api, "Pending")
    api.objects[POD]["spec"] = {"containers": [{}]}

    def stop():
        api.objects[JOB]["metadata"]["annotations"][jobs.STOP_NOTE] = "asked to stop"
        api.objects[JOB]["spec"]["suspend"] = True
        del api.objects[POD]

    follow_through(cluster, stop)
    assert [each.why for each in kept(api)] == [jobs.NOT_BEGUN]
    assert "first-train-abcde: stopped before it began\n" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_no_line_of_a_log_is_lost(api, cluster, capsys, end):
    put_pod(api, "Running")
    first = f"{STAMP} 10 %{end}zz done\nunable to retrieve container logs for containerd://x\n".encode()
    second = first + b"2026-01-02T03:04:09Z important\n"
    api.logs[f"{NAME}-abcde"] = first
    follow_through(cluster, lambda: api.logs.update({f"{NAME}-abcde": second}), lambda: None)
    said = capsys.readouterr().err
    assert said.count("zz done") == said.count("important") == 1
    assert "retrieve container logs" not in said


def ready(api, status, reason=None):
    condition = {"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": STAMP}
    api.objects[POD]["status"]["conditions"] = [{key: value for key, value in condition.items() if value}]


def test_a_silent_node_is_told_once_and_that_it_is_back(api, cluster, capsys):
    put_pod(api, "Running")
    ready(api, "False", "ContainersNotReady")  # It begins.
    silent = lambda: ready(api, "False")  # noqa: E731 - as the others below
    follow_through(cluster, lambda: ready(api, "True"), silent, lambda: None, lambda: ready(api, "True"), lambda: None)
    said = capsys.readouterr().err.splitlines()
    (warning,) = [line for line in said if line.startswith("warning: node one is silent")]
    assert f"since {STAMP}" in warning
    assert said.index(warning) < said.index("its node answers again, or its pod is gone")


def test_the_same_memory_twice_names_the_limit_and_how_to_raise_it(api, cluster, capsys):
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": STAMP}

    def die(number):
        put_pod(api, "Failed", ended, name=f"{NAME}-{number}", creationTimestamp=f"2026-01-02T03:04:0{number}Z")
        pod = api.objects.pop(POD)
        pod["spec"]["containers"] = [{"resources": {"limits": {"memory": "2Gi"}}}]
        api.put(f"{POD.rpartition('/')[0]}/{NAME}-{number}", pod)

    follow_through(cluster, lambda: die(1), lambda: None)
    assert "twice" not in capsys.readouterr().err
    follow_through(cluster, lambda: die(2), lambda: None, lambda: None)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "twice in a row" in line]
    assert "limit 2Gi" in warning
    assert "Raise memory in `limits`" in warning


def test_a_node_may_have_its_own_zone(api, cluster, capsys):
    put_pod(api, "Running")
    first = b"2026-01-02T05:04:05.500000000+02:00 hello\n"
    second = first + b"2026-01-02T05:04:05.6+02:00 again\n"
    api.logs[f"{NAME}-abcde"] = first
    follow_through(cluster, lambda: api.logs.update({f"{NAME}-abcde": second}), lambda: None)
    said = capsys.readouterr().err
    assert said.count("hello") == said.count("again") == 1
    asked = [path for _, path, *_ in api.requests if "sinceTime" in path]
    assert asked
    assert all("sinceTime=2026-01-02T03%3A04%3A05Z" in path for path in asked)


def test_the_last_words_are_told_though_the_cluster_was_silent_for_a_moment(api, cluster, capsys):
    put_pod(api, "Running")

    def fail():
        put_pod(api, "Failed", {"exitCode": 1, "finishedAt": STAMP, "message": ""})
        api.logs[f"{NAME}-abcde"] = f"{STAMP} the reason\n".encode()
        api.refused = ("GET", "/log", 503, "not now")

    follow_through(cluster, fail, lambda: setattr(api, "refused", None), lambda: None)
    said = capsys.readouterr().err
    assert said.count("the reason") == said.count("first-train-abcde on one: fault (exit code 1)") == 1


def test_a_log_does_not_command_the_terminal(api, cluster, capsys):
    put_pod(api, "Running")
    api.logs[f"{NAME}-abcde"] = f"{STAMP} \x1b]0;title\x07 \x1b[2J well\n".encode()
    follow_through(cluster)
    said = capsys.readouterr().err
    assert "well" in said
    assert "\x1b" not in said


def test_who_may_only_read_follows_to_the_end(api, cluster, capsys):
    put_pod(api, "Running")
    api.read_only = True
    follow_through(cluster, lambda: api.objects.pop(POD), lambda: None)
    said = capsys.readouterr().err
    assert said.count("the end of its pods is not written down") == 1
    assert said.count(jobs.GONE) == 1


@pytest.mark.parametrize("text", ["x", '{"a": 1}', "[1]", "null", '[{"bogus": 1}]', '[{"code": "abc", "started": 5}]'])
def test_what_somebody_wrote_on_the_job_by_hand_does_no_harm(api, cluster, text):
    api.objects[JOB]["metadata"]["annotations"][jobs.ATTEMPTS_NOTE] = text
    outcome = follow_through(cluster)
    assert all(each.code is None for each in outcome.attempts)


def test_the_same_reason_to_wait_is_said_once():
    words = 'pods "{0}" is forbidden: exceeded quota: few, requested: cpu=2, used: cpu={1}'
    quota = [jobs.kind_of_wait(f"FailedCreate: Error creating: {words.format(*each)}") for each in ("a1", "b2")]
    assert quota[0] == quota[1]
    assert jobs.kind_of_wait("ErrImagePull: rpc error") == jobs.kind_of_wait('ImagePullBackOff: Back-off "x"')
    assert jobs.kind_of_wait("Unschedulable: no cpu") != jobs.kind_of_wait("Unschedulable: no memory")


def test_a_cluster_that_is_silent_for_a_while_is_told_and_missed_no_more(api, cluster, capsys):
    put_pod(api, "Running")

    def fall_silent():
        api.broken = 2

    follow_through(cluster, fall_silent, lambda: None)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "asked again" in line or "answers again" in line] == [
        next(line for line in said if "the cluster is asked again" in line),
        "the cluster answers again",
    ]


def test_a_job_that_is_removed_ends_the_following(api, cluster):
    with pytest.raises(follow.Removed, match="was removed while it was followed"):
        follow_through(cluster, lambda: api.objects.pop(JOB), lambda: None)


def test_attempts_are_kept_without_what_is_not_known():
    assert json.loads(jobs.written([jobs.Attempt("a", why="evicted")])) == [{"pod": "a", "why": "evicted"}]
