"""Contract 5, the run: `RUN/run.json` (settings, digests, versions, result) and `RUN/history.jsonl` (a line a log
point).
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from boceto import contract, storage
from boceto.errors import DataError

DESCRIPTION = "run.json"
HISTORY = "history.jsonl"
METRICS = "metrics.prom"
FORMAT = "boceto-run"
VERSION = 1
FLUSH_SECONDS = 10.0
FIELDS = {"goal": dict[str, Any], "mathematics": dict[str, Any], "data_digest": str}


def write(run: str, description: Mapping[str, Any]) -> None:
    """Writes `run.json`."""
    entry = {"format": FORMAT, "version": VERSION, **description}
    text = json.dumps(entry, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(storage.join(run, DESCRIPTION), text.encode())


def read(run: str) -> dict[str, Any] | None:
    """What `run.json` says, with the types of `FIELDS`, and a step where it has a result; None where the run has none.

    Raises:
        DataError: it is damaged or of another version.
    """
    path = storage.join(run, DESCRIPTION)
    try:
        entry = contract.parse(storage.read_bytes(path), FORMAT, VERSION)
        for name, kind in FIELDS.items():
            contract.field(entry, name, kind)
        if entry.get("result") is not None:
            contract.field(contract.field(entry, "result", dict[str, Any]), "step", int)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(
            f"{path} is not a run's description: {error}; remove it to go on from the checkpoints, or use another --run"
        ) from error
    return entry


class History:
    """The lines of `history.jsonl`, each a JSON object with a `step`, in rising order of it."""

    def __init__(
        self, run: str, clock: Callable[[], float] = time.monotonic, alert: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path = storage.join(run, HISTORY)
        self._clock = clock
        self._alert = alert
        self._behind = False
        self._flushed = clock()
        self._lines: list[str] = []

    def resume(self, step: int) -> None:
        """Takes up the lines up to `step`; those beyond it belong to steps that will be done again."""
        try:
            lines = storage.read_bytes(self._path).splitlines()
        except FileNotFoundError:
            lines = []
        try:
            kept = [line for line in lines if contract.field(contract.decode(line), "step", int) <= step]
            self._lines = [line.decode() for line in kept]
        except ValueError as error:
            raise DataError(f"{self._path} is damaged: {error}; remove it and run the same command again") from error
        self.flush()

    def add(self, entry: Mapping[str, Any]) -> None:
        """Adds a line; it reaches the file within seconds, or with the next `offer` or `flush`."""
        self._lines.append(json.dumps(entry, allow_nan=False))
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self.offer()

    def offer(self) -> None:
        """As `flush`, but where it fails, it is told, and the lines go with the next one."""
        try:
            self.flush()
        except (OSError, MemoryError, storage.Unavailable) as error:
            self._behind = True
            self._flushed = self._clock()
            self._alert(f"{self._path} was not written: {error or type(error).__name__}; it is tried again")

    def settle(self) -> None:
        """Makes up for an `offer` that failed."""
        if self._behind:
            self.flush()

    def flush(self) -> None:
        """Writes the file whole: object storage cannot append."""
        storage.write_bytes(self._path, "".join(line + "\n" for line in self._lines).encode())
        self._flushed = self._clock()
        self._behind = False
