"""A Prometheus beside the cluster, as docs/monitoring.md has it: it asks the API for pods, with the rights given there.

It reaches pods at their own addresses, so the machine must be one of the cluster's network.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import watch
import yaml
from cluster import ROOT, Cluster, Failed

INTERVAL = "2s"
# A build of its own: Debian's knows no Kubernetes. `make e2e` makes it.
PROGRAM = watch.LOCAL / "prometheus-kubernetes"
LABELS = "jobs=[app.kubernetes.io/name,boceto.dev/run]"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((watch.HOST, 0))
        return int(probe.getsockname()[1])


def _kubeconfig(cluster: Cluster, path: Path) -> Path:
    """Writes the kubeconfig of the account that rights.yaml gives rights to, for a Prometheus in this namespace."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "prometheus"}}
    rights = (ROOT / "k8s/prometheus/rights.yaml").read_text()
    assert "namespace: monitoring" in rights
    rights = rights.replace("namespace: monitoring", f"namespace: {cluster.namespace}")
    cluster.kubectl("apply", "--filename", "-", given=f"{json.dumps(account)}\n---\n{rights}")
    (found,) = json.loads(cluster.kubectl("config", "view", "--minify", "--raw", "--output", "json"))["clusters"]
    context = {"name": "here", "context": {"cluster": found["name"], "user": "prometheus"}}
    user = {"name": "prometheus", "user": {"token": cluster.kubectl("create", "token", "prometheus").strip()}}
    config = {"current-context": "here", "clusters": [found], "contexts": [context], "users": [user]}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
    return path


def _configuration(cluster: Cluster, folder: Path, states: int) -> dict[str, Any]:
    """prometheus.yml, from outside of the cluster and in haste; states: the port of kube-state-metrics here, or 0."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "k8s/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    pods, jobs = config["scrape_configs"]
    (discovery,) = pods["kubernetes_sd_configs"]
    discovery["kubeconfig_file"] = str(_kubeconfig(cluster, folder / "kubeconfig"))
    discovery["namespaces"]["names"] = [cluster.namespace]
    jobs["static_configs"] = [{"targets": [f"{watch.HOST}:{states}"] if states else []}]
    return config


@contextlib.contextmanager
def prometheus(cluster: Cluster, haste: Mapping[str, str], states: int = 0) -> Iterator[str]:
    """A Prometheus that scrapes the namespace; yields its address. haste: what is replaced in the rules."""
    with tempfile.TemporaryDirectory(prefix="boceto-e2e-") as name:
        folder = Path(name)
        rules = {path: (ROOT / "k8s/prometheus" / path).read_text() for path in ("rules.yml", "jobs.yml")}
        for words in haste:
            assert any(words in text for text in rules.values()), words
        for path, text in rules.items():
            for words, instead in haste.items():
                text = text.replace(words, instead)  # noqa: PLW2901 - one after the other
            (folder / path).write_text(text)
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(_configuration(cluster, folder, states)))
        with watch.running(config, _free_port(), PROGRAM) as address:
            yield address


@contextlib.contextmanager
def states(cluster: Cluster) -> Iterator[int]:
    """kube-state-metrics for the namespace; yields its port.

    Raises:
        LeftOut: it is not installed.
    """
    program = shutil.which("kube-state-metrics")
    if not program:
        raise LeftOut("kube-state-metrics is not on PATH: build it in a clone of its repository with `go build .`")
    port = _free_port()
    config = os.environ.get("KUBECONFIG", str(Path.home() / ".kube/config"))
    words = [f"--kubeconfig={config}", "--resources=jobs,pods", f"--namespaces={cluster.namespace}", f"--port={port}"]
    words += [f"--metric-labels-allowlist={LABELS}", f"--telemetry-port={_free_port()}", f"--host={watch.HOST}"]
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


class LeftOut(Failed):
    """A scenario was not tried, for want of a program."""
