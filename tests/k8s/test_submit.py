"""`boceto submit` as people type it, against an API server without controllers; and against none."""

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import api_server
import pytest
import yaml
from manifests import K8S, of_kind

from boceto.console import Console
from k8s import follow, jobs, render, start, verbs
from k8s.__main__ import main
from k8s.api import Cluster

JOBS = "/apis/batch/v1/namespaces/here/jobs"


def _overlay(path, program="train", components=(), more="", objects=()):
    """A folder with one program of `local`, with components and whatever else on it."""
    here = path / program
    here.mkdir()
    local, *others = (
        os.path.relpath(K8S / part, here)
        for part in (f"overlays/local/{program}", *(f"components/{each}" for each in components))
    )
    (here / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    resources = ", ".join([local, *(["objects.yaml"] if objects else [])])
    (here / "kustomization.yaml").write_text(f"resources: [{resources}]\ncomponents: [{', '.join(others)}]\n{more}")
    return str(path)


def _submit(*words):
    return main(["run", "--no-follow", *words])


def _end(api, kind, job="first-train", **more):
    api.objects[f"{JOBS}/{job}"]["status"] = {"conditions": [{"type": kind, "status": "True", **more}]}


def _one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("boceto submit: error: ")
    return line


def test_everything_of_the_overlay_is_applied_and_marked(api, capsys):
    assert _submit() == 0
    wanted = {
        (each["kind"], each["metadata"]["name"])
        for each in [*render.shared("local"), *render.render("local", "train")[1]]
    }
    assert {(each["kind"], each["metadata"]["name"]) for each in api.objects.values()} == wanted
    assert all(each["metadata"]["labels"][render.MANAGED] == "boceto" for each in api.objects.values())
    (binding,) = api.of_kind("RoleBinding")
    assert binding["subjects"][0]["namespace"] == "here"
    patches = [(headers, json.loads(body)) for method, _, headers, body in api.requests if method == "PATCH"]
    owned = [body for headers, body in patches if headers["Content-Type"] == "application/merge-patch+json"]
    assert {*map(len, owned)} == {1}
    assert {field for body in owned for field in body["metadata"]} == {"ownerReferences"}
    applied = [body for headers, body in patches if headers["Content-Type"] == "application/apply-patch+yaml"]
    assert {(each["kind"], each["metadata"]["name"]) for each in applied} == wanted
    assert {headers["Authorization"] for headers, _ in patches} == {"Bearer a-token"}
    assert "first-train is submitted to namespace here (the context's)" in capsys.readouterr().err


def test_plurals_and_scopes_are_the_clusters_own_and_are_kept_nowhere(api, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "page"}, "spec": {}}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "a:b"}}
    (tmp_path / "overlay").mkdir()
    overlay = _overlay(tmp_path / "overlay", objects=[ingress, role])
    assert _submit("--overlay", overlay) == _submit("--overlay", overlay) == 0
    assert "/apis/networking.k8s.io/v1/namespaces/here/ingresses/page" in api.objects
    made = api.objects["/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab"]
    assert "namespace" not in made["metadata"]
    reviews = [json.loads(body)["spec"] for method, _, _, body in api.requests if method == "POST"]
    asked = [each["resourceAttributes"] for each in reviews if "resourceAttributes" in each]
    assert {each["resource"] for each in asked if "namespace" not in each} == {"clusterroles"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "overlay"]


def test_a_job_that_is_there_with_these_settings_is_left_alone(api, capsys):
    _submit()
    before = api.objects[f"{JOBS}/first-train"]["metadata"]["uid"]
    assert _submit() == 0
    assert api.objects[f"{JOBS}/first-train"]["metadata"]["uid"] == before
    assert "there already, with these settings" in capsys.readouterr().err


@pytest.mark.parametrize(("ended", "standing"), [(None, "running"), ("Complete", "done"), ("Failed", "failed")])
def test_other_settings_than_a_job_has_are_a_choice(api, capsys, ended, standing):
    _submit()
    if ended:
        _end(api, ended)
    capsys.readouterr()
    assert _submit("--set", "train.epochs=5") == 2
    line = _one_line(capsys)
    assert f"first-train is {standing} with other settings (train.epochs = 3 there, 5 here)" in line
    assert "--replace" in line
    assert "--name" in line


def test_a_job_that_has_ended_makes_way_where_that_is_asked_for(api):
    _submit()
    _end(api, "Failed")
    assert _submit("--set", "train.epochs=5", "--replace") == 0
    job = api.objects[f"{JOBS}/first-train"]
    assert "status" not in job
    volume = str(job["spec"]["template"]["spec"]["volumes"])
    (name,) = [name for name in _maps(api) if name in volume]
    assert "epochs = 5" in _maps(api)[name]


