"""Contract 5, the run: `RUN/run.json` (settings, digests, versions, checkpoints, result), which is sealed, and
`RUN/history.jsonl` (a line a log point), each of whose lines holds a digest over itself and the line before.
"""

import fnmatch
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from boceto import artefact, checkpoint, contract, lease, storage
from boceto.artefact import Artefact
from boceto.checkpoint import Progress
from boceto.errors import DataError, SettingsError

DESCRIPTION = "run.json"
HISTORY = "history.jsonl"
METRICS = "metrics.prom"
FORMAT = "boceto-run"
VERSION = 3
FLUSH_SECONDS = 10.0
FIELDS = {
    "stop_criterion": dict[str, Any],
    "hyperparameters": dict[str, Any],
    "data_digest": str,
    "records": int,
    "checkpoints": list[int],
}
ATTEMPTS = "attempts.jsonl"
EMPTY = "0" * 32  # The chain of a history without a line.
_LINE = re.compile(r'(\{.+), "chain": "([0-9a-f]{32})"\}')


class Description:
    """Writes `run.json` for the trainer that holds the run. before: what the file said at the start."""

    def __init__(self, run: str, before: Mapping[str, Any] | None) -> None:
        self._run = run
        self._entry = dict(before or {})

    @property
    def begun(self) -> bool:
        """Returns whether the run has a `run.json`."""
        return bool(self._entry)

    def begin(self, entry: Mapping[str, Any], step: int) -> None:
        """Writes the file for a session that goes on after `step`, with the checkpoints up to that step."""
        kept = {*self._entry.get("checkpoints", ()), step} - {0}
        self._entry = {**entry, "checkpoints": sorted(each for each in kept if each <= step)}
        write(self._run, self._entry)

    def add(self, **more: Any) -> None:
        """Adds fields to the file, if the run has begun."""
        if self.begun:
            self._entry |= more
            write(self._run, self._entry)


def write(run: str, description: Mapping[str, Any]) -> None:
    """Writes `run.json`, sealed."""
    text = contract.sealed({"format": FORMAT, "version": VERSION, **description})
    storage.write_bytes(storage.join(run, DESCRIPTION), text)


def read(run: str) -> dict[str, Any] | None:
    """Returns what `run.json` says, or None if there is none. The fields of `FIELDS` have their types.

    Raises:
        DataError: the file is damaged, was changed, or is of another version.
    """
    path = storage.join(run, DESCRIPTION)
    try:
        entry = contract.parse_sealed(storage.read_bytes(path), FORMAT, VERSION)
        for name, kind in FIELDS.items():
            contract.field(entry, name, kind)
        if entry.get("result") is not None:
            contract.field(contract.field(entry, "result", dict[str, Any]), "step", int)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(
            f"{path} is not a run's description: {error}; put the right one back, or remove it to go on from the "
            "checkpoints, or use another --run"
        ) from error
    return entry


def check_files(run: str) -> None:
    """Raises SettingsError if there is a folder in the place of a file of the run."""
    if not storage.is_local(run):  # Object storage has no folders.
        return
    for name in (DESCRIPTION, HISTORY, METRICS, ATTEMPTS, lease.NAME):
        path = storage.join(run, name)
        try:
            storage.read_bytes(path, 0, 1)
        except IsADirectoryError as error:
            raise SettingsError(
                f"{path} is a folder, and a run has a file there; move it, or use another --run"
            ) from error
        except (FileNotFoundError, NotADirectoryError):
            continue


def left(run: str) -> dict[str, str]:
    """Returns the checksum (crc32c) of each file that a trainer vouches for, by its name in the run's folder."""
    names = {DESCRIPTION, HISTORY, METRICS, f"{artefact.FOLDER}/{artefact.DESCRIPTION}"}
    found = {storage.relative(entry.url, run): entry.url for entry in storage.list_files(run)}
    commits = f"{checkpoint.FOLDER}/*/{checkpoint.COMMIT}"
    return {
        name: storage.checksum(url)[1]
        for name, url in sorted(found.items())
        if name in names or fnmatch.fnmatch(name, commits)
    }


def misfits(run: Mapping[str, Any], described: Artefact) -> list[str]:
    """Returns the differences between an artefact and the result of its finished run, in words."""
    result = run.get("result")
    if not result:  # The run goes on; the artefact is an earlier one.
        return []
    said = {
        "exported_step": (described.step, result),
        "parameters": (described.parameters, result),
        "net": (described.net, result),
        "settings": (described.settings, run),
    }
    return [
        f"{artefact.DESCRIPTION} does not fit {DESCRIPTION}: {name} is {here} and {there[name]}"
        for name, (here, there) in said.items()
        if name in there and here != there[name]
    ]


