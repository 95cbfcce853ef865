"""A Prometheus on this machine beside `boceto demo`, with our rules and page: `make watch`.

Its configuration is k8s/prometheus/prometheus.yml, with a file of targets in place of the cluster's API. The file lists
the programs that answer, with the labels that their pods would have.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from boceto import demo, process
from boceto.console import Console, run_program
from boceto.errors import BocetoError

HERE = Path(__file__).parent
LOCAL = Path(sys.executable).parent  # `make` puts downloaded programs beside Python.
HOST, PORT, FIRST = "127.0.0.1", 9090, 9191
INTERVAL = "2s"
LINGER = "9"  # At most: Prometheus takes up to 5 seconds to see a target, then a scrape.
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.3, 30.0


def tool(name: str) -> str:
    """Returns the path of `prometheus` or `promtool`.

    Raises:
        BocetoError: it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=str(LOCAL))
    if not found:
        raise BocetoError(
            f"there is no {name} on PATH; install Prometheus (Debian, Ubuntu: apt-get install prometheus)"
        )
    return found


def target(port: int, component: str, run: str, namespace: str = "local") -> dict[str, Any]:
    """Returns a target as `file_sd_configs` reads it, with the labels that the cluster's API gives a pod."""
    meta = "__meta_kubernetes_"
    labels = {
        "namespace": namespace,
        "pod_name": f"{run}-{component}",
        "pod_phase": "Running",
        "pod_container_port_name": "metrics",
        "pod_annotation_prometheus_io_scrape": "true",
        "pod_label_app_kubernetes_io_name": "boceto",
        "pod_label_app_kubernetes_io_component": component,
        "pod_label_boceto_dev_run": run,
    }
    return {"targets": [f"{HOST}:{port}"], "labels": {meta + name: value for name, value in labels.items()}}


def configuration(targets: Path, interval: str) -> dict[str, Any]:
    """Returns prometheus.yml with a file of targets in place of the cluster's API."""
    config: dict[str, Any] = yaml.safe_load((HERE / "prometheus.yml").read_text())
    # Rules look several times between two scrapes: few scrapes see a short program.
    config["global"] = {"scrape_interval": interval, "evaluation_interval": "250ms"}
    config["rule_files"] = [str(HERE / "rules.yml")]
    pods = config["scrape_configs"][0]
    del pods["kubernetes_sd_configs"]
    pods["file_sd_configs"] = [{"files": [str(targets)]}]
    config["scrape_configs"] = [pods]
    return config


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def prometheus(
    folder: Path, port: int, programs: Mapping[int, dict[str, Any]], interval: str = INTERVAL
) -> Iterator[str]:
    """Runs Prometheus on those of the programs that answer, given as targets by port; yields its address.

    Raises:
        BocetoError: it is not installed.
        OSError: it does not start; the error has the last line of its log.
    """
    targets, config, over = folder / "targets.json", folder / "prometheus.yml", threading.Event()
    config.write_text(yaml.safe_dump(configuration(targets, interval)))

    def follow() -> None:
        known = None
        while True:
            found = [entry for number, entry in programs.items() if _answers(number)]
            if found != known:
                fresh = targets.with_suffix(".new")
                fresh.write_text(json.dumps(found))
                fresh.replace(targets)
                known = found
            if over.wait(_LOOK_SECONDS):
                return

    thread = threading.Thread(target=follow, daemon=True)
    with running(config, port, tool("prometheus")) as address:
        thread.start()
        try:
            yield address
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def running(config: Path, port: int, program: str | Path) -> Iterator[str]:
    """Runs a Prometheus on a configuration, with our pages; yields its address. Its series and log are beside that."""
    folder, address = config.parent, f"http://{HOST}:{port}"
    words = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address={HOST}:{port}",
        f"--web.console.templates={HERE / 'consoles'}",
        f"--web.console.libraries={folder}",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, *words], stdout=log, stderr=log)
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not _ready(address):
            if server.poll() is not None or time.monotonic() > until:
                raise OSError(f"Prometheus does not start: {(folder / 'log').read_text().splitlines()[-1]}")
            time.sleep(_LOOK_SECONDS)
        yield address
    finally:
        server.terminate()
        server.wait()


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=1):
            return True
    except OSError:
        return False


def main(console: Console) -> tuple[Mapping[str, Any], bool]:
    """Runs the demo beside a Prometheus, until Ctrl-C."""
    port = int(os.environ.get("PORT", PORT))
    with tempfile.TemporaryDirectory(prefix="boceto-watch-") as name:
        folder = Path(name)
        programs = {number: target(number, verb, run) for (run, verb), number in demo.ports(FIRST).items()}
        with prometheus(folder, port, programs) as address:
            console.line(f"look at {address}/consoles/boceto.html")
            words = ["--output", str(folder / "demo"), "--metrics-port", str(FIRST), "--metrics-linger", LINGER]
            with process.child([sys.executable, "-m", "boceto", "demo", *words], subprocess.Popen.terminate) as child:
                code = child.wait()
            console.line(f"the demo has ended; {address}/consoles/boceto.html stays until Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    if code:
        raise demo.StepFailed("demo", code)
    return {}, False


if __name__ == "__main__":
    process.begin("watch")
    process.end(run_program("watch", main))
