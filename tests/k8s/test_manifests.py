"""What the manifests promise, a test a rule, over every job of every overlay."""

import os
import re

import kubernetes_validate
import pytest
from manifests import COMPONENTS, K8S, OVERLAYS, containers, of_kind, render, templates

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
    assert {"gpu", "spot", "queue", "bucket-gcs", "volume", "emulator"} <= set(COMPONENTS)


def test_an_overlay_makes_one_job_of_one_image_of_ours(folder, objects, job):
    assert job["metadata"]["name"] == f"boceto-{folder.name}"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "boceto"
    assert container["args"][0] == folder.name
    image, _, tag = container["image"].rpartition("/")[2].partition(":")
    assert image == f"boceto-{folder.name}"
    assert tag


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


def test_a_job_whose_time_is_bounded_has_a_deadline(folder, job):
    assert ("activeDeadlineSeconds" in job["spec"]) == (folder.name != "train")


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


def test_no_pod_gets_a_token_of_the_api_but_a_trainer_that_may_write_on_its_job(objects, job):
    roles = of_kind(objects, "Role")
    for template in templates(objects):
        mine = bool(roles) and template is job["spec"]["template"]
        assert template["spec"]["automountServiceAccountToken"] is mine
    assert not of_kind(objects, "ClusterRole")
    assert [role["rules"] for role in roles] == len(roles) * [
        [
            {
                "apiGroups": ["batch"],
                "resources": ["jobs"],
                "resourceNames": [job["metadata"]["name"]],
                "verbs": ["patch"],
            }
        ]
    ]
    for binding in of_kind(objects, "RoleBinding"):
        assert binding["roleRef"]["name"] in [role["metadata"]["name"] for role in roles]
        accounts = [subject["name"] for subject in binding["subjects"]]
        assert accounts == [job["spec"]["template"]["spec"]["serviceAccountName"]]
    assert all(account["automountServiceAccountToken"] is False for account in of_kind(objects, "ServiceAccount"))


def test_a_job_has_an_account_of_its_own(objects, job):
    names = [account["metadata"]["name"] for account in of_kind(objects, "ServiceAccount")]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] in names


def test_no_secret_is_made_or_read(objects):
    assert not of_kind(objects, "Secret")
    assert not re.search(
        r"secretKeyRef|secretRef|secretName|imagePullSecrets|GOOGLE_APPLICATION_CREDENTIALS", str(objects)
    )


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


def test_the_emulator_is_reached_where_there_is_one(objects, job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    address = {entry["name"]: entry.get("value") for entry in container["env"]}.get("STORAGE_EMULATOR_HOST")
    if not address:
        return
    host, port = re.fullmatch(r"http://([a-z-]+):(\d+)", address).groups()
    (service,) = [found for found in of_kind(objects, "Service") if found["metadata"]["name"] == host]
    assert service["spec"]["ports"][0]["port"] == int(port)
    peers = [
        peer["podSelector"]["matchLabels"]
        for policy in _allowed(objects, job)
        for rule in policy.get("egress", [])
        for peer in rule.get("to", [])
    ]
    assert service["spec"]["selector"] in peers
    (server,) = [
        template for template in templates(objects) if _selects({"matchLabels": service["spec"]["selector"]}, template)
    ]
    assert server is not job["spec"]["template"]


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