def _maps(api):
    maps = {each["metadata"]["name"]: each["data"] for each in api.of_kind("ConfigMap")}
    return {name: data["boceto.toml"] for name, data in maps.items() if "boceto.toml" in data}


@pytest.mark.parametrize("path", [f"{JOBS}/first-train", "/api/v1/namespaces/here/serviceaccounts/boceto-train"])
def test_what_another_made_is_never_touched(api, capsys, path):
    kind = "Job" if path.startswith(JOBS) else "ServiceAccount"
    theirs = {"kind": kind, "metadata": {"name": path.rpartition("/")[2], "labels": {"a": "b"}}, "spec": {}}
    api.put(path, theirs)
    before = json.dumps(api.objects)
    for words in ([], ["--replace"]):
        assert _submit(*words) == 2
        assert "was not made by `boceto submit`" in _one_line(capsys)
        assert json.dumps(api.objects) == before


def test_what_another_made_just_so_is_used_as_it_is(api):
    """As `kubectl apply -k` leaves it behind."""
    for kind, plural in (("ServiceAccount", "serviceaccounts"), ("Service", "services")):
        folders = (K8S / "overlays" / "local" / part for part in ("prepare", "shared"))
        (found,) = of_kind([each for folder in folders for each in render.kustomize(folder)], kind)
        found["metadata"]["namespace"] = "here"
        path = f"/api/v1/namespaces/here/{plural}/{found['metadata']['name']}"
        api.put(path, found)
        assert _submit("--program", "prepare", "--name", kind.lower()) == 0
        assert render.MANAGED not in api.objects[path]["metadata"].get("labels", {})


def _owned(api, job):
    """The names of what goes when a Job goes."""
    uid = api.objects[f"{JOBS}/{job}"]["metadata"]["uid"]
    found = [each["metadata"] for each in api.objects.values()]
    return {each["name"] for each in found if uid in [owner["uid"] for owner in each.get("ownerReferences", [])]}


def test_settings_and_rights_go_with_the_job_that_they_are_for(api):
    _submit("--program", "prepare")
    _submit()
    prepare, train = sorted(_maps(api))
    assert _owned(api, "first-prepare") == {prepare}
    assert _owned(api, "first-train") == {train, "first-train-progress"}
    _end(api, "Failed")
    before = set(api.objects)
    assert main(["resume", "first", "--program", "train", "--no-follow"]) == 0
    assert set(api.objects) == before
    assert _owned(api, "first-train") == {train, "first-train-progress"}
    _end(api, "Failed")
    assert _submit("--set", "train.epochs=5", "--replace") == 0
    assert len(_maps(api)) == 2


@pytest.mark.parametrize("kind", ["roles", "configmaps"])
def test_what_could_not_be_made_anew_is_not_removed(api, capsys, kind):
    _submit()
    _end(api, "Failed")
    before = json.dumps(api.objects)
    capsys.readouterr()
    api.forbidden = kind
    assert main(["resume", "first", "--no-follow"]) == 2
    assert "not allowed" in _one_line(capsys)
    assert json.dumps(api.objects) == before


def test_an_account_that_runs_share_is_no_jobs_own(api):
    """Also where a run's Job is named as the account is."""
    assert _submit("--program", "prepare", "--name", "boceto") == 0
    assert _owned(api, "boceto-prepare") == set(_maps(api))


@pytest.mark.parametrize("overlay", ["gke", "gpu-8"])
def test_an_image_of_a_release_overlay_is_said_before_it_is_submitted(api, capsys, overlay):
    assert _submit("--overlay", overlay) == 2
    line = _one_line(capsys)
    assert "/boceto-train has no digest yet" in line
    assert f"overlays/{overlay}/common/kustomization.yaml" in line
    assert not api.requests


LACKING = [("roles", "create"), ("roles", "patch"), *(("rolebindings", verb) for verb in ("get", "create", "patch"))]
EDITOR = [
    {"verbs": ["*"], "apiGroups": ["", "apps", "batch", "networking.k8s.io"], "resources": ["*"]},
    {"verbs": ["get"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]},
]


