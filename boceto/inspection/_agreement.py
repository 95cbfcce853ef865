"""Do the files of a run agree with each other, and is there what they say that ought to be there?"""

from collections.abc import Mapping
from typing import Any

from boceto import artefact, checkpoint, lease, storage
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.inspection import Found


def compare(found: Found, run: Mapping[str, Any] | None, newest: int, lines: list[runs.Line] | None) -> None:
    """Compares description, newest whole checkpoint (0: none), history, lease and export of a run with each other."""
    for name in (runs.DESCRIPTION, lease.NAME):
        if not storage.exists(storage.join(found.url, name)) and (newest or lines or run):
            found.damaged.append(f"{storage.join(found.url, name)} is missing")
    _compare_checkpoints(found, (run or {}).get("checkpoints", []), newest)
    result = (run or {}).get("result")
    progress = checkpoint.commit(found.url, newest).progress if newest else None
    if progress:
        _compare_history(found, progress, lines or [], finished=bool(result))
    if result:
        _compare_result(found, result, progress, lines or [])


def _compare_checkpoints(found: Found, kept: list[int], newest: int) -> None:
    states = {row["step"]: row["state"] for row in found.details["checkpoints"]}
    for step in kept:
        if states.get(step) in {None, checkpoint.TORN}:
            what = f"has no {checkpoint.COMMIT}" if step in states else "is missing"
            found.damaged.append(
                f"{checkpoint.folder_of(found.url, step)} {what}: {runs.DESCRIPTION} says that it is kept"
            )
    saved = found.details["lease"].get("saved", 0)
    if saved > newest:
        found.damaged.append(f"{checkpoint.folder_of(found.url, saved)} is not whole: {lease.NAME} says it was saved")
    elif saved > max(kept, default=saved):
        path = storage.join(found.url, runs.DESCRIPTION)
        found.damaged.append(f"{path} is an older one: {lease.NAME} says that step {saved} was saved since")


def _compare_history(found: Found, progress: Progress, lines: list[runs.Line], *, finished: bool) -> None:
    """Looks for the line that the newest checkpoint says was the last then; "" where that could not be written."""
    path, here = storage.join(found.url, runs.HISTORY), f"checkpoint {progress.step}"
    chains = [runs.EMPTY, *(line.chain for line in lines)]
    if progress.history and progress.history not in chains:
        found.damaged.append(f"{path} {'lacks lines' if lines else 'is missing'}: {here} says that they are there")
    elif progress.history and finished and any(line.step != progress.step for line in _beyond(progress, lines)):
        found.damaged.append(f"{path} has lines beyond {here}, with which the run was finished")


def _beyond(progress: Progress, lines: list[runs.Line]) -> list[runs.Line]:
    """The lines behind the one that a checkpoint says was the last: the end of a run logs and validates once more."""
    return lines[[runs.EMPTY, *(line.chain for line in lines)].index(progress.history) :]


def _compare_result(found: Found, result: Mapping[str, Any], progress: Progress | None, lines: list[runs.Line]) -> None:
    """Compares the result of a finished run with its newest checkpoint, its history and its export."""
    export = storage.join(found.url, artefact.FOLDER)
    if not storage.list_files(export):
        path = storage.join(export, artefact.DESCRIPTION)
        found.damaged.append(f"{path} is missing: {runs.DESCRIPTION} says that the run was finished")
    if lines and lines[-1].step > result["step"]:
        found.damaged.append(
            f"{runs.DESCRIPTION} does not fit {runs.HISTORY}: finished at {result['step']}, which goes on to "
            f"{lines[-1].step}"
        )
    if not progress:
        return
    said = {name: getattr(progress, name) for name in ("step", "ledger", "train_accuracy")}
    if not progress.window.steps:  # Else the end has logged once more, and knows more of the speed.
        said["images_per_second"] = progress.images_per_second
    if progress.best_step and progress.best_step == result.get("exported_step"):
        said["validation_accuracy"] = progress.best_accuracy
    for name, value in said.items():
        if name in result and result[name] != value:
            found.damaged.append(
                f"{runs.DESCRIPTION} does not fit checkpoint {progress.step}: its result's {name} is {result[name]}, "
                f"not {value}"
            )


def compare_left(found: Found) -> None:
    """Compares what the last trainer left with what is there; what is damaged by itself is named already."""
    for name, expected in found.details["lease"].pop("left", {}).items():
        path = storage.below(found.url, name)
        if any(path in what for what in found.damaged):
            continue
        try:
            if storage.checksum(path)[1] != expected:
                found.damaged.append(f"{path} is not as the last trainer left it, by {lease.NAME}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            found.damaged.append(f"{path} is missing: the last trainer left it, by {lease.NAME}")
