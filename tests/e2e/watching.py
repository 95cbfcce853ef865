"""A Prometheus beside the cluster, which finds pods by annotation.

It is told of all pods as the API tells of them, and k8s/prometheus/prometheus.yml chooses which it scrapes; each is
reached through a port that kubectl forwards, as on any cluster. Debian's Prometheus cannot ask the API itself.
"""

import contextlib
import re
import select
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import watch
from cluster import Cluster, Failed

INTERVAL = "2s"
PATIENCE = 5.0  # Seconds until kubectl says that it forwards.
_FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


def labels_of(pod: Mapping[str, Any], port: Mapping[str, Any]) -> dict[str, str]:
    """What Prometheus's discovery says of a port of a pod."""
    metadata = pod["metadata"]
    found = {
        "namespace": metadata["namespace"],
        "pod_name": metadata["name"],
        "pod_phase": pod["status"]["phase"],
        "pod_container_port_name": port.get("name", ""),
        "pod_container_port_number": str(port["containerPort"]),
    }
    for kind in ("label", "annotation"):
        for name, value in metadata.get(f"{kind}s", {}).items():
            found[f"pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', name)}"] = value
    return {f"__meta_kubernetes_{name}": value for name, value in found.items()}


class Forwards:
    """Ports of this machine that lead to ports of pods."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._open: dict[tuple[str, int], tuple[subprocess.Popen[str], int]] = {}
        self._known: list[dict[str, Any]] = []

    def targets(self) -> list[dict[str, Any]]:
        """All ports of the pods that run, as `file_sd_configs` reads them; those of before where the API is silent."""
        with contextlib.suppress(Failed):
            self._known = self._targets()
        return self._known

    def _targets(self) -> list[dict[str, Any]]:
        pods = [pod for pod in self._cluster.get("pods")["items"] if pod["status"]["phase"] == "Running"]
        ports = [
            (pod, port)
            for pod in pods
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        ]
        self._close_all_but({pod["metadata"]["name"] for pod in pods})
        reached = [(self._here(pod["metadata"]["name"], port["containerPort"]), pod, port) for pod, port in ports]
        return [
            {"targets": [f"{watch.HOST}:{here}"], "labels": labels_of(pod, port)} for here, pod, port in reached if here
        ]

    def close(self) -> None:
        """Ends all of them."""
        self._close_all_but(set())

    def _here(self, pod: str, port: int) -> int:
        """The port of this machine that leads there; 0 where none does yet."""
        process, here = self._open.get((pod, port), (None, 0))
        if process is None or process.poll() is not None:
            process = self._cluster.start("port-forward", f"pod/{pod}", f":{port}")
            said, _, _ = select.select([process.stdout], [], [], PATIENCE)
            found = _FORWARDED.search(process.stdout.readline()) if said else process.kill()
            here = int(found[1]) if found else 0
            self._open[pod, port] = process, here
        return here

    def _close_all_but(self, pods: set[str]) -> None:
        for key in [key for key in self._open if key[0] not in pods]:
            process, _ = self._open.pop(key)
            process.kill()
            process.communicate()


@contextlib.contextmanager
def prometheus(cluster: Cluster, haste: Mapping[str, str]) -> Iterator[str]:
    """A Prometheus that scrapes the namespace; yields its address. haste: what is replaced in the rules."""
    with tempfile.TemporaryDirectory(prefix="boceto-e2e-") as name:
        folder, rules = Path(name), watch.RULES.read_text()
        for words, instead in haste.items():
            assert words in rules, words
            rules = rules.replace(words, instead)
        (folder / "rules.yml").write_text(rules)
        with socket.socket() as probe:
            probe.bind((watch.HOST, 0))
            port = probe.getsockname()[1]
        with (
            contextlib.closing(Forwards(cluster)) as forwards,
            watch.prometheus(folder, port, INTERVAL, folder / "rules.yml") as address,
            watch.following(folder / "targets.json", forwards.targets),
        ):
            yield address
