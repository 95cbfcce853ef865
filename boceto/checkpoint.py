"""Contract 3, the checkpoint: `RUN/checkpoints/<step>/` holds `arrays-<token>.safetensors` and, written last, `COMMIT`.

`COMMIT` is sealed JSON: the file's size and crc32c, the step, the position in the data, the digests of data set and
settings, the hyperparameters, and the progress of the run. A folder without it is none.
The token is the writer's own, so that two writers never touch each other's file.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from boceto import contract, storage, tensors
from boceto.errors import DataError
from boceto.tensors import Arrays

FOLDER = "checkpoints"
COMMIT = "COMMIT"
FORMAT = "boceto-checkpoint"
VERSION = 5
ARRAYS = re.compile(r"arrays-[0-9a-z]{1,32}\.safetensors")
_OWN = re.compile(rf".*/{FOLDER}/\d+/({COMMIT}|{ARRAYS.pattern})(\.[^/]*)?")
_LEDGER = re.compile("[0-9a-f]{32}")
MOST_SECONDS = 1e12  # No run takes longer. What is read is at most half of it: a run adds to it.
WHOLE, TORN, CORRUPT = "whole", "torn", "corrupt"


@dataclass(frozen=True)
class WindowSums:
    """Sums over the steps since the last log point. norm: of the gradients of the last step; -1 where not finite."""

    steps: int = 0
    correct: int = 0
    loss: float = 0.0
    norm: float = 0.0

    def __post_init__(self) -> None:
        contract.within(0, contract.LARGEST, steps=self.steps, correct=self.correct)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, besides its arrays. It does not depend on where the run is to end.

    epoch_correct, epoch_records: the running epoch's sums. skipped: the last steps in a row whose gradients were not
    finite. ledger: `boceto.ledger`, over the keys of all records used so far. seconds: wall time by activity, over all
    sessions of the run so far. history: the chain of the last line of `history.jsonl`, "" where that could not be
    written.
    """

    step: int = 0
    epoch_correct: int = 0
    epoch_records: int = 0
    train_accuracy: float = 0.0
    images_per_second: float = 0.0
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    validations_since_best: int = 0
    validated: int = 0
    skipped: int = 0
    window: WindowSums = field(default_factory=WindowSums)
    ledger: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    history: str = ""

    def __post_init__(self) -> None:
        names = ("step", "epoch_records", "best_step", "validations_since_best", "validated", "skipped")
        contract.within(0, contract.LARGEST, **{name: getattr(self, name) for name in names})
        contract.within(0, self.epoch_records, epoch_correct=self.epoch_correct)
        contract.within(-1, 1, train_accuracy=self.train_accuracy, best_accuracy=self.best_accuracy)
        contract.within(0, MOST_SECONDS, **self.seconds)
        if self.ledger and not _LEDGER.fullmatch(self.ledger):
            raise ValueError(f"ledger is {self.ledger!r}")

    def covers(self, step: int, *, validation: bool) -> bool:
        """Returns whether a log point, or a validation, after `step` belongs to the steps up to here.

        A run that ends between two log points or validations has one more of each after its last step. A run that goes
        on from there does not have them.
        """
        if step != self.step:
            return step < self.step
        return self.validated == step if validation else not self.window.steps


@dataclass(frozen=True)
class ArraysFile:
    """The file of the arrays: its name, size in bytes and crc32c (hex)."""

    name: str
    bytes: int
    crc32c: str


@dataclass(frozen=True)
class Commit:
    """The content of `COMMIT`. position: the number of records used."""

    arrays: ArraysFile
    step: int
    position: int
    data_digest: str
    settings_digest: str
    settings: Mapping[str, Any]
    progress: Progress
    format: str = FORMAT
    version: int = VERSION

    def to_json(self) -> bytes:
        """Returns the bytes of `COMMIT`."""
        return contract.sealed(dataclasses.asdict(self))


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Returns a digest of the settings: 32 hexadecimal digits."""
    return contract.digest(json.dumps(settings, sort_keys=True).encode())


def folder_of(run: str, step: int) -> str:
    """Returns the URL of the checkpoint of `step`."""
    return storage.join(run, FOLDER, f"{step:010}")


def files(run: str) -> dict[int, list[str]]:
    """Returns the URLs of the files in each step's folder, by step, in rising order."""
    top = storage.join(run, FOLDER)
    found: dict[int, list[str]] = {}
    for entry in storage.list_files(top):
        step, _, name = storage.relative(entry.url, top).partition("/")
        if step.isdecimal() and name:
            found.setdefault(int(step), []).append(entry.url)
    return dict(sorted(found.items()))


def is_own(url: str) -> bool:
    """Returns whether a file out of `files` is Boceto's, by its name."""
    return bool(_OWN.fullmatch(url))


def is_committed(urls: list[str]) -> bool:
    """Returns whether a step's files, out of `files`, have a `COMMIT` among them."""
    return any(url.endswith(f"/{COMMIT}") for url in urls)


def commit(run: str, step: int) -> Commit:
    """Returns the content of the `COMMIT` of a step.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    path = storage.join(folder_of(run, step), COMMIT)
    try:
        found = contract.read(Commit, contract.parse_sealed(storage.read_bytes(path), FORMAT, VERSION))
        contract.within(0, MOST_SECONDS / 2, seconds=sum(found.progress.seconds.values()))
        if (found.step, found.progress.step) != (step, step):
            raise ValueError(f"it is of step {found.step} and progress.step {found.progress.step}, not {step}")
        if not ARRAYS.fullmatch(found.arrays.name):
            raise ValueError(f"arrays.name is {found.arrays.name!r}")
        if found.settings_digest != settings_digest(found.settings):
            raise ValueError("settings_digest is not the settings'")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{folder_of(run, step)} is torn: it has no {COMMIT}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return found


def load(run: str, step: int) -> tuple[Commit, Arrays]:
    """Returns the checkpoint of one step. Every byte of it is checked.

    Raises:
        DataError: it is torn, damaged, or of another version.
    """
    found = commit(run, step)
    path = storage.join(folder_of(run, step), found.arrays.name)
    try:
        data = storage.read_bytes(path)
        if len(data) != found.arrays.bytes:
            raise ValueError(f"it has {len(data)} bytes, its {COMMIT} says {found.arrays.bytes}")
        if storage.crc32c(data) != found.arrays.crc32c:
            raise ValueError(f"its checksum is not its {COMMIT}'s")
        return found, tensors.read(memoryview(data))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} is missing") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error


def state(run: str, step: int, urls: list[str]) -> tuple[str, str]:
    """Returns (WHOLE, TORN or CORRUPT; the reason, or "") for a step and its files out of `files`."""
    if not is_committed(urls):
        return TORN, f"it has no {COMMIT}"
    try:
        load(run, step)
    except DataError as error:
        return CORRUPT, str(error)
    return WHOLE, ""