def test_who_may_give_no_rights_submits_a_job_that_needs_none(api, capsys):
    api.rights = EDITOR
    assert _submit() == 0
    group = "rbac.authorization.k8s.io"
    lacking = [f"{verb} {kind}.{group}" for kind, verb in LACKING]
    assert (
        f"first-train does not write its progress on its Job, which needs the right to {', '.join(lacking)};"
        in capsys.readouterr().err
    )
    assert not api.of_kind("Role")
    assert not api.of_kind("RoleBinding")
    pod = api.objects[f"{JOBS}/first-train"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "BOCETO_JOB" not in str(pod)
    _end(api, "Failed")
    api.forbidden = "rolebindings"
    assert main(["resume", "first", "--no-follow"]) == 0


def test_all_rights_that_are_missing_are_told_at_once_and_nothing_is_made(api, capsys):
    api.rights = [{"verbs": ["get", "list"], "apiGroups": ["*"], "resources": ["*"]}]
    assert _submit("--replace") == 2
    line = _one_line(capsys)
    for each in (
        "create configmaps",
        "patch jobs.batch",
        "create networkpolicies.networking.k8s.io",
        "delete jobs.batch",
    ):
        assert each in line
    assert "k8s/rights/submit" in line
    assert {method for method, path, *_ in api.requests if "/namespaces/" in path} == set()
    assert main(["stop", "first"]) == 2
    assert "not allowed: patch jobs.batch;" in _one_line(capsys)


def test_an_overlays_own_rights_are_never_left_out(api, tmp_path, capsys):
    """A user who may not give them gets an error; the run is not started without them."""
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": []}
    overlay = _overlay(tmp_path, objects=[role])
    api.rights = EDITOR
    assert _submit("--overlay", overlay) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "not allowed: create roles.rbac.authorization.k8s.io, patch roles.rbac.authorization.k8s.io;" in error
    assert not api.objects
    api.rights = [*EDITOR, {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]}]
    assert _submit("--overlay", overlay) == 0
    assert [each["metadata"]["name"] for each in api.of_kind("Role")] == ["reader"]


def test_objects_of_a_list_have_the_version_that_the_cluster_serves(api):
    api.put("/apis/kueue.x-k8s.io/v1beta1/namespaces/here/workloads/one", {"kind": "Workload", "metadata": {}})
    (found,) = Cluster("", "").list("kueue.x-k8s.io/", "Workload")
    assert (found["apiVersion"], found["kind"]) == ("kueue.x-k8s.io/v1beta1", "Workload")


def test_a_failed_job_is_gone_on_with_by_resume_alone(api, capsys):
    _submit()
    _end(api, "Failed", reason="BackoffLimitExceeded", message="too many")
    capsys.readouterr()
    assert _submit() == 2
    assert "BackoffLimitExceeded: too many" in _one_line(capsys)
    old = api.objects[f"{JOBS}/first-train"]
    old["metadata"]["labels"]["controller-uid"] = "x"
    old["spec"]["template"]["metadata"]["labels"]["controller-uid"] = "x"
    old["spec"]["selector"] = {"matchLabels": {"controller-uid": "x"}}
    assert main(["resume", "first", "--no-follow"]) == 0
    new = api.objects[f"{JOBS}/first-train"]
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert "selector" not in new["spec"]
    assert "controller-uid" not in str(new)
    assert new["spec"]["template"]["spec"] == old["spec"]["template"]["spec"]
    assert _submit() == 0  # It is the same run.


def test_a_done_run_is_not_resumed(api, capsys):
    _submit()
    _end(api, "Complete")
    capsys.readouterr()
    assert main(["resume", "first"]) == 2
    assert "nothing to resume" in _one_line(capsys)


def test_stop_suspends_and_resume_starts_anew(api, capsys):
    _submit()
    assert main(["stop", "first"]) == 0
    job = api.objects[f"{JOBS}/first-train"]
    assert job["spec"]["suspend"] is True
    assert "`boceto submit resume first` goes on" in capsys.readouterr().err
    assert _submit() == 2
    assert "was stopped; go on with `boceto submit resume first`" in _one_line(capsys)
    assert main(["resume", "first", "--no-follow"]) == 0
    assert "suspend" not in api.objects[f"{JOBS}/first-train"]["spec"]


def test_a_chain_skips_what_is_done_and_gives_the_result(api, capsys):
    for program in ("prepare", "train", "eval"):
        _submit("--program", program)
        _end(api, "Complete", job=f"first-{program}")
        _pod(api, program, {"exitCode": 0, "message": json.dumps({"map": 0.7, "net": "sknet"})})
    capsys.readouterr()
    assert main(["run", "--chain", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["result"] == {"map": 0.7, "net": "sknet"}
    assert [line for line in err.splitlines() if line.endswith("is done already")] == [
        f"first-{program} is done already" for program in ("prepare", "train", "eval")
    ]
    assert "0.7000" in err


def _pod(api, program, terminated, log=b""):
    uid = api.objects[f"{JOBS}/first-{program}"]["metadata"]["uid"]
    name = f"first-{program}-abcde"
    api.logs[name] = log
    api.put(
        f"/api/v1/namespaces/here/pods/{name}",
        {
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"batch.kubernetes.io/controller-uid": uid}},
            "spec": {"nodeName": "one", "containers": [{}]},
            "status": {
                "phase": "Succeeded" if not terminated["exitCode"] else "Failed",
                "containerStatuses": [{"name": "boceto", "state": {"terminated": terminated}}],
            },
        },
    )


