"""A Prometheus on this machine beside `boceto demo`, with our rules and page: `make watch`.

Its configuration is k8s/prometheus/prometheus.yml, with a file of targets in place of the cluster's API: a program that
answers stands in it with the labels that its pod would have.
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
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from boceto import demo, process
from boceto.console import Console, run_program
from boceto.errors import BocetoError

HERE = Path(__file__).parent
RULES = HERE / "rules.yml"
LOCAL = Path(sys.executable).parent  # `make` puts what it fetches beside Python.
HOST, PORT, FIRST = "127.0.0.1", 9090, 9191
INTERVAL = "2s"
LINGER = "9"  # At most: Prometheus takes up to 5 seconds to see a target, then a scrape.
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.3, 30.0


class Missing(BocetoError):  # noqa: N818 - it is what is wrong
    """A program of Prometheus is not installed."""


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`.

    Raises:
        Missing: it is nowhere.
    """
    found = shutil.which(name) or shutil.which(name, path=str(LOCAL))
    if not found:
        raise Missing(f"there is no {name} on PATH; install Prometheus (Debian, Ubuntu: apt-get install prometheus)")
    return found


def target(port: int, component: str, run: str, namespace: str = "local") -> dict[str, Any]:
    """A target as `file_sd_configs` reads it, with the labels that the cluster's API gives a pod's."""
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


def configuration(targets: Path, interval: str, rules: Path = RULES) -> dict[str, Any]:
    """prometheus.yml for targets out of a file."""
    config = yaml.safe_load((HERE / "prometheus.yml").read_text())
    # Rules look several times between two scrapes: a short program is seen by few.
    config["global"] = {"scrape_interval": interval, "evaluation_interval": "250ms"}
    config["rule_files"] = [str(rules)]
    pods = config["scrape_configs"][0]
    del pods["kubernetes_sd_configs"]
    pods["file_sd_configs"] = [{"files": [str(targets)]}]
    config["scrape_configs"] = [pods]
    return config


def answers(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def prometheus(folder: Path, port: int, interval: str = INTERVAL, rules: Path = RULES) -> Iterator[str]:
    """Runs Prometheus, scraping what stands in `folder`/targets.json; yields its address.

    Raises:
        Missing: it is not installed.
        OSError: it does not start; its log is told.
    """
    targets, config = folder / "targets.json", folder / "prometheus.yml"
    targets.write_text("[]")
    config.write_text(yaml.safe_dump(configuration(targets, interval, rules)))
    with running(config, port, tool("prometheus")) as address:
        yield address


@contextlib.contextmanager
def running(config: Path, port: int, program: str | Path) -> Iterator[str]:
    """Runs a Prometheus on a configuration, with our pages; yields its address. Its series and log are beside that."""
    folder = config.parent
    words = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address={HOST}:{port}",
        f"--web.console.templates={HERE / 'consoles'}",
        f"--web.console.libraries={folder}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *words], stdout=log, stderr=log)
    address = f"http://{HOST}:{port}"
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not _ready(address):
            if process.poll() is not None or time.monotonic() > until:
                raise OSError(f"Prometheus does not start: {(folder / 'log').read_text().splitlines()[-1]}")
            time.sleep(_LOOK_SECONDS)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=1):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def following(file: Path, find: Callable[[], list[dict[str, Any]]]) -> Iterator[None]:
    """Keeps what `find` finds in the file of targets, while the block runs."""
    over = threading.Event()

    def follow() -> None:
        known: list[dict[str, Any]] = []
        while not over.wait(_LOOK_SECONDS):
            found = find()
            if found != known:
                fresh = file.with_suffix(".new")
                fresh.write_text(json.dumps(found))
                fresh.replace(file)
                known = found

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def answering(programs: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets of those programs, by port, that answer."""
    return [entry for port, entry in programs.items() if answers(port)]


def demo_programs(first: int) -> dict[int, dict[str, Any]]:
    """The demo's programs by port."""
    return {port: target(port, verb, run) for (run, verb), port in demo.ports(first).items()}


def main(console: Console) -> tuple[Mapping[str, Any], bool]:
    """Runs the demo under the eyes of a Prometheus, until Ctrl-C."""
    port = int(os.environ.get("PORT", PORT))
    with tempfile.TemporaryDirectory(prefix="boceto-watch-") as name:
        folder = Path(name)
        programs = demo_programs(FIRST)
        with prometheus(folder, port) as address, following(folder / "targets.json", lambda: answering(programs)):
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
