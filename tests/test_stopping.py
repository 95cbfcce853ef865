"""SIGTERM, and Ctrl-C with the whole process group, in the phases of every program: one line, 75, and no traceback.

Beside it: the writes of prepare and train (their test_crashes.py), and training itself (trainer/test_signals.py).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import api_server
import pytest
import yaml
from stopping import has_loaded, listens, session

JOB = "/apis/batch/v1/namespaces/here/jobs/first-train"
LABELS = {"app.kubernetes.io/managed-by": "boceto", "boceto.dev/run": "first", "app.kubernetes.io/component": "train"}
GS = "gs://bucket/folder"
# (verb, phase) -> (its words, what shows the phase: a library, a file, a line, or a request to a server).
PHASES = {
    ("demo", "begins"): ("--output OUT", "handlers"),
    ("inspect", "begins"): ("DATA", "handlers"),
    ("verify-resume", "begins"): ("--data DATA", "handlers"),
    ("train", "imports"): ("--data DATA --run OUT", "library tensorflow"),
    ("preflight", "imports"): ("--data DATA --run OUT", "library tensorflow"),
    ("prepare", "imports"): ("--source synthetic --output OUT", "library cygrpc"),
    ("eval", "imports"): (f"--data DATA --run {GS}", "library numba"),
    ("submit", "imports"): ("list", "library _yaml"),
    ("train", "silent storage"): (f"--data {GS} --run OUT", "asked"),
    ("prepare", "silent storage"): (f"--source synthetic --output {GS}", "asked"),
    ("eval", "silent storage"): (f"--data DATA --run {GS}", "asked"),
    ("inspect", "silent storage"): (GS, "asked"),
    ("demo", "silent storage"): (f"--output {GS}", "asked"),
    ("verify-resume", "silent storage"): (f"--data {GS}", "asked"),
    ("submit", "silent cluster"): ("run --context silent", "asked"),
    ("submit", "follows"): ("logs first", "GET"),
    ("submit", "stops"): ("stop first", "PATCH"),
    ("submit", "replaces"): ("run --replace --program train", "DELETE"),
    ("demo", "workers of prepare"): ("--output OUT", "file data/_work/read-*.json"),
    ("verify-resume", "a training begins"): ("--data DATA --batch-size 4 --work OUT", "line undisturbed, then"),
    ("verify-resume", "a training"): ("--data DATA --batch-size 4 --work OUT", "file reference/lease.json"),
}
HAS_CHILDREN = [
    cell for cell, (_, shown) in PHASES.items() if cell[0] in ("demo", "verify-resume") and shown.startswith("file")
]
WAYS = {
    "SIGTERM": lambda child: child.send_signal(signal.SIGTERM),
    "Ctrl-C": lambda child: os.killpg(child.pid, signal.SIGINT),
    "twice": lambda child: (os.killpg(child.pid, signal.SIGINT), child.send_signal(signal.SIGTERM)),
}


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers, and the event of the first."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as taken:

        def take():
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(server.accept()[0])
                    asked.set()

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def api():
    """An API server with a Job of ours, which is removed only in a while."""
    with api_server.serving() as server:
        metadata = {"name": "first-train", "labels": LABELS, "annotations": {}, "finalizers": ["example.com/slow"]}
        server.put(
            JOB,
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": metadata,
                "spec": {"template": {"spec": {}}},
                "status": {},
            },
        )
        pod = {
            "name": "first-train-a",
            "labels": {"batch.kubernetes.io/controller-uid": server.objects[JOB]["metadata"]["uid"]},
        }
        server.put(
            "/api/v1/namespaces/here/pods/first-train-a",
            {"kind": "Pod", "metadata": pod, "spec": {"containers": [{}]}, "status": {"phase": "Running"}},
        )
        yield server


@pytest.fixture
def environment(tmp_path, silent, api):
    """Of the programs: their storage is silent, their cluster is `api`."""
    contexts = {"there": api.url, "silent": silent[0]}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "there",
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "u", "namespace": "here"}} for name in contexts
        ],
        "clusters": [{"name": name, "cluster": {"server": url}} for name, url in contexts.items()],
        "users": [{"name": "u", "user": {"token": "a-token"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    return os.environ | {"STORAGE_EMULATOR_HOST": silent[0], "KUBECONFIG": str(tmp_path / "kubeconfig")}


@pytest.mark.parametrize(
    ("verb", "phase", "way"),
    [(*cell, "SIGTERM") for cell in PHASES if cell not in HAS_CHILDREN]
    + [(*cell, way) for cell in HAS_CHILDREN for way in WAYS]
    + [("submit", "follows", "Ctrl-C"), ("inspect", "silent storage", "twice")],
)
def test_a_program_that_is_asked_to_stop_ends_in_one_line(  # noqa: PLR0913, PLR0917 - what its world is made of
    tmp_path, make_data, silent, api, environment, verb, phase, way
):
    words, shown = PHASES[verb, phase]
    if phase == "replaces":
        api.objects[JOB]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    kind, _, what = shown.partition(" ")
    output, said = tmp_path / "out", tmp_path / "said"
    words = words.replace("OUT", str(output)).replace("DATA", make_data())
    shows = {
        "handlers": lambda: listens(child.pid),
        "library": lambda: has_loaded(child.pid, what),
        "asked": silent[1].is_set,
        "file": lambda: any(output.glob(what)),
        "line": lambda: what in said.read_text(),
    }
    happened = shows.get(kind) or (lambda: [kind, JOB] in [[method, path] for method, path, *_ in api.requests])
    with said.open("w") as file, subprocess.Popen(
        [sys.executable, "-m", "boceto", verb, *words.split()],
        stdout=file, stderr=file, env=environment, start_new_session=True,
    ) as child:  # fmt: skip
        while not happened():
            assert child.poll() is None, said.read_text()
            time.sleep(0.005)
        WAYS[way](child)
    text = said.read_text()
    assert not session(child.pid)
    assert child.returncode == 75, text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert text.splitlines()[-1].startswith(f"boceto {verb}: stopped"), text
    assert text.count(f"boceto {verb}: ") == 1, text
    assert verb != "verify-resume" or not list(output.glob("*"))