def test_the_exit_code_is_the_jobs_and_its_words_are_told(api, capsys):
    _submit()
    _end(api, "Failed", reason="PodFailurePolicy", message="exit code 65")
    said = "boceto train: error: the shard train-00001 is damaged"
    log = f"2026-01-02T03:04:05.5Z warming up\n2026-01-02T03:04:06Z {said}\n".encode()
    _pod(api, "train", {"exitCode": 65, "message": f"{said}\n"}, log)
    assert main(["logs", "first"]) == 65
    err = capsys.readouterr().err
    assert "warming up" in err
    assert "first-train-abcde on one: data refused (exit code 65)" in err
    assert err.count(said) == 1
    assert err.splitlines()[-1] == "first-train failed, another try would end the same"


def test_status_and_list_tell_where_runs_stand(api, capsys):
    _submit()
    _submit("--name", "second", "--program", "prepare")
    annotations = api.objects[f"{JOBS}/first-train"]["metadata"]["annotations"]
    annotations |= {jobs.PROGRESS_NOTE: "epoch 1/3, step 7/126", "boceto.dev/checkpoint": "step 5"}
    capsys.readouterr()
    assert main(["status", "first", "--json"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["jobs"]
    assert (found["state"], found["progress"], found["checkpoint"]) == ("active", "epoch 1/3, step 7/126", "step 5")
    assert "checkpoint: step 5" in err
    assert main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [(each["run"], each["program"]) for each in json.loads(out)["runs"]] == [
        ("first", "train"),
        ("second", "prepare"),
    ]
    assert "epoch 1/3, step 7/126" in err


@pytest.mark.parametrize("verb", ["status", "logs", "stop", "resume"])
def test_an_unknown_run_is_one_line(api, capsys, verb):
    assert main([verb, "nobody"]) == 2
    assert "run nobody is not known in namespace here; see `boceto submit list`" in _one_line(capsys)


def test_without_rights_there_is_one_line(api, capsys):
    api.forbidden = "jobs"
    assert _submit() == 2
    assert "namespace here: not allowed" in _one_line(capsys)
    assert main(["list", "--namespace", "there"]) == 2
    assert "namespace there: not allowed" in _one_line(capsys)


def test_another_programs_setting_leaves_what_is_done(api, capsys):
    _submit("--program", "prepare")
    _end(api, "Complete", job="first-prepare")
    capsys.readouterr()
    assert _submit("--program", "prepare", "--set", "eval.batch_size=50") == 0
    assert "first-prepare is done already" in capsys.readouterr().err
    assert _submit("--program", "prepare", "--set", "prepare.size=16") == 2
    assert "(prepare.size = 32 there, 16 here)" in _one_line(capsys)


def test_an_overlay_with_monitoring_is_submitted(api, tmp_path):
    overlay = _overlay(tmp_path, components=["monitoring"])
    assert _submit("--overlay", overlay, "--set", "train.epochs=5") == 0
    assert _submit("--overlay", overlay, "--set", "train.epochs=5") == 0
    (settings,) = _maps(api)
    assert _owned(api, "first-train") == {settings, "first-train-progress"}


def test_a_kind_that_the_cluster_does_not_know_is_one_line(api, tmp_path, capsys):
    api.absent = "podmonitors"
    assert _submit("--overlay", _overlay(tmp_path, components=["monitoring"])) == 2
    line = _one_line(capsys)
    assert "the cluster knows no PodMonitor (monitoring.coreos.com/v1); install the operator" in line
    assert "components/monitoring" in line
    assert not api.objects


@pytest.mark.parametrize("words", [[], ["--namespace=there"]], ids=["said", "given"])
def test_an_overlays_namespace_counts_where_none_is_given(api, tmp_path, capsys, words):
    namespace, whose = ("there", "by --namespace") if words else ("mine", "the overlay's")
    assert _submit("--overlay", _overlay(tmp_path, more="namespace: mine\n"), *words) == 0
    assert {each["metadata"]["namespace"] for each in api.objects.values()} == {namespace}
    assert {path.split("/namespaces/")[1].split("/")[0] for path in api.objects} == {namespace}
    (binding,) = api.of_kind("RoleBinding")
    assert binding["subjects"][0]["namespace"] == namespace
    assert f"first-train is submitted to namespace {namespace} ({whose})" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["run", "--replace", "--set", "train.epochs=5", "--no-follow"], ["resume", "first"]])
