"""What the manifests promise, a test a rule, over every job of every overlay."""

import json
import os
import re
import subprocess
import time

import api_server
import kubernetes_validate
import pytest
from manifests import COMPONENTS, JOBS, K8S, OVERLAYS, containers, of_kind, render, templates

from k8s import rights
from k8s.api import Cluster

VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34")
# Kinds of operators, whose schemas are no part of Kubernetes.
FOREIGN = ("monitoring.coreos.com/",)
RESOURCES = {"cpu", "memory", "ephemeral-storage"}
# What Pod Security "restricted" lets a pod mount.
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
SOURCES = [*K8S.rglob("*.yaml"), *K8S.rglob("*.toml")]


def _selects(selector, template):
    return selector.get("matchLabels", {}).items() <= template["metadata"]["labels"].items()


def _policies(objects):
    """The network policies of each pod template."""
    policies = of_kind(objects, "NetworkPolicy")
    return [
        [policy["spec"] for policy in policies if _selects(policy["spec"]["podSelector"], template)]
        for template in templates(objects)
    ]


def test_there_is_something_to_check():
    assert {"local", "gke", "gpu-8"} <= set(OVERLAYS)
    assert {"gpu", "spot", "queue", "bucket-gcs", "volume", "emulator", "pull-secret"} <= set(COMPONENTS)


