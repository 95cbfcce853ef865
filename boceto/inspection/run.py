"""A run: its description, checkpoints, history and lease, its artefact and its scores, and whether they agree."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from boceto import artefact as artefacts
from boceto import checkpoint, contract, lease, storage
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.console import clock_time
from boceto.errors import DataError
from boceto.inspection import NOT_THERE, Found, Link, Table, Tell, artefact, data_link, scores

MARKS = (runs.DESCRIPTION, f"{checkpoint.FOLDER}/*", lease.NAME, runs.HISTORY)
_LOOKS = 3
_ATTEMPT = {"pod": str, "started": str, "ended": str, "code": int, "message": str}
_SHOWN, _WIDE = 5, 80  # Attempts, and letters of a message.


def look(url: str, tell: Tell) -> Found:
    """Reads everything in a run's folder but the curves. What a trainer changes meanwhile is looked at again."""
    before = runs.left(url)
    for _ in range(_LOOKS):
        found = _look(url, tell)
        after = runs.left(url)
        if not found.damaged or before == after:
            break
        before = after
    return found


def _look(url: str, tell: Tell) -> Found:
    found = Found("run", url)
    run = _description(found)
    rows = [_checkpoint(found, run, step, urls, tell) for step, urls in checkpoint.files(url).items()]
    newest = _mark(found, rows)
    lines: list[runs.Line] = []
    try:
        lines = runs.history(url) or []
    except ValueError as error:
        found.damaged.append(f"{storage.join(url, runs.HISTORY)} is damaged: {error}")
    found.details |= {"checkpoints": rows, "lease": _lease(found), "history_lines": len(lines)}
    found.details["seconds"] = found.details["lease"].get("seconds") or run.get("seconds") or {}
    found.details["attempts"] = _attempts(found)
    found.tables = _tables(found.details)
    _below(found, tell)
    _compare_checkpoints(found, run, newest, lines)
    progress = checkpoint.commit(url, newest).progress if newest else None
    if progress:
        _compare_history(found, progress, lines, finished=bool(run.get("result")))
    if run.get("result"):
        _compare_result(found, run["result"], progress, lines)
    _compare_left(found)
    return found


def _description(found: Found) -> Mapping[str, Any]:
    """Returns what `run.json` says; nothing if there is none that can be read."""
    try:
        run = runs.read(found.url) or {}
    except DataError as error:
        found.damaged.append(str(error))
        return {}
    found.facts["description"] = runs.DESCRIPTION if run else f"no {runs.DESCRIPTION}"
    if run:
        result = run.get("result") or {}
        found.facts |= {
            "net": run["hyperparameters"].get("net"),
            "parameters": run.get("parameters"),
            "data_digest": run["data_digest"],
            "finished": f"at step {result['step']}" if result else "no",
            "boceto": (run.get("versions") or {}).get("boceto"),
            "ledger": result.get("ledger"),
        }
        found.details |= {name: run.get(name) for name in ("settings", "versions", "result")}
        found.chain.append(data_link(runs.DESCRIPTION, run["data_digest"], run))
    return run


def _checkpoint(found: Found, run: Mapping[str, Any], step: int, urls: list[str], tell: Tell) -> dict[str, Any]:
    """Returns the row of a checkpoint."""
    tell(f"checkpoint {step}")
    state, why = checkpoint.state(found.url, step, urls)
    size = sum(entry.size for entry in storage.list_files(checkpoint.folder_of(found.url, step)))
    row: dict[str, Any] = {"step": step, "state": state, "bytes": size, "ledger": "", "marks": [], "why": why}
    if state == checkpoint.CORRUPT:
        found.damaged.append(why)
    if state != checkpoint.WHOLE:
        return row
    commit = checkpoint.commit(found.url, step)
    found.compare(f"checkpoint {step}", commit.data_digest, commit.settings, run or None)
    return row | {"ledger": commit.progress.ledger, "best_step": commit.progress.best_step}


def _mark(found: Found, rows: list[dict[str, Any]]) -> int:
    """Marks the newest whole checkpoint and the best one by it, and returns the newest's step; 0 if none is whole."""
    whole = {row["step"]: row for row in rows if row["state"] == checkpoint.WHOLE}
    if not whole:
        if len(rows) > 1:
            folder = storage.join(found.url, checkpoint.FOLDER)
            found.damaged.append(f"{folder}: none of {len(rows)} checkpoints is whole")
        return 0
    newest: int = max(whole)
    whole[newest]["marks"].append("newest")
    if best := whole[newest]["best_step"]:
        if best in whole:
            whole[best]["marks"].append("best")
        said = "" if best in whole else "it is not whole any more"
        found.must_match(Link(f"checkpoint {newest}", f"the best, {best}", best in whole, said))
    return newest