@pytest.mark.parametrize("word", ["/jobs/first-train-anew", "/roles/first-train-progress"])
def test_a_job_stays_where_the_next_would_be_refused(api, capsys, words, word):
    _submit()
    _end(api, "Failed")
    before = json.dumps(api.objects)
    capsys.readouterr()
    api.refused = ("PATCH", word, 400, "no such thing here")
    assert main(words) == 2
    assert "no such thing here" in _one_line(capsys)
    assert json.dumps(api.objects) == before


def test_a_job_counts_no_more_once_it_makes_way(api):
    _submit()
    _end(api, "Failed")
    api.refused = ("PATCH", "/jobs/first-train-anew", 403, "exceeded quota: few, used: count/jobs.batch=1")
    assert main(["resume", "first", "--no-follow"]) == 0
    assert "status" not in api.objects[f"{JOBS}/first-train"]


def test_a_job_that_is_held_is_not_waited_for_for_ever(api, capsys, monkeypatch):
    monkeypatch.setattr(start, "SOON", 0.0)
    monkeypatch.setattr(start, "PATIENCE", 0.1)
    monkeypatch.setattr(start, "POLL", 0.05)
    _submit()
    _end(api, "Failed")
    api.objects[f"{JOBS}/first-train"]["metadata"]["finalizers"] = ["example.com/hold"]
    capsys.readouterr()
    assert main(["resume", "first", "--no-follow"]) == 2
    waiting, error = capsys.readouterr().err.splitlines()
    assert waiting == "waiting for first-train to be gone, held by the finalizer example.com/hold"
    assert "first-train was removed and is not gone after 0.1 s, held by the finalizer example.com/hold" in error


def test_resume_takes_what_is_not_done(api, capsys):
    _submit()
    _end(api, "Failed")
    _submit("--program", "prepare")
    _end(api, "Complete", job="first-prepare")
    api.objects[f"{JOBS}/first-prepare"]["metadata"]["creationTimestamp"] = "2026-01-03T00:00:00Z"
    capsys.readouterr()
    assert main(["resume", "first", "--no-follow"]) == 0
    assert "first-train goes on" in capsys.readouterr().err
    del api.objects[f"{JOBS}/first-train"]
    assert main(["resume", "first", "--no-follow"]) == 2
    assert "run first has no Job for train to go on with; `boceto submit run --name first`" in _one_line(capsys)


@pytest.mark.parametrize("words", [[], ["--set", "eval.batch_size=50"]])
def test_what_a_job_needs_is_made_again(api, words):
    _submit()
    before = {path: each for path, each in api.objects.items() if "/jobs/" not in path}
    owned = _owned(api, "first-train")
    for path in before:
        del api.objects[path]
    assert _submit(*words) == 0
    assert {path for path in api.objects if "/jobs/" not in path} == set(before)
    assert _owned(api, "first-train") == owned


def test_a_jobs_settings_are_as_they_were(api):
    _submit()
    before = _maps(api)
    assert _submit("--set", "eval.batch_size=50") == 0
    assert _maps(api) == before


@pytest.mark.parametrize("words", [["list"], ["status", "first"]])
def test_a_namespace_that_is_not_there_is_one_line(api, capsys, words):
    assert main([*words, "--namespace", "nowhere"]) == 2
    assert "there is no namespace nowhere in the cluster" in _one_line(capsys)


def test_a_namespace_that_may_not_be_looked_up_has_no_run(api, capsys):
    api.refused = ("GET", "/api/v1/namespaces/", 403, "namespaces is forbidden")
    assert main(["list"]) == 0
    assert "no run in namespace here" in capsys.readouterr().err


@pytest.mark.parametrize("namespace", ["a/b", "..", "A", "a" * 64, "-a", "a?b"])
def test_what_is_no_name_of_a_namespace_is_refused(api, capsys, namespace):
    for words in (["list"], ["run", "--render"]):
        assert main([*words, f"--namespace={namespace}"]) == 2
        assert "names no namespace" in _one_line(capsys)
    assert not api.requests


def test_one_table_serves_all_verbs(api, tmp_path, capsys):
    config = tmp_path / "submit.toml"
    config.write_text('[submit]\nname = "second"\noverlay = "local"\nnamespace = "here"\nfollow = false\n')
    assert main(["run", "--config", str(config)]) == 0
    for verb in ("list", "status", "stop"):
        assert main([verb, "--config", str(config)]) == 0
    assert "second-train" in capsys.readouterr().err
    config.write_text("[submit]\nnames = 1\n")
    assert main(["list", "--config", str(config)]) == 2
    assert "unknown setting submit.names" in _one_line(capsys)


