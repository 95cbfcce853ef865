"""A namespace of a real cluster, through kubectl: what the scenarios do to it and ask of it."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = ("prepare", "train", "eval")
# Signals reach a process of another container, or one that is not process 1, where they share their processes.
SHARED = {"op": "add", "path": "/spec/template/spec/shareProcessNamespace", "value": True}
# Beside the emulator, whose image has no shell: somebody who can stop it and set it going again.
WARDEN = {
    "name": "warden",
    "command": ["python", "-c", "import time; time.sleep(86400)"],
    "resources": {
        "requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "16Mi"},
        "limits": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "16Mi"},
    },
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
}
SIGNAL = """
import os, signal, sys
name, number, own = sys.argv[1].encode(), int(sys.argv[2]), os.getpid()
for process in filter(str.isdecimal, os.listdir("/proc")):
    words = open(f"/proc/{process}/cmdline", "rb").read().split(bytes(1))
    if int(process) != own and any(word.rpartition(b"/")[2] == name for word in words[:2]):
        os.kill(int(process), number)
        print(process)
"""


class Failed(AssertionError):  # noqa: N818 - it says what happened
    """A scenario did not end as it should."""


def check(fact: object, text: str) -> None:
    """Raises Failed where something is not so."""
    if not fact:
        raise Failed(text)


class Cluster:
    """One namespace. folder: of the overlays that the scenarios apply."""

    def __init__(self, namespace: str, folder: Path, tag: str) -> None:
        self.namespace = namespace
        self.folder = folder
        self.tag = tag
        self._begun: list[Submit] = []

    def kubectl(self, *words: str, given: str | None = None, fails: bool = False) -> str:
        """What kubectl says in this namespace; fails: it may refuse."""
        done = subprocess.run(
            ["kubectl", "--namespace", self.namespace, *words], input=given, capture_output=True, text=True, check=False
        )
        check(fails or not done.returncode, f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """kubectl in this namespace, under way."""
        whole = ["kubectl", "--namespace", self.namespace, *words]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def get(self, *words: str) -> Any:
        """Objects of the API."""
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def overlay(self, name: str, *patches: dict[str, Any], components: Sequence[str] = ()) -> Path:
        """A folder of overlays on `local`, for this namespace, with more components, and patches to the Job."""
        made = [{"target": {"kind": "Job"}, "patch": json.dumps([each])} for each in patches]
        for program in PROGRAMS:
            self._overlay(name, program, made, components)
        warden = {"op": "add", "path": "/spec/template/spec/containers/-", "value": {**WARDEN, "image": self.warden}}
        self._overlay(name, "shared", [{"target": {"kind": "Deployment"}, "patch": json.dumps([SHARED, warden])}], ())
        return self.folder / name

    def _overlay(self, name: str, part: str, patches: list[dict[str, Any]], components: Sequence[str]) -> None:
        folder = self.folder / name / part
        folder.mkdir(parents=True)
        content = {
            "namespace": self.namespace,
            "resources": [_from(folder, "overlays", "local", part)],
            "components": [_from(folder, "components", each) for each in components],
            "images": [{"name": f"boceto-{each}", "newTag": self.tag} for each in (*PROGRAMS, "emulator")],
            "patches": patches,
        }
        (folder / "kustomization.yaml").write_text(json.dumps(content))

    @property
    def warden(self) -> str:
        """The image of the warden."""
        return f"boceto-prepare:{self.tag}"

    def submit(self, *words: str) -> "Submit":
        """`boceto submit` with these words, under way."""
        begun = Submit([*words, "--namespace", self.namespace])
        self._begun.append(begun)
        return begun

    def end_all(self) -> None:
        """Ends what a scenario that failed has left under way."""
        for each in self._begun:
            each.kill()

    def pods(self, job: str) -> list[dict[str, Any]]:
        """A Job's pods, oldest first."""
        found = self.get("pods", "--selector", f"batch.kubernetes.io/job-name={job}")["items"]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def ended(self, job: str, seconds: float = 300) -> str:
        """Waits until a Job is Complete or Failed, and says which."""

        def look() -> str:
            conditions = self.get("job", job).get("status", {}).get("conditions", [])
            true = [each["type"] for each in conditions if each["status"] == "True"]
            return next((kind for kind in ("Complete", "Failed") if kind in true), "")

        return str(wait(look, f"the end of {job}", seconds))

    def messages(self, job: str) -> list[str]:
        """The termination messages of a Job's pods."""
        statuses = [status for pod in self.pods(job) for status in pod["status"].get("containerStatuses", [])]
        return [status["state"].get("terminated", {}).get("message", "").strip() for status in statuses]

    def result(self, job: str) -> dict[str, Any]:
        """What a Job that is done says last."""
        found: dict[str, Any] = json.loads(self.messages(job)[-1])
        return found

    def training(self, job: str, gone: Sequence[str] = (), seconds: float = 120) -> str:
        """Waits until a pod of a Job, none of those that are `gone`, trains; returns its name."""

        def look() -> str:
            for pod in self.pods(job):
                name = pod["metadata"]["name"]
                if name not in gone and pod["status"]["phase"] == "Running":
                    said = self.kubectl("logs", name, fails=True)
                    if re.search(r"steps \d+ to \d+", said):
                        return name
            return ""

        return str(wait(look, f"a pod of {job} that trains", seconds))

    def signal(self, pod: str, container: str, process: str, number: int) -> None:
        """Sends a signal to the processes of a pod that are named so."""
        words = ("exec", pod, "--container", container, "--", "python", "-c", SIGNAL, process, str(number))
        check(self.kubectl(*words).strip(), f"no process {process} in {pod}")

    def evict(self, pod: str) -> None:
        """Asks for a pod's eviction by the Eviction API."""
        metadata = {"name": pod, "namespace": self.namespace}
        given = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "--filename", "-", given=given)

    @contextlib.contextmanager
    def drained(self, pod: str, selector: str) -> Iterator[None]:
        """The pod's node takes no pods for a while, and those that match the selector have gone."""
        node = self.get("pod", pod)["spec"]["nodeName"]
        try:
            self.kubectl("drain", node, "--pod-selector", selector, "--delete-emptydir-data", "--timeout=120s")
            yield
        finally:
            self.kubectl("uncordon", node)

    def documented(self, path: str) -> dict[str, list[str]]:
        """The blocks of commands of a document, by their section's title."""
        sections = re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", (ROOT / path).read_text(), re.MULTILINE)
        found = {title: re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE) for title, text in sections}
        return {title: [textwrap.dedent(block).strip() for block in blocks] for title, blocks in found.items()}

    def shell(self, commands: str) -> str:
        """Runs commands as they are written, in the repository's folder and with this namespace as the context's."""
        config = self.folder / "kubeconfig"
        config.write_text(self.kubectl("config", "view", "--raw", "--minify", "--flatten"))
        self.kubectl("--kubeconfig", str(config), "config", "set-context", "--current")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "KUBECONFIG": str(config), "PATH": path}
        done = subprocess.run(
            ["sh", "-ec", commands], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        check(not done.returncode, f"{commands}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def storage_pod(self) -> str:
        """The pod of the emulator."""
        (pod,) = self.get("pods", "--selector", "app.kubernetes.io/name=boceto-storage")["items"]
        return str(pod["metadata"]["name"])

    def objects(self, prefix: str) -> list[str]:
        """The names in the bucket below a prefix."""
        found = json.loads(self._bucket("get", f"/storage/v1/b/boceto/o?prefix={urllib.parse.quote(prefix, safe='')}"))
        return [each["name"] for each in found.get("items", [])]

    def read(self, name: str) -> Any:
        """A JSON object of the bucket."""
        return json.loads(self._bucket("get", f"/storage/v1/b/boceto/o/{urllib.parse.quote(name, safe='')}?alt=media"))

    def write(self, name: str, path: Path) -> None:
        """Puts a file into the bucket."""
        where = f"/upload/storage/v1/b/boceto/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
        self._bucket("create", where, "--filename", str(path))

    def _bucket(self, verb: str, path: str, *words: str) -> str:
        proxy = f"/api/v1/namespaces/{self.namespace}/services/boceto-storage:4443/proxy"
        return self.kubectl(verb, "--raw", proxy + path, *words)


def _from(folder: Path, *path: str) -> str:
    """The way from a folder to something of k8s/, which kustomize wants to be relative."""
    return os.path.relpath(ROOT.joinpath("k8s", *path), folder.resolve())


class Submit:
    """A `boceto submit` under way."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as this
        self._process = subprocess.Popen(
            [sys.executable, "-m", "k8s", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(2)

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """-> (its exit code, all that it said)."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(
                f"boceto submit {' '.join(self.words)} took longer than {seconds:g} s: {self._said()}"
            ) from None
        return code, self._said()

    def well(self, seconds: float = 300) -> str:
        """All that it said; it must have ended with 0."""
        code, said = self.end(seconds)
        check(code == 0, f"boceto submit {' '.join(self.words)}: exit code {code}: {said}")
        return said

    def kill(self) -> None:
        """Ends it at once, where it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read()


def wait(look: Any, what: str, seconds: float) -> Any:
    """What `look` finds, as soon as that is something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.5)
    raise Failed(f"{what} did not come within {seconds:g} s")


def reachable() -> str:
    """Why no cluster can be reached; "" where one can."""
    try:
        done = subprocess.run(
            ["kubectl", "get", "--raw", "/readyz", "--request-timeout", "5s"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "kubectl is not on PATH"
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@contextlib.contextmanager
def namespace(tag: str) -> Iterator[Cluster]:
    """A namespace with Pod Security restricted enforced, gone afterwards with all that is in it."""
    name = f"boceto-e2e-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="boceto-e2e-") as folder:
        cluster = Cluster(name, Path(folder), tag)
        cluster.kubectl("create", "namespace", name)
        try:
            cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
            yield cluster
        finally:
            cluster.end_all()
            cluster.kubectl("delete", "namespace", name, "--timeout=180s")