def _lease(found: Found) -> dict[str, Any]:
    """Returns which process trains the run, or trained it last."""
    path = storage.join(found.url, lease.NAME)
    holder, version = lease.read(path)
    if holder is None:
        if version:
            found.damaged.append(f"{path} cannot be read; a trainer takes it over after a while")
        return {"state": "unreadable" if version else "none"}
    age = time.time() - holder.renewed
    silent = "is silent, and may be dead" if age > holder.term else "holds it"
    return {
        "state": "released" if holder.released else "its process is gone" if holder.is_gone else silent,
        "holder": str(holder),
        "seconds_since_renewal": round(age, 1),
        "term": holder.term,
        "step": holder.heartbeat.step,
        "seconds": dict(holder.heartbeat.seconds),
        "saved": holder.heartbeat.saved,
        "left": holder.left if holder.released else {},
    }


def _attempts(found: Found) -> list[dict[str, Any]]:
    """Returns how the attempts at the run ended, as far as it is written down."""
    path = storage.join(found.url, runs.ATTEMPTS)
    attempts: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for number, text in enumerate(storage.read_bytes(path).splitlines(), 1):
            try:
                entry = contract.decode(text)
                attempts.append({name: contract.field(entry, name, kind) for name, kind in _ATTEMPT.items()})
            except ValueError as error:
                found.damaged.append(f"{path} is damaged: line {number}: {error}; remove it, no program reads it")
                break
    return attempts


def _tables(details: Mapping[str, Any]) -> list[Table]:
    rows = [
        [str(row["step"]), row["state"], f"{row['bytes']:,}", row["ledger"] or "-", ", ".join(row["marks"]) or "-"]
        for row in details["checkpoints"]
    ]
    tables = [Table("checkpoints", ["step", "state", "bytes", "ledger", ""], rows)]
    seconds = details["seconds"]
    total = max(1e-9, sum(seconds.values()))
    if spent := [[name, clock_time(value), f"{value / total:.1%}"] for name, value in seconds.items()]:
        tables.append(Table("time over all sessions", ["activity", "time", "share"], spent))
    if attempts := details["attempts"][-_SHOWN:]:
        title = f"last {len(attempts)} of {len(details['attempts'])} attempts"
        ends = [[str(value).partition("\n")[0][:_WIDE] for value in attempt.values()] for attempt in attempts]
        tables.append(Table(title, list(_ATTEMPT), ends, len(_ATTEMPT)))
    lease = [
        [name.replace("_", " "), str(value)]
        for name, value in details["lease"].items()
        if name not in {"seconds", "left"}
    ]
    return [*tables, Table("lease", ["of", "is"], lease, 2)]


def _below(found: Found, tell: Tell) -> None:
    """Adds the artefact and the scores in the run's folder."""
    export, top = storage.join(found.url, artefacts.FOLDER), storage.join(found.url, scores.FOLDER)
    parts = [artefact.look(export, tell)] if storage.list_files(export) else []
    folders = {storage.relative(entry.url, top).partition("/")[0] for entry in storage.list_files(top)}
    parts += [scores.look(storage.join(top, name), tell) for name in sorted(folders)]
    for part in parts:
        found.damaged += part.damaged
        found.chain += part.chain
    found.details["parts"] = [{"kind": part.kind, "path": part.url, **part.facts} for part in parts]


def _compare_checkpoints(found: Found, run: Mapping[str, Any], newest: int, lines: list[runs.Line]) -> None:
    """Compares the checkpoints that there are with those that description and lease name."""
    for name in (runs.DESCRIPTION, lease.NAME):
        if not storage.exists(storage.join(found.url, name)) and (newest or lines or run):
            found.damaged.append(f"{storage.join(found.url, name)} is missing")
    kept = run.get("checkpoints", [])
    states = {row["step"]: row["state"] for row in found.details["checkpoints"]}
    for step in kept:
        if states.get(step) in {None, checkpoint.TORN}:
            what = f"has no {checkpoint.COMMIT}" if step in states else "is missing"
            folder = checkpoint.folder_of(found.url, step)
            found.damaged.append(f"{folder} {what}: {runs.DESCRIPTION} says that it is kept")
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
    elif progress.history and finished:
        beyond = lines[chains.index(progress.history) :]  # The end of a run logs and validates once more.
        if any(line.step != progress.step for line in beyond):
            found.damaged.append(f"{path} has lines beyond {here}, with which the run was finished")


def _compare_result(found: Found, result: Mapping[str, Any], progress: Progress | None, lines: list[runs.Line]) -> None:
    """Compares the result of a finished run with its newest checkpoint, its history and its export."""
    export = storage.join(found.url, artefacts.FOLDER)
    if not storage.list_files(export):
        path = storage.join(export, artefacts.DESCRIPTION)
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


def _compare_left(found: Found) -> None:
    """Compares what the last trainer left with what is there; what is damaged by itself is named already."""
    for name, expected in found.details["lease"].pop("left", {}).items():
        path = storage.below(found.url, name)
        if any(path in what for what in found.damaged):
            continue
        try:
            if storage.checksum(path)[1] != expected:
                found.damaged.append(f"{path} is not as the last trainer left it, by {lease.NAME}")
        except NOT_THERE:
            found.damaged.append(f"{path} is missing: the last trainer left it, by {lease.NAME}")