def test_help_names_the_table_and_what_must_be_given(capsys):
    with pytest.raises(SystemExit):
        main(["stop", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "in a table [submit];" in text
    assert " NAME " in text
    assert "[NAME]" not in text
    assert "--follow" not in text


def test_ctrl_c_in_a_chain_says_how_it_goes_on(api, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs.Follower, "until", interrupted)
    assert main(["run", "--chain"]) == 75
    err = capsys.readouterr().err
    assert "first-prepare goes on without you" in err
    assert "train and eval will not start by themselves: the same command goes on with the chain" in err


def test_a_stopped_chain_says_how_it_goes_on(api, capsys, monkeypatch):
    def stopped(*_):
        job = api.objects[f"{JOBS}/first-train"]
        stopped = {"spec": {"suspend": True}, "metadata": {"annotations": {jobs.STOP_NOTE: "asked to stop"}}}
        return follow.Outcome(api_server.merged(job, stopped), [], 75)

    for program in ("prepare", "train"):
        _submit("--program", program)
    monkeypatch.setattr(verbs, "PROGRAMS", ("train", "eval"))
    monkeypatch.setattr(verbs.Follower, "until", stopped)
    assert main(["run", "--chain"]) == 75
    assert "eval will not start by itself: go on with `boceto submit resume first`, and then with the same command" in (
        capsys.readouterr().err
    )


def test_a_full_quota_is_no_matter_of_rights_and_leaves_nothing_behind(api, capsys):
    api.refused = ("PATCH", "/jobs/", 403, 'jobs.batch "first-train" is forbidden: exceeded quota: few, limited: 1')
    assert _submit() == 2
    line = _one_line(capsys)
    assert "namespace here: its quota is full (" in line
    assert "not allowed" not in line
    assert not api.of_kind("ConfigMap")
    assert not api.of_kind("Role")
    assert "first-train" not in {each["metadata"]["name"] for each in api.objects.values()}


def test_what_was_there_stays_where_a_job_is_refused(api):
    _submit("--program", "prepare")
    before = _maps(api)
    api.refused = ("PATCH", "/jobs/", 403, "exceeded quota: few")
    assert _submit() == 2
    assert _maps(api) == before


@pytest.mark.parametrize(
    ("code", "said"), [(401, "Unauthorized"), (403, 'jobs is forbidden: User "system:anonymous" cannot list jobs')]
)
def test_an_expired_login_is_one_line(api, tmp_path, capsys, code, said):
    path = tmp_path / "config"
    kubeconfig = yaml.safe_load(path.read_text())
    login = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}
    kubeconfig["users"] = [{"name": "u", "user": {"exec": login}}]
    path.write_text(yaml.safe_dump(kubeconfig))
    api.refused = ("GET", "/jobs", code, said)
    assert main(["list"]) == 2
    line = _one_line(capsys)
    assert "has expired or is missing (exec: " in line
    assert "log in as for kubectl" in line


def test_what_runs_share_is_not_changed_in_passing(api, capsys):
    _submit()
    (path,) = [path for path in api.objects if path.endswith("/deployments/boceto-storage")]
    capsys.readouterr()
    assert _submit("--name", "same") == 0
    assert "another spec" not in capsys.readouterr().err
    api.objects[path]["spec"]["replicas"] = 0
    assert _submit("--name", "second") == 0
    assert "Deployment boceto-storage, which runs of namespace here share, is there with another spec" in (
        capsys.readouterr().err
    )
    assert api.objects[path]["spec"]["replicas"] == 0
    assert _submit("--name", "third", "--replace") == 0
    assert api.objects[path]["spec"]["replicas"] == 1


def test_who_may_not_change_what_runs_share_is_told_so(api, capsys):
    _submit()
    capsys.readouterr()
    api.refused = ("PATCH", "/deployments/", 403, "deployments.apps is forbidden")
    assert _submit("--name", "second") == 2
    assert "not allowed (deployments.apps is forbidden)" in _one_line(capsys)


def test_a_cluster_that_is_down_is_one_line(use, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use(f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert main(["list"]) == 2
    assert "does not answer (Connection refused" in _one_line(capsys)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"", "does not answer (Read timed out"), (b"HTTP/1.0 200 OK\r\n\r\nhello", "no JSON; is it a cluster?")],
)
def test_a_server_that_is_silent_or_no_cluster_is_one_line(use, capsys, monkeypatch, answer, said):
    monkeypatch.setattr("k8s.api.TIMEOUT", (5.0, 0.5))
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def speak():
            client, _ = server.accept()
            with client:
                client.sendall(answer)
                while client.recv(4096) and not answer:
                    pass

        pool.submit(speak)
        use(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert main(["list"]) == 2
    assert said in _one_line(capsys)


def test_a_wrong_context_is_one_line(api, capsys):
    assert main(["list", "--context", "yours"]) == 2
    assert "submit.context = 'yours' is not in the kubeconfig; the contexts are mine" in _one_line(capsys)


def test_without_a_kubeconfig_there_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert main(["list"]) == 2
    assert "no usable kubeconfig" in _one_line(capsys)


@pytest.mark.parametrize("text", ["", "3", "a: [b", "\0", "contexts: 3"])
def test_a_broken_kubeconfig_is_one_line(monkeypatch, tmp_path, capsys, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert main(["list"]) == 2
    assert "no usable kubeconfig" in _one_line(capsys)


def test_a_server_without_a_scheme_is_one_line(use, capsys):
    use("127.0.0.1:6443")
    assert main(["list"]) == 2
    assert "no usable kubeconfig: the server '127.0.0.1:6443' is no https://" in _one_line(capsys)


def test_a_plugin_for_credentials_that_is_missing_is_one_line(use, capsys):
    version = "client.authentication.k8s.io/v1"
    use("http://127.0.0.1:1", exec={"apiVersion": version, "command": "/no/plugin", "interactiveMode": "Never"})
    assert main(["list"]) == 2
    assert "is missing ([Errno 2] No such file or directory: '/no/plugin'); log in as for kubectl" in _one_line(capsys)


@pytest.mark.parametrize("words", [[], ["walk"]])
def test_a_missing_or_unknown_verb_names_the_verbs(words, capsys):
    assert main(words) == 2
    assert "the verbs are run, status, logs, stop, resume, list" in _one_line(capsys)


def test_what_is_rendered_is_what_would_be_applied(capsys):
    assert main(["run", "--render", "--name", "mine"]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == [
        *render.shared("local"),
        *render.render("local", "train", name="mine")[1],
    ]


def test_progress_says_its_steps():
    assert follow.amounts("epoch 2/4, step 6/12, loss 1") == ("epoch 2/4, step 6/12, loss 1", 6, 12, "steps")
    assert follow.amounts("no numbers") is None


@pytest.mark.parametrize(
    ("done", "total", "unit"), [(0, 12, "steps"), (1500, 20_000, "drawings"), (1.5, 3.0, "GB")], ids=str
)
def test_a_programs_plain_progress_line_gets_a_bar(capsys, done, total, unit):
    moments = iter([0.0, 20.0])
    console = Console(clock=lambda: next(moments))
    console.progress("reading", 0, total, unit)
    console.progress("reading", done, total, unit)
    (line,) = capsys.readouterr().err.splitlines()
    assert follow.amounts(line) == ("reading", done, total, unit)


def test_a_log_in_json_is_read_to_people():
    line = json.dumps({"time": "t", "level": "warning", "message": "slow: loss 1.23", "step": 3, "loss": 1.23456})
    assert follow.of_json(line) == "warning: slow: loss 1.23"
    assert follow.of_json("[1]") == "[1]"


def test_a_log_point_in_json_says_its_steps():
    point = {"time": "t", "level": "info", "message": "progress", "steps": 12, "step": 6, "epoch": 2, "loss": 1.23456}
    text = follow.of_json(json.dumps(point))
    assert follow.amounts(text) == ("step 6/12, epoch 2, loss 1.235", 6, 12, "steps")


def _failed(reason, message, *, heard):
    job = {
        "metadata": {"name": "first-train"},
        "spec": {},
        "status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": "m"}]},
    }
    return follow.Outcome(job, [jobs.Attempt("first-train-x", message=message)], 1, heard)


