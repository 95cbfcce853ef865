"""What the kinds share."""

from collections.abc import Mapping
from typing import Any

from boceto import checkpoint, dataset, storage
from boceto import run as runs
from boceto.errors import BocetoError, DataError
from boceto.inspection import Found, Link

OK, MISSING, DAMAGED = "ok", "missing", "DAMAGED"


def check_file(found: Found, path: str, crc32c: str, size: int | None = None) -> str:
    """-> OK, MISSING or DAMAGED, for a file whose checksum (and size in bytes) a manifest says; damage is noted."""
    try:
        there = storage.checksum(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        found.damaged.append(f"{path} is missing")
        return MISSING
    if there == (there[0] if size is None else size, crc32c):
        return OK
    expected = f"crc32c {crc32c}" if size is None else f"{size} bytes with crc32c {crc32c}"
    found.damaged.append(f"{path} has {there[0]} bytes with crc32c {there[1]}, its manifest says {expected}")
    return DAMAGED


def must_match(found: Found, link: Link) -> None:
    """Adds a link between files that only the trainer writes, together: where they differ, one was changed."""
    found.chain.append(link)
    if link.matches is False:
        found.damaged.append(f"{link.here} does not fit {link.there}: {link.said}")


def run_of(run: str) -> Mapping[str, Any] | None:
    """`run.json` of the folder `run`; None where it has none that can be read."""
    try:
        return runs.read(run)
    except DataError:
        return None


def data_link(here: str, digest: str, made: Mapping[str, Any] | None) -> Link:
    """Says whether the data set `digest` is still at the place that the settings in `made` name."""
    path = (made or {}).get("settings", {}).get("data", "")
    if not path:
        return Link(here, f"data set {digest}", None, "where it is, nothing here says")
    try:
        there = dataset.load(path).manifest.digest
    except (BocetoError, OSError):
        return Link(here, f"data set {digest}", None, f"not at {path} any more, or not readable from here")
    same = there == digest
    return Link(here, f"data set {digest}", same, f"at {path}" if same else f"{path} is {there}")


def check_settings(found: Found, here: str, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Notes where settings are not those of `run.json`, of those that both know."""
    theirs = run["hyperparameters"]
    for name, value in settings.items():
        if name in theirs and theirs[name] != value:
            found.damaged.append(f"{here} does not fit {runs.DESCRIPTION}: {name} is {value!r} and {theirs[name]!r}")


def digest_link(here: str, digest: str, run: Mapping[str, Any]) -> Link:
    """Whether the data set is that of `run.json`."""
    theirs = run["data_digest"]
    same = digest == theirs
    return Link(here, f"data set {digest}", same, f"{runs.DESCRIPTION} says" + ("" if same else f" {theirs}"))


def checkpoint_link(here: str, run: str, step: int) -> Link:
    """Whether the checkpoint of `step` is still there; the others go in time."""
    there = checkpoint.is_committed([entry.url for entry in storage.list_files(checkpoint.folder_of(run, step))])
    return Link(here, f"checkpoint {step}", True if there else None, "" if there else "not kept")
