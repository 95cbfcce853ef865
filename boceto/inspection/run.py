"""A run: its description, checkpoints, history and lease, its artefact and its scores."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from boceto import checkpoint, contract, lease, storage
from boceto import run as runs
from boceto.console import clock_time
from boceto.errors import DataError
from boceto.inspection import Found, Link, Table, Tell, artefact, scores
from boceto.inspection._agreement import compare, compare_left
from boceto.inspection._parts import check_settings, data_link, digest_link, must_match

MARKS = (runs.DESCRIPTION, f"{checkpoint.FOLDER}/*", lease.NAME, runs.HISTORY)


_LOOKS = 3
_ATTEMPT = {"pod": str, "started": str, "ended": str, "code": int, "message": str}
_SHOWN, _WIDE = 5, 80  # Attempts, and letters of what one said.


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
    lines = _history(found)
    found.details |= {"checkpoints": rows, "lease": _lease(found), "history_lines": len(lines or ())}
    found.details["seconds"] = found.details["lease"].get("seconds") or (run or {}).get("seconds") or {}
    found.details["attempts"] = _attempts(found)
    found.tables = _tables(found.details)
    _below(found, tell)
    compare(found, run, newest, lines)
    compare_left(found)
    return found


def _description(found: Found) -> Mapping[str, Any] | None:
    """What `run.json` says."""
    try:
        run = runs.read(found.url)
    except DataError as error:
        found.damaged.append(str(error))
        return None
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
        found.details |= {"settings": run.get("settings"), "versions": run.get("versions"), "result": run.get("result")}
        found.chain.append(data_link(runs.DESCRIPTION, run["data_digest"], run))
    return run


def _checkpoint(found: Found, run: Mapping[str, Any] | None, step: int, urls: list[str], tell: Tell) -> dict[str, Any]:
    """One checkpoint's row."""
    tell(f"checkpoint {step}")
    state, why = checkpoint.state(found.url, step, urls)
    size = sum(entry.size for entry in storage.list_files(checkpoint.folder_of(found.url, step)))
    row: dict[str, Any] = {"step": step, "state": state, "bytes": size, "ledger": "", "marks": [], "why": why}
    if state == checkpoint.CORRUPT:
        found.damaged.append(why)
    if state != checkpoint.WHOLE:
        return row
    commit = checkpoint.commit(found.url, step)
    if run is not None:
        here = f"checkpoint {step}"
        must_match(found, digest_link(here, commit.data_digest, run))
        check_settings(found, here, commit.settings, run)
    return row | {"ledger": commit.progress.ledger, "best_step": commit.progress.best_step}


def _mark(found: Found, rows: list[dict[str, Any]]) -> int:
    """Marks the newest whole checkpoint, whose step it returns (0: none), and the best one by it; nothing whole, where
    there should be, is damage.
    """
    whole = [row for row in rows if row["state"] == checkpoint.WHOLE]
    if not whole:
        if len(rows) > 1:
            found.damaged.append(
                f"{storage.join(found.url, checkpoint.FOLDER)}: none of {len(rows)} checkpoints is whole"
            )
        return 0
    whole[-1]["marks"].append("newest")
    best = whole[-1]["best_step"]
    for row in whole:
        if row["step"] == best:
            row["marks"].append("best")
    if best:
        there = best in [row["step"] for row in whole]
        said = "" if there else "it is not whole any more"
        must_match(found, Link(f"checkpoint {whole[-1]['step']}", f"the best, {best}", there, said))
    newest: int = whole[-1]["step"]
    return newest


def _lease(found: Found) -> dict[str, Any]:
    """Who trains the run, or did."""
    path = storage.join(found.url, lease.NAME)
    holder, version = lease.read(path)
    if holder is None:
        if version:
            found.damaged.append(f"{path} cannot be read; a trainer takes it over after a while")
        return {"state": "unreadable" if version else "none"}
    age = time.time() - holder.renewed
    silent = "is silent, and may be dead" if age > holder.term else "holds it"
    state = "released" if holder.released else "its process is gone" if holder.is_gone else silent
    return {
        "state": state,
        "holder": str(holder),
        "seconds_since_renewal": round(age, 1),
        "term": holder.term,
        "step": holder.heartbeat.step,
        "seconds": dict(holder.heartbeat.seconds),
        "saved": holder.heartbeat.saved,
        "left": holder.left if holder.released else {},
    }


def _history(found: Found) -> list[runs.Line] | None:
    """The lines of the history; None where it has none that can be read."""
    try:
        return runs.history(found.url)
    except ValueError as error:
        found.damaged.append(f"{storage.join(found.url, runs.HISTORY)} is damaged: {error}")
        return None


def _attempts(found: Found) -> list[dict[str, Any]]:
    """How the attempts at the run ended, as far as it is written down."""
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
    spent = [[name, clock_time(value), f"{value / total:.1%}"] for name, value in seconds.items()]
    if spent:
        tables.append(Table("time over all sessions", ["activity", "time", "share"], spent))
    if attempts := details["attempts"][-_SHOWN:]:
        title = f"last {len(attempts)} of {len(details['attempts'])} attempts"
        ends = [[str(value).partition("\n")[0][:_WIDE] for value in attempt.values()] for attempt in attempts]
        tables.append(Table(title, list(_ATTEMPT), ends, len(_ATTEMPT)))
    lease = [[name.replace("_", " "), str(value)] for name, value in details["lease"].items()]
    tables.append(Table("lease", ["of", "is"], [row for row in lease if row[0] not in {"seconds", "left"}], 2))
    return tables


def _below(found: Found, tell: Tell) -> None:
    """Adds the artefact and the scores in the run's folder."""
    parts = []
    if storage.list_files(artefact.at(found.url)):
        parts.append(artefact.look(artefact.at(found.url), tell))
    top = storage.join(found.url, scores.FOLDER)
    folders = {storage.relative(entry.url, top).partition("/")[0] for entry in storage.list_files(top)}
    parts += [scores.look(storage.join(top, name), tell) for name in sorted(folders)]
    for part in parts:
        found.damaged += part.damaged
        found.chain += part.chain
    found.details["parts"] = [{"kind": part.kind, "path": part.url, **part.facts} for part in parts]
