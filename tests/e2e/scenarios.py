"""What must hold on a real cluster, a function a scenario. They share a namespace, and the data set of the first."""

import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import watched as asking
import watching
from cluster import PROGRAMS, ROOT, SHARED, Cluster, check, namespace, wait

from boceto.errors import EXIT_DATA

LONG = ("--set", "train.epochs=40", "--set", "train.save_every=20")
OUTAGE = 30.0  # Seconds.
KILL, STOP, GO_ON = 9, 19, 18
HUNG = 30  # Seconds without a sign of life, for the probe.
STALLED, STALLED_HERE = 600, 30  # Seconds without a step, by the rules and for who would not wait so long.
NEAR = 0.02
# A small data set out of files with a fault in them, and a training that is long enough to be stopped.
ZIGZAGS = tuple(
    word
    for setting in (
        "prepare.source=quickdraw",
        "prepare.input=gs://boceto/zigzags",
        "prepare.output=gs://boceto/seen",
        "prepare.train_per_class=40",
        "prepare.validation_per_class=5",
        "prepare.test_per_class=10",
        "train.data=gs://boceto/seen",
        "train.batch_size=16",
        "train.epochs=300",
        "train.validate_every=50",
        "train.save_every=500",
        "eval.data=gs://boceto/seen",
    )
    for word in ("--set", setting)
)


def apply_in_order(cluster: Cluster) -> str:
    """kubectl apply -k of prepare, train, eval: scores arrive, and the data is what the laptop makes."""
    overlay = cluster.overlay("plain")
    cluster.kubectl("apply", "--kustomize", str(overlay / "shared"))
    for program in PROGRAMS:
        cluster.kubectl("apply", "--kustomize", str(overlay / program))
        check(
            cluster.ended(f"boceto-{program}") == "Complete",
            f"boceto-{program}: {cluster.messages(f'boceto-{program}')}",
        )
    digest = cluster.result("boceto-prepare")["digest"]
    check(digest == _at_home(cluster, overlay), "the data set's digest is another than at home")
    scores = cluster.result("boceto-eval")
    check(0.3 < scores["map"] <= 1, f"mAP {scores['map']}")
    return f"mAP {scores['map']:.3f}, digest {digest[:8]} on both sides"


