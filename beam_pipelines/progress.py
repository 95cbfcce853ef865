"""How far a job is, from the files that its workers finish: that works with every runner."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from beam_pipelines.pipeline import SHARD, WORK, PrepareJob
from boceto import storage, telemetry
from boceto.console import Console
from boceto.dataset import SHARD_NAME
from boceto.telemetry import Telemetry

# How often the folder is listed: in object storage, a request may list a thousand files and is paid for.
_WATCH_SECONDS, _WATCH_SECONDS_AFAR = 2.0, 10.0


class Watch:
    """What is known of a job that reads `parts` parts of input and began now."""

    def __init__(self, job: PrepareJob, parts: int, tell: Telemetry) -> None:
        self._job = job
        self._parts = parts
        self._tell = tell
        self._read: dict[str, Any] = {}
        self._told: set[str] = set()
        self._shards = 0
        self._every = sum(job.shards.values())
        self._started = time.monotonic()
        tell.set(telemetry.PARTS, parts, state="planned")
        tell.set(telemetry.SHARDS, self._every, state="planned")
        tell.now(telemetry.PREPARED)

    def look(self) -> tuple[str, int, int, str]:
        """Looks at the files; returns what `Console.progress` shows."""
        output = self._job.settings.output
        names = [storage.relative(entry.url, output) for entry in storage.list_files(output)]
        before = len(self._read), self._shards
        for name in names:
            if name.startswith(f"{WORK}/read-") and name.endswith(".json") and name not in self._read:
                report = json.loads(storage.read_bytes(storage.join(output, name)))
                self._read[name] = report
                self._tell_read(report)
            elif name.startswith(f"{WORK}/{SHARD}-") and name.endswith(".json") and name not in self._told:
                records = json.loads(storage.read_bytes(storage.join(output, name)))["records"]
                self._told.add(name)
                self._tell.add(telemetry.WRITTEN, records)
        self._shards = sum(bool(SHARD_NAME.fullmatch(name)) for name in names)
        if before != (len(self._read), self._shards):
            self._tell.now(telemetry.PREPARED)
        return self._line()

    def _line(self) -> tuple[str, int, int, str]:
        seconds = time.monotonic() - self._started
        # Reading and drawing take about the same time; each is half of the way.
        done = (len(self._read) / self._parts + self._shards / self._every) / 2
        left = seconds * (1 - done) / done if done else None
        self._tell.set(telemetry.PARTS, len(self._read), state="read")
        self._tell.set(telemetry.SHARDS, self._shards, state="written")
        if left is not None:
            self._tell.set(telemetry.LEFT, left)
        speed = sum(report["drawings"] for report in self._read.values()) / seconds
        text = f"{speed:,.0f} drawings/s, written {self._shards}/{self._every} shards"
        return text, len(self._read) + self._shards, self._parts + self._every, "files"

    def _tell_read(self, report: dict[str, Any]) -> None:
        self._tell.add(telemetry.READ, report["drawings"])
        for reason, count in report["refused"].items():
            self._tell.add(telemetry.REFUSED, count, reason=reason)


@contextlib.contextmanager
def watching(job: PrepareJob, parts: int, console: Console, tell: Telemetry) -> Iterator[None]:
    """Shows, and tells, how far the job is while the block runs."""
    finished = threading.Event()
    watch = Watch(job, parts, tell)

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