class Line(NamedTuple):
    """A line of `history.jsonl`. chain: over all lines up to this one."""

    text: str
    entry: Mapping[str, Any]
    chain: str

    @property
    def step(self) -> int:
        """Returns the step of the log point."""
        step: int = self.entry["step"]
        return step


def line(before: str, entry: Mapping[str, Any]) -> Line:
    """Returns `entry` as the line that follows the line with the chain `before`."""
    text = json.dumps(entry, allow_nan=False)
    chain = contract.digest((before + text).encode())
    return Line(f'{text[:-1]}, "chain": "{chain}"}}', entry, chain)


def history(run: str) -> list[Line] | None:
    """Returns the lines of `history.jsonl`, each of them checked, or None if there is no such file.

    Raises:
        ValueError: a line is damaged or of an older version, or a line was changed, removed or added.
    """
    try:
        *texts, rest = storage.read_bytes(storage.join(run, HISTORY)).split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if rest:
        raise ValueError(f"line {len(texts) + 1} does not end")
    lines: list[Line] = []
    for number, text in enumerate(texts, 1):
        try:
            entry = contract.decode(text)
            contract.field(entry, "step", int)
            found = _LINE.fullmatch(text.decode())
            if not found:
                raise ValueError("it does not end in a chain, as lines since version 2 of the run do")
            before = lines[-1].chain if lines else EMPTY
            if contract.digest(f"{before}{found[1]}}}".encode()) != found[2]:
                raise ValueError("its chain does not match: it or a line before it was changed, removed or added")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        lines.append(Line(text.decode(), entry, found[2]))
    return lines


class History:
    """Writes `history.jsonl` for a trainer: lines with a `step`, in rising order.

    alert: reports a write that failed. confirm: raises an error if the run belongs to another trainer now.
    """

    def __init__(
        self,
        run: str,
        clock: Callable[[], float] = time.monotonic,
        alert: Callable[[str], None] = lambda _: None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._path = storage.join(run, HISTORY)
        self._clock = clock
        self._alert = alert
        self._confirm = confirm
        self._behind = False
        self._flushed = clock()
        self._lines: list[str] = []
        self._chain = EMPTY

    def resume(self, progress: Progress) -> None:
        """Keeps the lines up to the line that was the last at `progress`. Later lines belong to repeated steps.

        If that last line could not be written then, the lines of finished steps are kept.

        Raises:
            DataError: a line was changed, or lines were removed.
        """
        step, head = progress.step, progress.history if progress.step else EMPTY
        try:
            lines = history(self._run)
            if lines is None and head not in {"", EMPTY}:
                self._alert(f"{self._path} is missing: what it said up to step {step} is lost, and it begins anew")
            elif lines and head:
                at = [EMPTY, *(line.chain for line in lines)]
                if head not in at:
                    raise ValueError(f"the line that the checkpoint of step {step} says was its last is not there")
                lines = lines[: at.index(head)]
        except ValueError as error:
            raise DataError(
                f"{self._path} is damaged: {error}; put it back, or remove it to go on without its lines"
            ) from error
        done = lambda line: progress.covers(line.step, validation="validation_loss" in line.entry)  # noqa: E731 - as short
        kept = list(lines or ()) if head else list(itertools.takewhile(done, lines or ()))
        self._lines, self._chain = [line.text for line in kept], kept[-1].chain if kept else EMPTY
        self.flush()

    @property
    def head(self) -> str:
        """Returns the chain of the last line, for the checkpoint that is saved now; "" if the last write failed."""
        return "" if self._behind else self._chain

    def add(self, entry: Mapping[str, Any]) -> None:
        """Adds a line. It reaches the file within seconds, or with the next `offer` or `flush`."""
        added = line(self._chain, entry)
        self._lines.append(added.text)
        self._chain = added.chain
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self.offer()

    def offer(self) -> None:
        """Writes the file, as `flush` does. A failure is reported, and the lines go with the next write."""
        try:
            self.flush()
        except (OSError, MemoryError, storage.Unavailable) as error:
            self._behind = True
            self._flushed = self._clock()
            self._alert(f"{self._path} was not written: {error or type(error).__name__}; it is tried again")

    def settle(self) -> None:
        """Writes the file if the last `offer` failed."""
        if self._behind:
            self.flush()

    def flush(self) -> None:
        """Writes the file whole: object storage cannot append."""
        self._confirm()
        storage.write_bytes(self._path, "".join(line + "\n" for line in self._lines).encode())
        self._flushed = self._clock()
        self._behind = False
