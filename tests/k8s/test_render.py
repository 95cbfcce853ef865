import copy
import json
import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import COMPONENTS, K8S, of_kind
from manifests import render as by_kubectl

from boceto.errors import SettingsError
from k8s import render
from k8s.settings import PROGRAMS


def _unnamed(objects, old):
    """The objects without what submission adds to them."""
    plain = copy.deepcopy([found for found in objects if found["kind"] not in ("Role", "RoleBinding")])
    for found in plain:
        metadata = found["metadata"]
        metadata["labels"].pop(render.MANAGED)
        metadata["labels"].pop(render.RUN, None)
        if found["kind"] == "ConfigMap":
            assert not metadata.pop("labels")
        if found["kind"] == "Job":
            metadata["name"] = old
            del found["spec"]["template"]["metadata"]["labels"][render.RUN]
            del metadata["annotations"]
    return plain


def test_it_is_what_kubectl_would_apply_with_a_name(folder):
    run, objects = render.render(folder.parent.name, folder.name)
    assert run == "first"
    (job,) = of_kind(objects, "Job")
    assert job["metadata"]["name"] == f"first-{folder.name}"
    assert _unnamed(objects, f"boceto-{folder.name}") == by_kubectl(folder)


def test_the_rights_of_a_run_are_those_that_kubectl_would_apply():
    _, objects = render.render("local", "train")
    made = [found for found in objects if found["kind"] in ("Role", "RoleBinding")]
    render.set_namespace(made, "default")
    for each in made:
        del each["metadata"]["labels"]
    assert json.loads(json.dumps(made).replace("first-train", "boceto-train")) == by_kubectl(
        K8S / "rights" / "progress"
    )


def test_every_object_bears_the_mark_of_its_maker():
    _, objects = render.render("local", "train")
    assert {found["metadata"]["labels"][render.MANAGED] for found in objects} == {render.MANAGER}


def test_a_name_is_the_jobs_the_runs_and_its_folders():
    run, objects = render.render("local", "train", name="second")
    (job,) = of_kind(objects, "Job")
    assert (run, job["metadata"]["name"]) == ("second", "second-train")
    assert job["spec"]["template"]["metadata"]["labels"][render.RUN] == "second"
    tables = _tables(objects)
    assert tables["train"]["run"] == tables["eval"]["run"] == "gs://boceto/runs/second"
    (role,) = of_kind(objects, "Role")
    (binding,) = of_kind(objects, "RoleBinding")
    assert role["rules"][0]["resourceNames"] == ["second-train"]
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == "second-train-progress"
    (account,) = of_kind(objects, "ServiceAccount")
    assert account["metadata"]["name"] == job["spec"]["template"]["spec"]["serviceAccountName"] == "boceto-train"
    assert [subject["name"] for subject in binding["subjects"]] == ["boceto-train"]


def test_what_runs_share_is_rendered_once_and_marked(tmp_path):
    shared = render.shared("local")
    assert {each["kind"] for each in shared} == {"Deployment", "Service", "NetworkPolicy"}
    assert {each["metadata"]["labels"][render.MANAGED] for each in shared} == {render.MANAGER}
    assert render.shared("gke") == render.shared(str(tmp_path)) == []


def _tables(objects):
    return tomllib.loads(render.settings_of(objects)["data"]["boceto.toml"])


def test_changed_settings_are_a_new_map_that_the_job_reads():
    _, before = render.render("local", "train")
    _, after = render.render(
        "local", "train", net="skresnet", assignments=["train.epochs=5", "train.precision=bfloat16"]
    )
    tables = _tables(after)
    assert (tables["train"]["net"], tables["train"]["epochs"]) == ("skresnet", 5)
    assert tables["train"]["precision"] == "bfloat16"
    assert tables["prepare"] == _tables(before)["prepare"]
    (old,), (new,) = of_kind(before, "ConfigMap"), of_kind(after, "ConfigMap")
    assert old["metadata"]["name"] != new["metadata"]["name"]
    (job,) = of_kind(after, "Job")
    assert new["metadata"]["name"] in str(job["spec"]["template"]["spec"]["volumes"])


def test_the_digest_tells_settings_apart_and_not_calls():
    def digest(**words):
        (job,) = of_kind(render.render("local", "train", **words)[1], "Job")
        return job["metadata"]["annotations"][render.DIGEST]

    assert digest() == digest(name="first") != digest(assignments=["train.epochs=5"])


