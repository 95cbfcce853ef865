"""Contract 4, the artefact: `RUN/export/` holds a SavedModel beside this `artefact.json`.

The SavedModel has a signature `serving_default`: `images` uint8[B, H, W, C] -> `logits` float32[B, C] and `embedding`
float32[B, D], with its preprocessing inside.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """What `artefact.json` says. `files` maps each file of the SavedModel to its crc32c (hex)."""

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
    format: str = FORMAT
    version: int = VERSION

    def to_json(self) -> bytes:
        """The bytes of `artefact.json`, sealed: a changed byte is told when it is read."""
        return contract.sealed(dataclasses.asdict(self))


def path(run: str) -> str:
    """The URL of the description of the artefact of the run folder `run`, which is written last."""
    return storage.join(run, FOLDER, DESCRIPTION)


def load(run: str) -> Artefact:
    """The description of the artefact of the run folder `run`.

    Raises:
        DataError: the run has none, or it is damaged or of another version.
    """
    return read(storage.join(run, FOLDER))


def read(url: str) -> Artefact:
    """The description of the artefact in the folder `url`: a run's, or one that was moved.

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
    """The URLs of the SavedModel's files of the artefact in the folder `url`, all below it, and their checksums.

    Raises:
        DataError: one is not, or there is no SavedModel among them.
    """
    model = storage.join(url, MODEL)
    if "saved_model.pb" not in description.files:
        raise DataError(f"{model}: {DESCRIPTION} lists no saved_model.pb; {_again(storage.parent(url))}")
    return {storage.below(model, name): expected for name, expected in description.files.items()}


def check_own(run: str) -> None:
    """Refuses an `export` that is a link or holds other files: the folder is replaced whole.

    Raises:
        SettingsError: it is, or it does.
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
    """Checks the SavedModel's files against `artefact.json`; returns its URL. Where the storage keeps checksums, they
    are believed.

    Raises:
        DataError: a file is missing or changed, or none is listed.
    """
    return _verify(storage.join(run, FOLDER), description)


def _verify(url: str, description: Artefact) -> str:
    for path, expected in listed(url, description).items():
        with _there(storage.parent(url), path):
            _, found = storage.checksum(path)
        _check(storage.parent(url), path, found, expected)
    return storage.join(url, MODEL)


@contextlib.contextmanager
def verified(url: str, description: Artefact) -> Iterator[Path]:
    """The SavedModel of the artefact in the folder `url`, checked, on this machine: a copy goes with the block.

    Raises:
        DataError: as `verify`.
    """
    if storage.is_local(url):
        with _plainly_named(storage.local_folder(_verify(url, description))) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="boceto-artefact-") as folder:
        for path, expected in listed(url, description).items():
            copy = Path(folder, storage.relative(path, storage.join(url, MODEL)))
            copy.parent.mkdir(parents=True, exist_ok=True)
            with _there(storage.parent(url), path):
                storage.download(path, copy)
            _check(storage.parent(url), path, storage.checksum(str(copy))[1], expected)
        yield Path(folder)


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """`folder`, or a link to it for TensorFlow, which takes some signs in a path for a pattern of many."""
    if not set("*?[]\\") & set(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="boceto-artefact-") as temporary:
        link = Path(temporary, MODEL)
        link.symlink_to(folder.absolute())
        yield link


@contextlib.contextmanager
def _there(run: str, path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{path} is missing; {_again(run)}") from error


def _check(run: str, path: str, found: str, expected: str) -> None:
    if found != expected:
        raise DataError(f"{path} has crc32c {found}, {DESCRIPTION} says {expected}; {_again(run)}")


def _again(run: str) -> str:
    return f"export it again with `boceto train --run {run}`"
