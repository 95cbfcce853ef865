"""What is said of a Job, from what a real cluster said of real ones (tests/k8s/data)."""

import datetime as dt
import json
from pathlib import Path

import pytest

from k8s import jobs

DATA = Path(__file__).parent / "data"


def _seen(name):
    seen = json.loads((DATA / f"{name}.json").read_text())
    return seen["job"], seen["pods"], seen["events"]


def _attempts(name):
    return jobs.attempts(*_seen(name))


def test_a_job_that_is_done():
    job, pods, events = _seen("done")
    (attempt,) = jobs.attempts(job, pods, events)
    assert jobs.state(job) == jobs.COMPLETE
    assert (attempt.why, attempt.code, attempt.node) == ("done", 0, "boceto")
    assert attempt.started < attempt.ended
    assert jobs.result(attempt.message)["step"] == 126
    assert jobs.exit_code(job, [attempt]) == 0
    assert jobs.why_waiting(job, pods, events) == ""


def test_refused_settings_end_the_job_with_their_reason_and_code():
    job, pods, events = _seen("refused")
    (attempt,) = jobs.attempts(job, pods, events)
    assert jobs.state(job) == jobs.FAILED
    assert jobs.exit_code(job, [attempt]) == attempt.code == 2
    assert attempt.why == "settings refused"
    assert attempt.message == "boceto train: error: train.batch_size = 0 is too small; use at least 1"
    assert jobs.why_failed(job).startswith("PodFailurePolicy: ")


def test_out_of_memory_says_the_limit():
    (attempt,) = _attempts("memory")
    assert attempt.why == "out of memory (limit 100Mi)"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unschedulable", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."),
        ("image", "ErrImagePull: failed to pull and unpack image"),
        ("forbidden", 'FailedCreate: Error creating: pods "rich-train-'),
    ],
)
def test_why_a_pod_waits_is_told_in_the_clusters_words(name, words):
    job, pods, events = _seen(name)
    assert jobs.state(job) == jobs.ACTIVE
    assert jobs.why_waiting(job, pods, events).startswith(words)


def test_attempts_whose_pods_were_seen_to_go_keep_why():
    job, pods, events = _seen("disrupted")
    first, second, third = jobs.attempts(job, pods, events)
    assert first.why == "evicted (Eviction API)"
    assert second.why == "its pod was deleted, stopped on request, saved"
    assert second.code == 75
    assert "stopped after step 915 of 2520, saved" in second.message
    assert (third.why, third.code) == ("running", None)


def test_attempts_of_which_only_the_event_is_left_are_not_made_up():
    job, _, events = _seen("disrupted")
    del job["metadata"]["annotations"][jobs.ATTEMPTS_NOTE]
    found = jobs.attempts(job, [], events)
    assert [each.why for each in found] == 3 * [jobs.GONE]
    assert [each.pod for each in found] == [each.pod for each in _attempts("disrupted")]


def test_a_stopped_job_is_told_from_one_that_another_suspended():
    job, pods, events = _seen("stopped")
    assert jobs.state(job) == jobs.STOPPED
    assert jobs.exit_code(job, []) == 75
    del job["metadata"]["annotations"][jobs.STOP_NOTE]
    assert jobs.state(job) == jobs.SUSPENDED
    assert '`kubectl patch job long-train -p \'{"spec":{"suspend":false}}\'` starts it' in (
        jobs.why_waiting(job, pods, events)
    )
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert jobs.why_waiting(job, pods, events) == "suspended: it waits for its queue gpus"


def test_no_more_attempts_are_kept_than_an_annotation_should_hold():
    many = [jobs.Attempt(f"pod-{number}", why="evicted") for number in range(100)]
    kept = json.loads(jobs.written(many))
    assert [each["pod"] for each in kept] == [each.pod for each in many[-jobs.MOST_KEPT :]]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "done"), (1, "fault"), (2, "settings refused"), (65, "data refused"), (137, "ended by signal 9")],
)
def test_exit_codes_in_words(code, words):
    assert jobs.in_words(code) == words


def test_ages_are_short():
    now = dt.datetime(2026, 1, 2, 0, 0, tzinfo=dt.UTC)
    ages = [jobs.age(time, now) for time in ("2026-01-01T23:59:48Z", "2026-01-01T23:55:00Z", "2025-12-30T00:00:00Z")]
    assert ages == ["12s", "5m", "3d"]
