"""How far a job is, from the files that its workers finish: that works with every runner."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator

from beam_pipelines.pipeline import SHARD, WORK, PrepareJob
from boceto import storage, telemetry
from boceto.console import Console
from boceto.dataset import SHARD_NAME
from boceto.telemetry import Telemetry

# How often the folder is listed: in object storage, a request may list a thousand files and is paid for.
_WATCH_SECONDS, _WATCH_SECONDS_AFAR = 2.0, 10.0


class Watch:
    """Counts what is done of a job that reads `parts` parts of input and begins now."""

    def __init__(self, job: PrepareJob, parts: int, metrics: Telemetry) -> None:
        self._output = job.settings.output
        self._parts, self._planned = parts, job.shards([job.settings.per_class] * len(job.classes))
        self._metrics = metrics
        self._seen: set[str] = set()
        self._drawings = 0
        self._started = time.monotonic()
        metrics.set(telemetry.PARTS, parts, state="planned")
        metrics.set(telemetry.SHARDS, self._shards, state="planned")
        metrics.now(telemetry.PREPARED)

    @property
    def _shards(self) -> int:
        return sum(self._planned.values())

    def look(self) -> tuple[str, int, int, str]:
        """Looks at the files; returns what `Console.progress` shows."""
        names = [storage.relative(entry.url, self._output) for entry in storage.list_files(self._output)]
        reads = [name for name in names if name.startswith(f"{WORK}/read-") and name.endswith(".json")]
        shards = [name for name in names if name.endswith(".tfrecord") and SHARD_NAME.fullmatch(name)]
        reports = [name for name in names if name.startswith(f"{WORK}/{SHARD}-") and name.endswith(".json")]
        before = len(self._seen)
        for name in {*reads, *reports} - self._seen:
            report = json.loads(storage.read_bytes(storage.join(self._output, name)))
            self._seen.add(name)
            self._metrics.add(telemetry.READ, report.get("drawings", 0))
            self._metrics.add(telemetry.WRITTEN, report.get("records", 0))
            for reason, count in report.get("refused", {}).items():
                self._metrics.add(telemetry.REFUSED, count, reason=reason)
            self._drawings += report.get("drawings", 0)
        self._seen.update(shards)
        if shards:  # `train-00000-of-00008.tfrecord`: how many there are of divided drawings was not known before.
            self._planned = {name.partition("-")[0]: int(name.rpartition("-")[2][:5]) for name in shards}
        if len(self._seen) > before:
            self._metrics.now(telemetry.PREPARED)
        self._metrics.set(telemetry.PARTS, len(reads), state="read")
        self._metrics.set(telemetry.SHARDS, len(shards), state="written")
        self._metrics.set(telemetry.SHARDS, self._shards, state="planned")
        seconds = time.monotonic() - self._started
        # Reading and drawing take about the same time; each is half of the way.
        if done := (len(reads) / self._parts + len(shards) / max(1, self._shards)) / 2:
            self._metrics.set(telemetry.LEFT, seconds * (1 - done) / done)
        # The first shard is written when all parts are read.
        if len(reads) < self._parts:
            return f"reading, {self._drawings / seconds:,.0f} drawings/s", len(reads), self._parts, "parts"
        return "writing", len(shards), self._shards, "shards"


@contextlib.contextmanager
def watching(job: PrepareJob, parts: int, console: Console, metrics: Telemetry) -> Iterator[None]:
    """Shows and measures how far the job is while the block runs."""
    finished = threading.Event()
    watch = Watch(job, parts, metrics)

    def look() -> None:
        with contextlib.suppress(OSError, ValueError, storage.Unavailable):  # A file may go while it is looked at.
            console.progress(*watch.look())

    def keep_looking() -> None:
        while not finished.wait(_WATCH_SECONDS if storage.is_local(job.settings.output) else _WATCH_SECONDS_AFAR):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        if job.settings.metrics_port:
            look()
