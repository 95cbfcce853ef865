"""The trainer tells its Job of its progress: over TLS, with the pod's own token, and never at the run's expense."""

import datetime as dt
import ipaddress
import json
import ssl

import api_server
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trainer import cluster, environment
from trainer.environment import Pod

JOB = "/apis/batch/v1/namespaces/here/jobs/first-train"


def _certificate():
    """-> (a certificate for this machine that signs itself, its key), PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    now = dt.datetime.now(dt.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return certificate.public_bytes(pem), key.private_bytes(pem, form, serialization.NoEncryption())


@pytest.fixture
def account(tmp_path):
    """What Kubernetes mounts into a pod, and the server's own key."""
    certificate, key = _certificate()
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "token").write_text("a-token")
    (tmp_path / "namespace").write_text("here")
    return tmp_path


@pytest.fixture
def api(account):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "key")
    with api_server.serving(lambda socket: context.wrap_socket(socket, server_side=True)) as server:
        server.put(JOB, {"kind": "Job", "metadata": {"name": "first-train", "annotations": {"kept": "yes"}}})
        yield server


def _pod(server, account):
    return Pod("127.0.0.1", server.server_port, "first-train", str(account))


def test_the_last_state_stands_on_the_job(api, account):
    states = iter([{"progress": "step 7/7", "checkpoint": "step 7"}])
    alerts = []
    with cluster.reporting(_pod(api, account), lambda: next(states), alerts.append):
        pass
    annotations = api.objects[JOB]["metadata"]["annotations"]
    assert annotations == {"kept": "yes", "boceto.dev/progress": "step 7/7", "boceto.dev/checkpoint": "step 7"}
    ((method, _, headers, body),) = api.requests
    assert (method, headers["Authorization"]) == ("PATCH", "Bearer a-token")
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert json.loads(body).keys() == {"metadata"}
    assert alerts == []


def test_it_is_written_from_time_to_time_and_only_when_it_changes(api, account, monkeypatch):
    monkeypatch.setattr(cluster, "EVERY", 0.01)
    texts = iter(["a", "a", "a", "b"])
    with cluster.reporting(_pod(api, account), lambda: {"progress": next(texts, "b")}, pytest.fail):
        while len(api.requests) < 2:
            pass
    assert [json.loads(body)["metadata"]["annotations"] for *_, body in api.requests] == [
        {"boceto.dev/progress": "a"},
        {"boceto.dev/progress": "b"},
    ]


def test_a_refusal_is_told_once_and_the_run_goes_on(api, account, monkeypatch):
    monkeypatch.setattr(cluster, "EVERY", 0.01)
    api.forbidden = "jobs"
    alerts = []
    with cluster.reporting(_pod(api, account), lambda: {"progress": "a"}, alerts.append):
        while len(api.requests) < 3:
            pass
    (alert,) = alerts
    assert alert.startswith("the progress cannot be written on Job first-train: the API answers 403")


def test_a_server_that_another_signed_for_gets_no_token(api, account):
    (account / "ca.crt").write_bytes(_certificate()[0])
    alerts = []
    with cluster.reporting(_pod(api, account), lambda: {"progress": "a"}, alerts.append):
        pass
    assert api.requests == []
    assert "certificate verify failed" in alerts[0]


def test_outside_of_a_pod_nothing_happens(monkeypatch):
    monkeypatch.delenv("BOCETO_JOB", raising=False)
    assert environment.pod() is None
    with cluster.reporting(None, lambda: pytest.fail("asked"), pytest.fail):
        pass


def test_a_pod_knows_its_job_and_its_api(monkeypatch):
    monkeypatch.setenv("BOCETO_JOB", "first-train")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert environment.pod() == Pod("10.0.0.1", 6443, "first-train")