@pytest.mark.parametrize(
    ("reason", "heard", "line"),
    [
        ("PodFailurePolicy", False, "first-train failed, another try would end the same: bad"),
        ("BackoffLimitExceeded", True, "first-train failed, no try is left"),
        ("Other", True, "first-train failed, Other: m"),
    ],
)
def test_the_end_says_what_the_log_has_not_said(reason, heard, line):
    assert verbs.end_of(_failed(reason, "bad", heard=heard)) == line


def test_a_done_jobs_attempt_is_known_without_its_pod(api, capsys):
    _submit()
    _end(api, "Complete")
    api.objects[f"{JOBS}/first-train"]["status"] |= {
        "startTime": "2026-01-02T03:04:05Z",
        "completionTime": "2026-01-02T03:05:05Z",
    }
    capsys.readouterr()
    assert main(["status", "first"]) == 0
    assert "done, its pod is gone since (exit code 0)" in capsys.readouterr().err


def test_a_failed_jobs_reason_outlives_its_pod(api, capsys):
    """By what its follower saw; by the program's own word; by the Job's condition."""
    _submit()
    said = "boceto train: error: the shard train-00001 is damaged"
    message = (
        "Container boceto for pod here/first-train-abcde failed with exit code 65 matching FailJob rule at index 0"
    )
    _end(api, "Failed", reason="PodFailurePolicy", message=message)
    _pod(api, "train", {"exitCode": 65, "message": said, "finishedAt": "2026-01-02T03:05:05Z"})
    assert main(["run"]) == 2  # It has failed already.
    assert main(["logs", "first"]) == 65
    (path,) = [path for path in api.objects if "/pods/" in path]
    del api.objects[path]
    capsys.readouterr()
    assert main(["status", "first"]) == 0
    assert f"data refused (exit code 65): {said}" in capsys.readouterr().err
    annotations = api.objects[f"{JOBS}/first-train"]["metadata"]["annotations"]
    del annotations[jobs.ATTEMPTS_NOTE]
    entry = {"pod": "first-train-abcde", "code": 65, "message": "damaged", "ended": "2026-01-02T03:05:05Z"}
    annotations[jobs.END_NOTE] = json.dumps(entry)
    assert main(["status", "first"]) == 0
    assert "data refused, its pod is gone since (exit code 65): damaged" in capsys.readouterr().err
    del annotations[jobs.END_NOTE]
    assert main(["status", "first"]) == 0
    assert "data refused, its pod is gone since (exit code 65)" in capsys.readouterr().err