def _at_home(cluster: Cluster, overlay: Path) -> str:
    """The digest of the data set that this machine makes of the same settings."""
    rendered = cluster.kubectl("kustomize", str(overlay / "prepare"))
    (toml,) = [part for part in rendered.split("---\n") if "kind: ConfigMap" in part]
    text = toml.partition("boceto.toml: |\n")[2].partition("\nkind:")[0]
    with tempfile.TemporaryDirectory(prefix="boceto-e2e-") as folder:
        (Path(folder) / "boceto.toml").write_text("\n".join(line[4:] for line in text.splitlines()))
        words = ["--config", f"{folder}/boceto.toml", "--output", f"{folder}/data", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "beam_pipelines", *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
    return str(json.loads(done.stdout)["digest"])


def disturbed(cluster: Cluster) -> str:
    """Deleted, evicted, killed, cut off from its storage: the end is that of a run in peace."""
    overlay = str(cluster.overlay("disturbed", SHARED))
    _have_data(cluster, overlay)
    cluster.submit("run", "--overlay", overlay, "--name", "calm", *LONG).well(600)
    rough = cluster.submit("run", "--overlay", overlay, "--name", "rough", *LONG)
    seen: list[str] = []
    for disturb in (_delete, cluster.evict, _kill, _cut_off):
        pod = cluster.training("rough-train", seen)
        time.sleep(random.uniform(1, 6))  # noqa: S311 - a moment, and no secret
        disturb(pod) if disturb == cluster.evict else disturb(cluster, pod)
        seen.append(pod)
    said = rough.well(600)
    calm, disturbed = (_end_of(cluster, name) for name in ("calm", "rough"))
    check(calm == disturbed, f"the disturbed run ended otherwise: {disturbed}, not {calm}; {said}")
    code, status = cluster.submit("status", "rough").end()
    whys = ("its pod was deleted", "evicted (Eviction API)", "ended by signal 9", "done")
    for pod, why in zip(seen, whys, strict=True):
        (line,) = [line for line in status.splitlines() if pod in line]
        check(why in line, f"status says {line!r} of a pod that was {why}")
    check(code == 0 and "rough-train: complete" in status, status)
    return f"ledger {disturbed[0][:8]} and weights {disturbed[1]} as in peace"


def _have_data(cluster: Cluster, overlay: str) -> None:
    """Makes the data set, where no scenario before has made it."""
    if not cluster.get("deployments")["items"] or "data/dataset.json" not in cluster.objects("data/dataset"):
        cluster.submit("run", "--overlay", overlay, "--name", "data", "--program", "prepare").well()


def _delete(cluster: Cluster, pod: str) -> None:
    cluster.kubectl("delete", "pod", pod, "--wait=false")


def _kill(cluster: Cluster, pod: str) -> None:
    cluster.signal(pod, "boceto", "boceto", KILL)


def _cut_off(cluster: Cluster, _: str) -> None:
    storage = cluster.storage_pod()
    cluster.signal(storage, "warden", "fake-gcs-server", STOP)
    time.sleep(OUTAGE)
    cluster.signal(storage, "warden", "fake-gcs-server", GO_ON)


def _end_of(cluster: Cluster, name: str) -> tuple[str, str, int]:
    """-> (ledger, checksum of weights and optimiser, step) of a run that is done."""
    result = cluster.result(f"{name}-train")
    commit = cluster.read(f"runs/{name}/checkpoints/{result['step']:010}/COMMIT")
    return result["ledger"], commit["arrays"]["crc32c"], result["step"]


def refused(cluster: Cluster) -> str:
    """What cannot work fails at once and says why; a fault is tried again up to the limit."""
    overlay = str(cluster.overlay("refused"))
    code, said = cluster.submit("run", "--overlay", overlay, "--name", "bad", "--set", "train.batch_size=0").end()
    check(code == 2 and "train.batch_size = 0 is too small" in said, f"exit code {code}: {said}")
    check(len(cluster.pods("bad-train")) == 1, "refused settings were tried again")
    check("train.batch_size = 0" in cluster.messages("bad-train")[0], "no reason in the termination message")
    code, said = cluster.submit("run", "--overlay", overlay, "--name", "corrupt", *_corrupt(cluster, overlay)).end()
    check(code == 65 and "train-00000" in said, f"exit code {code}: {said}")
    check(len(cluster.pods("corrupt-train")) == 1, "refused data were tried again")
    container = "/spec/template/spec/containers/0"
    fault = {"op": "add", "path": f"{container}/command", "value": ["python", "-c", "raise SystemExit('a fault')"]}
    limit = {"op": "replace", "path": "/spec/backoffLimit", "value": 1}
    faulty = str(cluster.overlay("faulty", fault, limit))
    code, said = cluster.submit("run", "--overlay", faulty, "--name", "faulty").end()
    check(code == 1 and "a fault" in said, f"exit code {code}: {said}")
    check(len(cluster.pods("faulty-train")) == 2, "a fault was not tried again as often as the limit says")
    return "2 and 65 once each, a fault 1 + 1 times"


def _corrupt(cluster: Cluster, overlay: str) -> tuple[str, ...]:
    """Makes a small data set with a damaged shard; returns the settings of a training on it."""
    settings = ("--set", "train.data=gs://boceto/corrupt", "--set", "train.batch_size=20")
    if cluster.get("deployments")["items"] and cluster.objects("corrupt/dataset"):
        return settings
    small = ("--set", "prepare.output=gs://boceto/corrupt", "--set", "prepare.train_per_class=5")
    words = ("--program", "prepare", "--name", "corrupt", *small, "--set", "prepare.test_per_class=2")
    cluster.submit("run", "--overlay", overlay, *words).well()
    name = next(each for each in cluster.objects("corrupt/") if re.search(r"/train-00000.*\.tfrecord$", each))
    size = next(
        shard["bytes"]
        for shard in cluster.read("corrupt/dataset.json")["splits"]["train"]["shards"]
        if name.endswith(shard["name"])
    )
    with tempfile.TemporaryDirectory(prefix="boceto-e2e-") as folder:
        path = Path(folder) / "shard"
        path.write_bytes(b"\x07" * size)
        cluster.write(name, path)
    return settings


def shared(cluster: Cluster) -> str:
    """Two Jobs on one run folder: one trains, the other says who. A suspended Job waits, and then runs."""
    overlay = str(cluster.overlay("shared"))
    _have_data(cluster, overlay)
    folder = ("--set", "train.run=gs://boceto/runs/shared", *LONG)
    first = cluster.submit("run", "--overlay", overlay, "--name", "one", *folder)
    holder = cluster.training("one-train")
    second = cluster.submit("run", "--overlay", overlay, "--name", "other", *folder)
    said = wait(lambda: "".join(_logs(cluster, "other-train")), "a word of the second", 120)
    said = wait(lambda: next((text for text in _logs(cluster, "other-train") if "is training" in text), ""), said, 60)
    check(f"on {holder} is training this run" in said, said)
    cluster.submit("stop", "other").well()
    second.end()
    first.well(600)
    waiting = str(cluster.overlay("suspended", {"op": "add", "path": "/spec/suspend", "value": True}))
    job = cluster.submit("run", "--overlay", waiting, "--name", "later", "--set", "train.epochs=1")
    wait(lambda: "suspended" in cluster.submit("status", "later").end()[1], "the word that it is suspended", 60)
    check(not cluster.pods("later-train"), "a suspended Job has a pod")
    cluster.kubectl("patch", "job", "later-train", "--patch", '{"spec": {"suspend": false}}')
    job.well()
    return f"the other said that {holder} trains"


def _logs(cluster: Cluster, job: str) -> list[str]:
    names = [pod["metadata"]["name"] for pod in cluster.pods(job)]
    return [text for name in names if (text := cluster.kubectl("logs", name, fails=True))]


def submitted(cluster: Cluster) -> str:
    """submit run --chain from nothing to scores; the progress moves; stop and resume."""
    overlay = str(cluster.overlay("submitted"))
    _have_data(cluster, overlay)
    own = ("--set", "prepare.output=gs://boceto/own", "--set", "train.data=gs://boceto/own")
    words = ("run", "--overlay", overlay, "--name", "chained", *own, "--set", "eval.data=gs://boceto/own")
    said = cluster.submit(*words, "--chain").well(600)
    check("map" in said and "chained-eval is done" in said, said)
    again = cluster.submit(*words, "--chain").well()
    check(again.count("is done already") == len(PROGRAMS), again)
    following = cluster.submit("run", "--overlay", overlay, "--name", "halted", *LONG)
    cluster.training("halted-train")
    moved = _progress_moves(cluster, "halted-train")
    stopped = cluster.submit("stop", "halted").well()
    check("saved" in stopped, stopped)
    code, said = following.end()
    check(code == 75, f"exit code {code} of a run that was stopped: {said}")
    status = cluster.submit("status", "halted").well()
    check("stopped on request, saved (exit code 75)" in status, f"status says of a run that was stopped: {status}")
    resumed = cluster.submit("resume", "halted").well(600)
    check("goes on after step" in resumed, resumed)
    status = cluster.submit("status", "halted").well()
    check("checkpoint: step 1680" in status and "halted-train: complete" in status, status)
    cluster.kubectl("delete", "job", "halted-train")
    wait(lambda: not _left_of(cluster, "halted-train"), "the end of what was for one Job alone", 60)
    return moved


def _left_of(cluster: Cluster, job: str) -> list[str]:
    """What stays of a Job's rights."""
    found = cluster.get("roles,rolebindings,serviceaccounts")["items"]
    return [each["metadata"]["name"] for each in found if each["metadata"]["name"].startswith(job)]


def _progress_moves(cluster: Cluster, job: str) -> str:
    """Waits for three different annotations, and measures how far they are apart."""
    seen: dict[str, float] = {}

    def look() -> bool:
        text = cluster.get("job", job)["metadata"].get("annotations", {}).get("boceto.dev/progress", "")
        if "loss" in text:
            seen.setdefault(text, time.monotonic())
        return len(seen) == 3

    wait(look, "progress that moves", 90)
    times = list(seen.values())
    check(min(later - earlier for earlier, later in itertools.pairwise(times)) > 8, "written too often")
    return list(seen)[-1]


def watched(cluster: Cluster) -> str:
    """Prometheus finds pods by itself: all panels have data, an alert fires and clears, a restart shows the new pod."""
    overlay = str(cluster.overlay("watched", SHARED, components=["scrape-annotations"]))
    _have_data(cluster, overlay)  # And with it the storage.
    _write_zigzags(cluster)
    began = time.time()
    with watching.prometheus(cluster, {f"> {STALLED}": f"> {STALLED_HERE}"}) as address:
        chain = cluster.submit("run", "--overlay", overlay, "--name", "watched", "--chain", *ZIGZAGS)
        pod = cluster.training("watched-train")
        wait(lambda: asking.values(address, 'up{job="boceto", component="train"} == 1', began), "a scrape of it", 30)
        wait(lambda: not _firing(address), "a moment without an alert", 30)  # That a slow start may have caused.
        stopped = time.monotonic()
        cluster.signal(pod, "boceto", "boceto", STOP)
        wait(lambda: "TrainingStalled" in _firing(address), "TrainingStalled", 120)
        fired = time.monotonic() - stopped
        cluster.signal(pod, "boceto", "boceto", GO_ON)
        wait(lambda: "TrainingStalled" not in _firing(address), "its end", 60)
        said = chain.well(600)
        empty = [title for title, query in asking.PANELS if not asking.shows(address, query, began)]
        check(not empty, f"no data in {empty}; {said}")
        apart, seconds = _goodput(address, began)
        cluster.submit("run", "--overlay", overlay, "--name", "again", *ZIGZAGS, "--set", "train.epochs=1000")
        restarted = _shown_after_a_restart(cluster, address, cluster.training("again-train"))
    queries = f"{len(asking.PANELS)} queries, TrainingStalled after {fired:.0f} s"
    return f"{queries}, buckets {apart:+.1%} of {seconds:.0f} s, {restarted}"


def _shown_after_a_restart(cluster: Cluster, address: str, pod: str) -> str:
    """Deletes a trainer's pod; the page then shows the loss of the new one."""
    cluster.kubectl("delete", "pod", pod, "--wait=false")
    fresh = cluster.training("again-train", [pod])
    began = time.time()

    def look() -> str:
        losses = asking.values(address, f'boceto_train_loss{{split="train", pod="{fresh}"}}', began)
        row = asking.get(f"{address}/consoles/boceto.html").partition('id="runs"')[2].partition("</table>")[0]
        return next((f"loss {loss:.4f} of the new pod" for loss in losses if f"<td>{loss:.4f}</td>" in row), "")

    return str(wait(look, "the new pod's loss on the page", 120))


def told(cluster: Cluster) -> str:
    """A Job that fails and one that cannot start: an alert each, while each is there."""
    overlay = str(cluster.overlay("told"))
    _have_data(cluster, overlay)
    much = {"cpu": "1000", "memory": "1Gi", "ephemeral-storage": "1Gi"}
    path = "/spec/template/spec/containers/0/resources"
    pending = str(
        cluster.overlay("pending", {"op": "replace", "path": path, "value": {"requests": much, "limits": much}})
    )
    with watching.states(cluster) as port, watching.prometheus(cluster, {"for: 10m": "for: 10s"}, port) as address:
        cluster.submit("run", "--overlay", overlay, "--name", "failing", "--set", "train.batch_size=0").end()
        waiting = cluster.submit("run", "--overlay", pending, "--name", "waiting")
        both = {"JobFailed", "JobNotStarted"}  # Jobs of other scenarios may have failed too.
        wait(lambda: both <= set(_firing(address, "failing|waiting")), "JobFailed and JobNotStarted", 120)
        cluster.kubectl("delete", "job", "failing-train", "waiting-train")
        wait(lambda: not _firing(address, "failing|waiting"), "their end", 60)
        waiting.kill()
    return "JobFailed and JobNotStarted, gone with their Jobs"


def _write_zigzags(cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory(prefix="boceto-e2e-") as folder:
        asking.draw(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            cluster.write(f"zigzags/{path.name}", path)


def _firing(address: str, runs: str = ".*") -> list[str]:
    """Returns the names of the alerts that fire now for `runs`, a regular expression."""
    answer = json.loads(asking.get(f"{address}/api/v1/alerts"))
    firing = [each["labels"] for each in answer["data"]["alerts"] if each["state"] == "firing"]
    return sorted({labels["alertname"] for labels in firing if re.fullmatch(runs, labels.get("run", ""))})


def _goodput(address: str, began: float) -> tuple[float, float]:
    """-> (by what part the buckets of the run's time are off the time that passed, that time in seconds).

    Both are as of the last step: no pod was lost, so what passed is the age of the one process then.
    """
    last = {
        series["metric"]["activity"]: float(series["values"][-1][1])
        for series in asking.series(address, "boceto_train_run_seconds", began)
    }
    end = max(asking.values(address, "boceto_train_last_progress_timestamp_seconds", began))
    begin = max(asking.values(address, 'process_start_time_seconds{component="train"}', began))
    off = sum(last.values()) / (end - begin) - 1
    check(abs(off) < NEAR, f"the buckets {last} add up to {sum(last.values()):.1f} s of {end - begin:.1f} s")
    ratio = asking.values(address, "boceto_train_goodput_ratio", began)[-1]
    share = last["computing"] / sum(last.values())
    check(abs(ratio - share) < NEAR, f"the goodput says {ratio:.3f}, its buckets {share:.3f}")
    return off, end - begin


def applied_again(cluster: Cluster) -> str:
    """An editor applies an overlay twice, both ways, and nothing changes; a removal of Jobs keeps what is shared."""
    shared = {"deployments,services,persistentvolumeclaims": ("boceto-storage", "boceto-storage", "boceto")}
    with namespace(cluster.tag) as own:
        own.kubectl("create", "rolebinding", "editor", "--clusterrole", "edit", "--user", "editor")
        for name in ("local", "gpu-8"):
            _apply_as_editor(own, ROOT / "k8s" / "overlays" / name)
        for kinds, names in shared.items():
            found = sorted(each["metadata"]["name"] for each in own.get(kinds)["items"])
            check(found == sorted(names), f"of what Jobs share, {found} is left")
        check(not own.get("jobs,networkpolicies", "--selector", "app.kubernetes.io/name=boceto")["items"], "Jobs stay")
        failed = own.kubectl("apply", "--kustomize", str(ROOT / "k8s/rights/progress"), fails=True)
        check(not failed, f"rights of another namespace are applied: {failed}")
    return "unchanged both ways; volume and emulator stay"


def _apply_as_editor(cluster: Cluster, overlay: Path) -> None:
    editor = ("--as", "editor", "--kustomize")
    cluster.kubectl("apply", *editor, str(overlay / "shared"))
    cluster.kubectl("apply", *editor, str(overlay))
    again = cluster.kubectl("apply", *editor, str(overlay)).splitlines()
    changed = [line for line in again if not line.endswith("unchanged")]
    check(not changed, f"applied again, {changed}")
    # As Kueue does with a Job that names a queue: it suspends it, and lets it in.
    for suspended in ("true", "false"):
        cluster.kubectl("patch", "job", "boceto-train", "--patch", f'{{"spec": {{"suspend": {suspended}}}}}')
    cluster.kubectl("apply", *editor, str(overlay))
    check(cluster.get("job", "boceto-train")["spec"]["suspend"] is False, "applied again, an admitted Job is suspended")
    cluster.kubectl("apply", "--server-side", *editor, str(overlay))
    difference = cluster.kubectl("diff", "--server-side", *editor, str(overlay))
    check(not difference, f"applied both ways, {difference}")
    for folder in (overlay / "eval", overlay):
        words = ("--ignore-not-found", "--cascade=foreground", "--timeout=100s")
        cluster.kubectl("delete", "--kustomize", str(folder), *words)


def drained(cluster: Cluster) -> str:
    """A node is drained: the training goes on, and all attempts are told, also where pods and Jobs are gone."""
    overlay = str(cluster.overlay("drained"))
    _have_data(cluster, overlay)
    spoilt = cluster.submit("run", "--overlay", overlay, "--name", "spoilt", *_corrupt(cluster, overlay))
    check(spoilt.end()[0] == EXIT_DATA, "damaged data were not refused")
    moved = cluster.submit("run", "--overlay", overlay, "--name", "moved", *LONG)
    pod = cluster.training("moved-train")
    with cluster.drained(pod, "boceto.dev/run in (spoilt, moved)"):
        check(not cluster.pods("spoilt-train"), "the drain has left a pod that had ended")
        code, said = cluster.submit("logs", "spoilt", "--no-follow").end()
        check(code == 1 and "boceto submit status spoilt" in said, f"exit code {code} of logs without a pod: {said}")
        waits = wait(lambda: _waits(cluster, "moved"), "the word that its node takes no pods", 60)
    moved.well(600)
    cluster.kubectl("delete", "pods", "--selector", "boceto.dev/run=moved")
    for removed in (False, True):
        if removed:
            cluster.kubectl("delete", "jobs", "--selector", "boceto.dev/run in (spoilt, moved)")
        status = cluster.submit("status", "spoilt").well()
        check("data refused (exit code 65)" in status and "train-00000" in status, status)
        status = cluster.submit("status", "moved").well()
        check("evicted (Eviction API)" in status and "done" in status and pod in status, status)
    return f"told without pods and Jobs; {waits}"


def _waits(cluster: Cluster, run: str) -> str:
    """What `status` says of a pod that no node takes."""
    lines = cluster.submit("status", run).end()[1].splitlines()
    return next((line.strip() for line in lines if "unschedulable" in line), "")


def hung(cluster: Cluster) -> str:
    """A trainer that hangs is ended by the liveness probe and goes on in a new pod; one that trains is not."""
    probe = "/spec/template/spec/containers/0/livenessProbe"
    alive = f"test ! -e /tmp/alive || test -n \"$(find /tmp/alive -newermt '-{HUNG} seconds')\""
    in_haste: dict[str, Any] = {"exec/command/2": alive, "periodSeconds": 5, "terminationGracePeriodSeconds": 5}
    patches = [{"op": "add", "path": f"{probe}/{name}", "value": value} for name, value in in_haste.items()]
    patches[0]["op"] = "replace"  # "add" would put it into the list.
    overlay = str(cluster.overlay("hung", SHARED, *patches))
    _have_data(cluster, str(cluster.overlay("hung-data")))  # The Job that prepares has no such probe.
    following = cluster.submit("run", "--overlay", overlay, "--name", "hung", *LONG)
    pod = cluster.training("hung-train")
    cluster.signal(pod, "boceto", "boceto", STOP)
    stopped = time.monotonic()
    cluster.training("hung-train", [pod], 5 * HUNG)
    seconds = time.monotonic() - stopped
    following.well(600)
    check(len(cluster.pods("hung-train")) == 2, "a trainer that was alive was ended")
    return f"a new pod trained {seconds:.0f} s after the hang"


def documented(cluster: Cluster) -> str:
    """The commands of k8s/README.md as they are written; what is removed leaves the data readable."""
    if cluster.tag != "dev":
        raise watching.LeftOut("the documents say images with the tag dev")
    with namespace(cluster.tag) as own:
        blocks = own.documented("k8s/README.md")
        image, apply, ends, follow, messages = blocks["Try it"]
        check(image == "make image", f"the first command is {image}")
        for block in (apply, ends, follow):
            own.shell(block)
        said = own.shell(messages)
        check('"map"' in said and "boceto-train" in said, said)
        for block in blocks["What happens when"]:  # Refused or made anew, and so with two pods never at once.
            own.shell(block)
        own.ended("boceto-train")
        own.shell(
            blocks["Or let `boceto submit` do it"][0].partition("\n\n")[0]
        )  # Then come those for an overlay of one's own.
        kept = own.objects("data/")
        own.shell(blocks["Removal"][0])
        check(not own.get("jobs", "--selector", "!boceto.dev/run")["items"], "Jobs stay")
        check(own.objects("data/") == kept and own.read("runs/first/run.json"), "data or run is gone with the Jobs")
    return f"{sum(map(len, blocks.values()))} blocks of commands read"


SCENARIOS = (
    apply_in_order,
    disturbed,
    refused,
    shared,
    submitted,
    watched,
    told,
    applied_again,
    drained,
    hung,
    documented,
)
