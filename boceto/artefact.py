"""Contract 4, the artefact: `RUN/export/` holds a SavedModel beside this `artefact.json`.

The SavedModel has a signature `serving_default`: `images` uint8[B, H, W, C] -> `logits` float32[B, C] and `embedding`
float32[B, D], with its preprocessing inside.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boceto import contract, storage
from boceto.errors import DataError, SettingsError

FOLDER = "export"
DESCRIPTION = "artefact.json"
MODEL = "saved_model"
FORMAT = "boceto-artefact"
VERSION = 3


@dataclass(frozen=True)
class Artefact:
    """What `artefact.json` says. `files` maps each file of the SavedModel to its crc32c (hex).

    data_options: those of the data set, which say how its images were made; empty where an older Boceto wrote it.
    """

    net: str
    parameters: int
    classes: list[str]
    height: int
    width: int
    channels: int
    embedding: int
    step: int
    data_digest: str
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    images_per_second: float
    boceto: str
    data_options: Mapping[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    version: int = VERSION

    def to_json(self) -> bytes:
        """The bytes of `artefact.json`, sealed: a changed byte is told when it is read."""
        return contract.sealed(dataclasses.asdict(self))


def path(run: str) -> str:
    """Returns the URL of `artefact.json`, which is written last, in the run folder `run`."""
    return storage.join(run, FOLDER, DESCRIPTION)


def load(run: str) -> Artefact:
    """Returns the description of the artefact of the run folder `run`.

    Raises:
        DataError: the run has none, or it is damaged or of another version.
    """
    return read(storage.join(run, FOLDER))


def read(url: str) -> Artefact:
    """Returns the description of the artefact in the folder `url`: a run's, or one that was moved.

    Raises:
        DataError: as `load`.
    """
    path, run = storage.join(url, DESCRIPTION), storage.parent(url)
    try:
        return contract.read(Artefact, contract.parse_sealed(storage.read_bytes(path), FORMAT, VERSION))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{path} does not exist: the run has not exported yet; run `boceto train --run {run}`"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not an artefact's description: {error}; {_again(run)}") from error


def listed(url: str, description: Artefact) -> dict[str, str]:
    """Returns the URLs of the SavedModel's files of the artefact in the folder `url`, and their checksums.

    Raises:
        DataError: a name is not below the folder, or there is no SavedModel among them.
    """
    model = storage.join(url, MODEL)
    if "saved_model.pb" not in description.files:
        raise DataError(f"{model}: {DESCRIPTION} lists no saved_model.pb; {_again(storage.parent(url))}")
    return {storage.below(model, name): expected for name, expected in description.files.items()}


def check_own(run: str) -> None:
    """Refuses an `export` that is a link or holds other files: the folder is replaced whole.

    Raises:
        SettingsError: it is a link, or holds such a file.
    """
    url = storage.join(run, FOLDER)
    if storage.is_link(url):
        raise SettingsError(f"{url} is a link, and an export replaces the folder; remove the link, or link the run's")
    for folder in (FOLDER, f"{FOLDER}.old"):
        top = storage.join(run, folder)
        for entry in storage.list_files(top):
            name = storage.relative(entry.url, top)
            if name != DESCRIPTION and not name.startswith((f"{MODEL}/", f"{DESCRIPTION}.")):
                raise SettingsError(f"{entry.url} is no file of Boceto's, and an export replaces its folder; move it")


def verify(run: str, description: Artefact) -> str:
    """Checks the SavedModel's files against `artefact.json`, and returns its URL. A checksum that the storage keeps is
    believed.

    Raises:
        DataError: a file is missing or changed, or none is listed.
    """
    for path, expected in listed(storage.join(run, FOLDER), description).items():
        _check(run, path, expected)
    return storage.join(run, FOLDER, MODEL)


@contextlib.contextmanager
def verified(url: str, description: Artefact) -> Iterator[Path]:
    """Yields the SavedModel of the artefact in the folder `url`, checked, on this machine: a copy goes with the block.

    Raises:
        DataError: as `verify`.
    """
    model = storage.join(url, MODEL)
    with tempfile.TemporaryDirectory(prefix="boceto-artefact-") as temporary:
        folder = Path(temporary, MODEL)
        for path, expected in listed(url, description).items():
            copy = None if storage.is_local(url) else folder / storage.relative(path, model)
            _check(storage.parent(url), path, expected, copy)
        if storage.is_local(url):  # TensorFlow takes some signs in a path for a pattern, so it gets a link.
            folder.symlink_to(storage.local_folder(model).absolute())
        yield folder


def _check(run: str, path: str, expected: str, copy: Path | None = None) -> None:
    """Checks one file of a SavedModel, or a copy of it that is made first."""
    try:
        if copy:
            storage.download(path, copy)
        _, found = storage.checksum(str(copy or path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{path} is missing; {_again(run)}") from error
    if found != expected:
        raise DataError(f"{path} has crc32c {found}, {DESCRIPTION} says {expected}; {_again(run)}")


def _again(run: str) -> str:
    return f"export it again with `boceto train --run {run}`"