def test_the_digest_is_over_the_programs_own_settings():
    def digest(program, *assignments):
        (job,) = of_kind(render.render("local", program, assignments=assignments)[1], "Job")
        return job["metadata"]["annotations"][render.DIGEST]

    assert digest("prepare") == digest("prepare", "eval.batch_size=50")
    assert digest("eval") != digest("eval", "eval.batch_size=50")


def _overlay(path, program="train", component="emulator", more=""):
    """A folder with one program's overlay with one component in it."""
    here = path / program
    here.mkdir(parents=True)
    base, component = (os.path.relpath(K8S / part, here) for part in (f"base/{program}", f"components/{component}"))
    (here / "boceto.toml").write_text('[train]\nrun = "/runs/mine"\n')
    (here / "kustomization.yaml").write_text(
        f"resources: [{base}]\ncomponents: [{component}]\n{more}"
        "configMapGenerator: [{name: boceto-settings, files: [boceto.toml]}]\n"
    )
    return str(path)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_is_rendered_with_changed_settings(tmp_path, component):
    _, objects = render.render(_overlay(tmp_path, component=component), "train", assignments=["train.epochs=2"])
    assert _tables(objects)["train"] == {"run": "/runs/mine", "epochs": 2}


def test_the_overlays_namespace_is_found_and_its_settings_can_be_changed(tmp_path):
    _, objects = render.render(_overlay(tmp_path, more="namespace: mine\n"), "train", assignments=["train.epochs=2"])
    assert render.namespace_of(objects) == "mine"
    assert _tables(objects)["train"]["epochs"] == 2
    render.set_namespace(objects, "yours")
    assert {each["metadata"]["namespace"] for each in objects} == {"yours"}


def test_programs_in_different_namespaces_are_refused(tmp_path):
    _overlay(tmp_path, "prepare", more="namespace: one\n")
    overlay = _overlay(tmp_path, "train", more="namespace: other\n")
    objects = [each for program in ("prepare", "train") for each in render.render(overlay, program)[1]]
    with pytest.raises(SettingsError, match=r"2 namespaces \(one, other\)"):
        render.namespace_of(objects)


def test_a_folder_of_ones_own_is_an_overlay(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "boceto.toml").write_text('[train]\nrun = "/runs/mine"\n')
    (tmp_path / "train" / "job.yaml").write_text(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: mine}\n"
        "spec: {template: {metadata: {}, spec: {containers: [], volumes: [{name: s, configMap: {name: settings}}]}}}\n"
    )
    (tmp_path / "train" / "kustomization.yaml").write_text(
        "resources: [job.yaml]\nconfigMapGenerator: [{name: settings, files: [boceto.toml]}]\n"
    )
    run, objects = render.render(str(tmp_path), "train", assignments=["train.epochs=2"])
    assert run == "mine"
    assert _tables(objects)["train"] == {"run": "/runs/mine", "epochs": 2}


ODD = ["epochs=3", "train.epochs", "trainer.epochs=3", "train.=3", "=", "submit.name=x", "train.a b=1", "train.a.b=1"]
ODD += [f"train.epochs={value}" for value in ("1979-05-27", "[1979-05-27]", "nan", "-inf", "1e400", "{a=1}", "[1, 2]")]


@pytest.mark.parametrize("text", ODD)
def test_an_assignment_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="give PROGRAM.SETTING=VALUE"):
        render.render("local", "train", assignments=[text])


@pytest.mark.parametrize("name", ["First", "a_b", "-a", "a-", "a.b", "a" * 48, "ä"])
def test_a_name_that_no_job_can_bear_is_refused(name):
    with pytest.raises(SettingsError, match="cannot name a Job"):
        render.render("local", "train", name=name)


def test_an_unknown_overlay_says_which_there_are():
    with pytest.raises(SettingsError, match="the overlays are gke, gpu-8, local"):
        render.render("remote", "train")


def test_without_kubectl_there_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(render.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SettingsError, match="kubectl is not on PATH"):
        render.render("local", "train")


def test_a_broken_folder_is_told_in_kustomizes_words(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    with pytest.raises(SettingsError, match="nowhere.yaml"):
        render.render(str(tmp_path), "train")


PLAIN = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@given(st.dictionaries(st.sampled_from(PROGRAMS), st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), PLAIN)))
def test_tables_come_back_from_toml(tables):
    assert tomllib.loads(render.to_toml(tables)) == tables


def test_the_installed_package_finds_its_manifests():
    assert render.OVERLAYS == K8S / "overlays"
