"""Contract 4, the artefact: `RUN/export/` holds a SavedModel beside this `artefact.json`.

The SavedModel has a signature `serving_default`: `images` uint8[B, H, W, 1] -> `logits` float32[B, C] and `embedding`
float32[B, D], with its preprocessing inside.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boceto import storage
from boceto.errors import DataError

FOLDER = "export"
DESCRIPTION = "artefact.json"
MODEL = "saved_model"
FORMAT = "boceto-artefact"
VERSION = 1


@dataclass(frozen=True)
class Artefact:
    """What `artefact.json` says. `files` maps each file of the SavedModel to its crc32c (hex)."""

    net: str
    parameters: int
    classes: list[str]
    height: int
    width: int
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
        """The bytes of `artefact.json`."""
        return (json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n").encode()


def load(run: str) -> Artefact:
    """The description of the artefact of the run folder `run`.

    Raises:
        DataError: the run has none, or it is damaged or of another version.
    """
    path = storage.join(run, FOLDER, DESCRIPTION)
    try:
        entry = json.loads(storage.read_bytes(path))
        if (entry["format"], entry["version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is {entry['format']!r} version {entry['version']!r}")
        return Artefact(**entry)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{path} does not exist: the run has not exported yet; run `boceto train --run {run}`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not an artefact's description: {error}; export it again with `boceto train`"
        ) from error
