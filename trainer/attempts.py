"""`RUN/attempts.jsonl`: how each attempt at a run ended, for when its pod and its Job are gone."""

import contextlib
import datetime as dt
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from boceto import lease, storage
from boceto import run as runs
from boceto.environment import is_watched
from boceto.errors import BocetoError
from trainer import cluster, environment

MOST = 1000  # Lines that are kept.
TRIES = 5
LOST = "ended without a word: it was killed, or its node was lost"
SECONDS = 2.0  # The end of the program waits no longer for the line.


class Attempt:
    """The attempt of this process at a run. run: the folder of the run, "" until the settings have been read."""

    def __init__(self) -> None:
        self.run = ""
        self._started = _now()

    def ended(self, code: int, message: str) -> None:
        """Writes the exit code and the last message to the run folder, and to the Job where there is one to annotate.

        Outside of a container, only an attempt that has held the lease of the run is written.
        """
        entry = {"pod": socket.gethostname(), "started": self._started, "ended": _now(), "code": code}
        entry["message"] = message
        threads = [threading.Thread(target=write, args=(entry,), daemon=True) for write in (self._write, _annotate)]
        end = time.monotonic() + SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _write(self, entry: Mapping[str, Any]) -> None:
        with contextlib.suppress(BocetoError, OSError):
            if self.run and (is_watched() or _held_by_us(self.run)):
                _append(storage.join(self.run, runs.ATTEMPTS), json.dumps(entry).encode() + b"\n")


def note_killed(run: str, holder: lease.Holder) -> None:
    """Writes the line of an attempt that wrote none: it did not release the lease. Its end is its last renewal."""
    ended = _time(dt.datetime.fromtimestamp(min(holder.renewed, time.time()), dt.UTC))
    entry = {"pod": holder.host, "started": "", "ended": ended, "code": -1, "message": LOST}
    with contextlib.suppress(BocetoError, OSError):
        _append(storage.join(run, runs.ATTEMPTS), json.dumps(entry).encode() + b"\n")


def _annotate(entry: Mapping[str, Any]) -> None:
    if pod := environment.pod():
        cluster.write(pod, {"ended": json.dumps(entry)})


def _held_by_us(run: str) -> bool:
    holder, _ = lease.read(storage.join(run, lease.NAME))
    return bool(holder and holder.is_here and holder.process == os.getpid())


def _append(path: str, line: bytes) -> None:
    """Adds a line to a small file; where another process has changed the file meanwhile, tries again."""
    for _ in range(TRIES):
        with contextlib.suppress(FileExistsError, storage.Changed):
            try:
                before, version = storage.read_versioned(path)
            except (FileNotFoundError, NotADirectoryError):
                storage.create_bytes(path, line)
                return
            kept = before.splitlines(keepends=True)[-MOST + 1 :]
            storage.replace_bytes(path, b"".join([*kept, line]), version)
            return


def _now() -> str:
    return _time(dt.datetime.now(dt.UTC))


def _time(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