def test_an_overlay_makes_one_job_of_one_image_of_ours(folder, objects, job):
    assert job["metadata"]["name"] == f"boceto-{folder.name}"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "boceto"
    assert container["args"][0] == folder.name
    image, version = re.fullmatch(r"(?:.*/)?([a-z-]+)[:@](\S+)", container["image"]).groups()
    assert image == f"boceto-{folder.name}"
    assert version


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_what_the_api_knows(objects, version):
    _check_schemas(objects, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_components_work_one_by_one(with_component, version):
    _check_schemas(with_component, version)


def _check_schemas(objects, version):
    for found in objects:
        if not found["apiVersion"].startswith(FOREIGN):
            assert kubernetes_validate.validate(found, version, strict=True) == version


def test_refused_settings_and_data_fail_at_once_and_interruptions_do_not_count(job):
    rules = [(rule["action"], rule.get("onExitCodes"), rule.get("onPodConditions")) for rule in _rules(job)]
    ours = {"containerName": "boceto", "operator": "In"}
    assert rules == [
        ("FailJob", ours | {"values": [2, 65]}, None),
        ("Ignore", None, [{"type": "DisruptionTarget", "status": "True"}]),
        ("Ignore", ours | {"values": [75]}, None),
    ]


def _rules(job):
    return job["spec"]["podFailurePolicy"]["rules"]


def test_a_job_tries_again_with_a_new_pod_once_the_old_one_has_ended(job):
    spec = job["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"
    assert 1 <= spec["backoffLimit"] <= 10
    assert spec.get("parallelism", 1) == spec.get("completions", 1) == 1


def test_a_finished_job_stays_for_a_while_and_goes(job):
    assert 86_400 <= job["spec"]["ttlSecondsAfterFinished"] <= 30 * 86_400


def test_a_job_whose_time_is_bounded_has_a_deadline_and_a_trainer_a_probe(folder, job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert ("activeDeadlineSeconds" in job["spec"]) == (folder.name != "train")
    assert ("livenessProbe" in container) == (folder.name == "train")
    if folder.name != "prepare":  # What it waits for takes a part of its time.
        wait = int(container["args"][container["args"].index("--wait") + 1])
        assert 86_400 <= wait < job["spec"].get("activeDeadlineSeconds", wait + 1)


@pytest.mark.parametrize(("minutes", "passes"), [(None, True), (0, True), (59, True), (61, False), (600, False)])
def test_a_trainer_that_hangs_fails_its_probe_and_a_slow_one_passes(tmp_path, minutes, passes):
    (container,) = containers(render(K8S / "overlays" / "local" / "train"))
    (file,) = [entry["value"] for entry in container["env"] if entry["name"] == "BOCETO_ALIVE_FILE"]
    if minutes is not None:
        (tmp_path / "alive").touch()
        then = time.time() - 60 * minutes
        os.utime(tmp_path / "alive", (then, then))
    command = [word.replace(file, str(tmp_path / "alive")) for word in container["livenessProbe"]["exec"]["command"]]
    assert (subprocess.run(command, check=False).returncode == 0) == passes


def test_a_program_leaves_its_last_word_where_kubernetes_reads_it(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (named,) = [entry["value"] for entry in container["env"] if entry["name"] == "BOCETO_MESSAGE_FILE"]
    assert named == container.get("terminationMessagePath", "/dev/termination-log")
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_every_container_says_what_it_needs_and_may_use(objects):
    for container in containers(objects):
        assert container["resources"]["requests"].keys() >= RESOURCES
        assert container["resources"]["limits"].keys() >= RESOURCES


def test_pods_keep_the_restricted_standard(objects):
    for template in templates(objects):
        spec = template["spec"]
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}} <= VOLUMES
    for container in containers(objects):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.keys() & {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile", "procMount"}
        assert not any("hostPort" in port for port in container.get("ports", []))


def test_the_root_of_a_container_is_read_only(objects):
    assert all(container["securityContext"]["readOnlyRootFilesystem"] is True for container in containers(objects))


def test_no_pod_gets_a_token_of_the_api_but_a_trainer_that_writes_on_its_job(objects, job):
    for template in templates(objects):
        tells = template is job["spec"]["template"] and "BOCETO_JOB" in str(template)
        assert template["spec"]["automountServiceAccountToken"] is tells
    assert all(account["automountServiceAccountToken"] is False for account in of_kind(objects, "ServiceAccount"))


def test_an_editor_may_apply_a_jobs_folder_and_what_jobs_share(objects, common):
    kinds = {found["kind"] for found in [*objects, *common]}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "PodMonitor", "PrometheusRule"}


def test_the_right_of_the_trainer_is_one_verb_on_one_job_in_the_namespace_that_is_said():
    role, binding = rights = render(K8S / "rights" / "progress")
    assert role["rules"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": ["boceto-train"], "verbs": ["patch"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (namespace,) = {found["metadata"]["namespace"] for found in rights}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "boceto-train", "namespace": namespace}]


def test_the_role_for_submit_has_what_its_verbs_need(objects, common, api):
    (role,) = render(K8S / "rights" / "submit")
    needed = {*rights.RESUME, *rights.to_apply(Cluster("", ""), [*objects, *common], replace=True, follow=True)}
    assert not [each for each in needed if not api_server.allows(role["rules"], *each[:3])]


def test_removing_a_job_leaves_data_and_what_others_use(objects, common, overlay):
    """`kubectl delete -k` removes just what the folder makes."""
    assert not {found["kind"] for found in objects} & {"PersistentVolumeClaim", "Service", "Deployment"}
    shared = {(found["kind"], found["metadata"]["name"]) for found in common}
    others = [render(K8S / "overlays" / overlay / program) for program in JOBS]
    names = [{(found["kind"], found["metadata"]["name"]) for found in each} for each in [common, *others]]
    assert len(set().union(*names)) == sum(map(len, names))
    assert not shared & {(found["kind"], found["metadata"]["name"]) for found in objects}


def test_all_jobs_are_made_in_one_build(overlay):
    every = render(K8S / "overlays" / overlay)
    parts = [found for program in JOBS for found in render(K8S / "overlays" / overlay / program)]
    assert sorted(map(json.dumps, every)) == sorted(map(json.dumps, parts))


def test_what_a_controller_owns_stands_in_no_manifest(made):
    for found in made:
        assert "suspend" not in found["spec"] if found["kind"] == "Job" else True
        assert "status" not in found


def test_what_the_api_replaces_whole_is_said_whole(made):
    """Else `kubectl apply --server-side` finds the default that is missing here a conflict."""
    text = json.dumps(made)
    assert text.count('"fieldRef"') == len(re.findall(r'"fieldRef": \{"apiVersion": "v1"', text))


def test_quantities_are_texts_as_the_api_keeps_them(made):
    """A number comes back as a text, and each `kubectl apply` would change it again."""
    for container in containers(made):
        every = [value for part in container.get("resources", {}).values() for value in part.values()]
        assert all(isinstance(value, str) for value in every)


def test_a_second_run_by_a_suffix_has_its_own_names_and_rights(tmp_path):
    folders = [os.path.relpath(K8S / part, tmp_path) for part in ("overlays/gke/train", "rights/progress")]
    (tmp_path / "kustomization.yaml").write_text(
        f"namespace: mine\nnameSuffix: -second\nresources: [{', '.join(folders)}]\n"
    )
    objects = render(tmp_path)
    (job,), (role,), (binding,) = (of_kind(objects, kind) for kind in ("Job", "Role", "RoleBinding"))
    spec = job["spec"]["template"]["spec"]
    assert job["metadata"]["name"] == spec["serviceAccountName"] == "boceto-train-second"
    assert role["rules"][0]["resourceNames"] == ["boceto-train-second"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "boceto-train-second", "namespace": "mine"}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"] == "boceto-train-progress-second"
    (settings,) = of_kind(objects, "ConfigMap")
    assert settings["metadata"]["name"].startswith("boceto-settings-train-second-")
    assert settings["metadata"]["name"] in str(spec["volumes"])
    assert {found["metadata"]["namespace"] for found in objects} == {"mine"}


def test_a_job_has_an_account_of_its_own(objects, job):
    names = [account["metadata"]["name"] for account in of_kind(objects, "ServiceAccount")]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] in names


def test_no_secret_is_made_or_read(objects):
    assert not of_kind(objects, "Secret")
    assert not re.search(r"secretKeyRef|secretRef|secretName|GOOGLE_APPLICATION_CREDENTIALS", str(objects))


def test_traffic_of_every_pod_is_limited_both_ways(objects):
    for policies in _policies(objects):
        assert {direction for policy in policies for direction in policy["policyTypes"]} == {"Ingress", "Egress"}
        # A rule without ports lets everything through.
        assert all(
            rule.get("ports") for policy in policies for part in ("ingress", "egress") for rule in policy.get(part, [])
        )


def test_names_can_be_looked_up_and_metrics_scraped(objects, job):
    rules = [rule for policy in _allowed(objects, job) for rule in policy.get("egress", [])]
    assert {("UDP", 53), ("TCP", 53)} <= {(port["protocol"], port["port"]) for rule in rules for port in rule["ports"]}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    served = {port["name"] for port in container.get("ports", [])}
    scraped = {
        port["port"]
        for policy in _allowed(objects, job)
        for rule in policy.get("ingress", [])
        for port in rule["ports"]
    }
    assert served <= scraped == {"metrics"}
    if served:
        port = container["args"][container["args"].index("--metrics-port") + 1]
        assert {int(port)} == {port["containerPort"] for port in container["ports"]}


def _allowed(objects, job):
    policies = [policy["spec"] for policy in of_kind(objects, "NetworkPolicy")]
    return [policy for policy in policies if _selects(policy["podSelector"], job["spec"]["template"])]


def test_the_emulator_is_reached_where_there_is_one(objects, common, job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    address = {entry["name"]: entry.get("value") for entry in container["env"]}.get("STORAGE_EMULATOR_HOST")
    if not address:
        return
    host, port = re.fullmatch(r"http://([a-z-]+):(\d+)", address).groups()
    (service,) = [found for found in of_kind(common, "Service") if found["metadata"]["name"] == host]
    assert service["spec"]["ports"][0]["port"] == int(port)
    peers = [
        peer["podSelector"]["matchLabels"]
        for policy in _allowed(objects, job)
        for rule in policy.get("egress", [])
        for peer in rule["to"]
        if "podSelector" in peer
    ]
    assert service["spec"]["selector"] in peers
    assert any(_selects({"matchLabels": service["spec"]["selector"]}, template) for template in templates(common))


def test_a_programs_policy_is_for_its_own_pods_and_lets_in_one_namespaces_prometheus(objects, job):
    (policy,) = of_kind(objects, "NetworkPolicy")
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected == job["spec"]["template"]["metadata"]["labels"]
    assert selected["app.kubernetes.io/component"] in job["metadata"]["name"]
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert peer["podSelector"]["matchLabels"]


def test_no_policy_lets_out_to_any_address(made):
    for policy in of_kind(made, "NetworkPolicy"):
        for rule in policy["spec"]["egress"]:
            assert rule["to"]
            assert all(
                peer["ipBlock"].get("except")
                for peer in rule["to"]
                if "ipBlock" in peer and peer["ipBlock"]["cidr"].endswith("/0")
            )


def test_eight_gpus_have_the_cores_and_the_memory_that_they_need():
    (container,) = containers(render(K8S / "overlays" / "gpu-8" / "train"))
    limits = container["resources"]["limits"]
    (shared,) = [
        volume["emptyDir"]["sizeLimit"]
        for volume in templates(render(K8S / "overlays" / "gpu-8" / "train"))[0]["spec"]["volumes"]
        if volume["name"] == "shm"
    ]
    gpus, own = int(limits["nvidia.com/gpu"]), int(limits["memory"][:-2]) - int(shared[:-2])
    assert gpus == 8
    assert int(limits["cpu"]) >= 4 * gpus
    assert own >= 16 * gpus
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in (
        templates(render(K8S / "overlays" / "gpu-8" / "train"))[0]["spec"]["tolerations"]
    )


def test_components_add_up(tmp_path):
    names = ("base/train", "components/gpu", "components/spot", "components/pull-secret")
    base, *parts = (os.path.relpath(K8S / part, tmp_path) for part in names)
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{', '.join(parts)}]\n")
    (template,) = templates(render(tmp_path))
    keys = [each["key"] for each in template["spec"]["tolerations"]]
    assert keys == ["boceto.dev/dedicated", "nvidia.com/gpu", "cloud.google.com/gke-spot"]


@pytest.mark.parametrize("name", ["gke", "gpu-8"])
def test_a_release_overlay_names_images_by_digest_alone(name):
    images = [container["image"] for container in containers(render(K8S / "overlays" / name))]
    assert len(images) == len(JOBS)
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images)


def test_a_release_is_not_built_on_a_base_without_a_digest():
    command = ["make", "--silent", "image", "RELEASE=1", "PYTHON_IMAGE=python:3.11-slim", "IMAGES="]
    done = subprocess.run(command, cwd=K8S.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "PYTHON_IMAGE = 'python:3.11-slim' has no digest" in done.stdout
    command[-2] = f"PYTHON_IMAGE=python:3.11-slim@sha256:{'1' * 64}"
    assert subprocess.run(command, cwd=K8S.parent, check=False).returncode == 0


def test_an_image_can_be_given_by_digest(tmp_path):
    digest = f"sha256:{'0' * 64}"
    base = os.path.relpath(K8S / "base" / "train", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{base}]\nimages:\n  - {{name: boceto-train, newName: example.com/mine, digest: '{digest}'}}\n"
    )
    assert [container["image"] for container in containers(render(tmp_path))] == [f"example.com/mine@{digest}"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(K8S)))
def test_no_option_is_commented_out(path):
    option = r"^\s*#\s*(-\s+)?[\w./-]+:(\s|$)" if path.suffix == ".yaml" else r"^\s*#.*="
    assert not re.search(option, path.read_text(), re.MULTILINE)