def test_a_run_whose_jobs_are_gone_is_still_known(api, capsys):
    _submit()
    _end(api, "Failed", reason="PodFailurePolicy", message="m")
    _pod(api, "train", {"exitCode": 65, "message": "damaged", "finishedAt": "2026-01-02T03:05:05Z"})
    assert main(["logs", "first"]) == 65
    del api.objects[f"{JOBS}/first-train"]
    capsys.readouterr()
    assert main(["status", "first", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "first-train: failed, PodFailurePolicy: m; its Job is gone" in err
    assert "damaged" in err
    (entry,) = json.loads(out)["jobs"]
    assert (entry["state"], entry["attempts"][0]["code"]) == ("failed", 65)


@pytest.mark.parametrize("words", [[], ["--no-follow"]])
def test_logs_that_went_with_their_pod_are_no_success(api, capsys, words):
    _submit()
    _end(api, "Complete")
    capsys.readouterr()
    assert main(["logs", "first", *words]) == 1
    assert "first-train has no pod any more, and its log went with it" in capsys.readouterr().err


def test_a_job_that_is_removed_under_its_follower_is_no_matter_of_settings(api, capsys, monkeypatch):
    def removed(*_):
        api.objects.pop(f"{JOBS}/first-train", None)

    monkeypatch.setattr(follow.time, "sleep", removed)
    assert main(["run"]) == 1
    assert "first-train was removed while it was followed" in capsys.readouterr().err


def _queued(api, tmp_path):
    assert _submit("--overlay", _overlay(tmp_path, components=["queue"])) == 0
    job = api.objects[f"{JOBS}/first-train"]
    assert "suspend" not in job["spec"]
    job["spec"]["suspend"] = True  # As Kueue does.
    return job["metadata"]["uid"]


def test_a_job_in_a_queue_says_what_it_waits_for(api, tmp_path, capsys):
    uid = _queued(api, tmp_path)
    api.absent = "kueue"
    assert main(["status", "first"]) == 0
    assert "queue boceto, and the cluster has no Kueue" in capsys.readouterr().err
    api.absent = None
    assert main(["status", "first"]) == 0
    assert "its queue boceto does not exist" in capsys.readouterr().err
    here = "/apis/kueue.x-k8s.io/v1beta1/namespaces/here"
    api.put(f"{here}/localqueues/boceto", {"kind": "LocalQueue", "metadata": {"name": "boceto"}})
    said = {"type": "QuotaReserved", "status": "False", "message": "insufficient quota for nvidia.com/gpu"}
    workload = {"name": "job-first", "ownerReferences": [{"uid": uid}]}
    api.put(f"{here}/workloads/job-first", {"kind": "Workload", "metadata": workload, "status": {"conditions": [said]}})
    assert main(["status", "first"]) == 0
    assert "waits for its queue boceto: insufficient quota for nvidia.com/gpu" in capsys.readouterr().err


def test_resume_leaves_the_suspending_to_the_queue(api, tmp_path):
    _queued(api, tmp_path)
    _end(api, "Failed")
    assert main(["resume", "first", "--no-follow"]) == 0
    assert "suspend" not in api.objects[f"{JOBS}/first-train"]["spec"]
