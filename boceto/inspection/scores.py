"""The scores of a run on one data set: `scores.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from boceto import artefact, contract, storage
from boceto.artefact import Artefact
from boceto.errors import DataError
from boceto.inspection import Found, Link, Tell, data_link

SCORES = "scores.json"
FORMAT = "boceto-scores"
VERSION = 2
FOLDER = "eval"
BESIDE = ("report.txt", "neighbours.png")  # The picture is of test drawings.
MARKS = (SCORES, *BESIDE)


def look(url: str, tell: Tell) -> Found:
    """Reads the scores, and compares what they say was measured with what is there."""
    found = Found("scores", url)
    path = storage.join(url, SCORES)
    tell(path)
    try:
        scores = contract.parse_sealed(storage.read_bytes(path), FORMAT, VERSION)
        found.facts = _facts(scores)
        described = contract.field(scores, "artefact", Artefact)
        files = contract.field(scores, "files", Mapping[str, str])
        beside = BESIDE if "test" in scores["splits"] else BESIDE[:1]
        if missing := {*beside} - files.keys():
            raise ValueError(f"files.{min(missing)} is missing")
    except (FileNotFoundError, NotADirectoryError):
        found.damaged.append(f"{path} is missing; run `boceto eval` again")
        return found
    except ValueError as error:
        found.damaged.append(f"{path} is damaged: {error}; run `boceto eval` again")
        return found
    for name in beside:
        found.check_file(storage.join(url, name), files[name])
    digest = found.facts["data_digest"]
    if not url.rstrip("/").endswith(f"/{digest}"):
        found.damaged.append(f"{path} says it is of data set {digest}, its folder says otherwise")
    run = storage.parent(storage.parent(url))
    found.chain = [data_link(SCORES, digest, scores), _artefact(run, described)]
    return found


def _facts(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that people look for.

    Raises:
        ValueError: they are not there.
    """
    splits = contract.field(scores, "splits", Mapping[str, dict[str, Any]])
    retrieval = contract.field(scores, "retrieval", dict[str, Any])
    rankings = contract.field(retrieval, "rankings", Mapping[str, dict[str, Any]])
    facts: dict[str, Any] = {
        "data_digest": contract.field(contract.field(scores, "data", dict[str, Any]), "digest", str),
        "trained_with_this_data": contract.field(scores, "trained_with_this_data", bool),
        "boceto": contract.field(scores, "boceto", str),
    }
    for name, split in splits.items():
        facts[f"{name}_accuracy"] = _value(split, "accuracy")
    for name, ranking in rankings.items():
        facts[f"map_{name}"] = _value(ranking, "mean_average_precision")
    return facts


def _value(entry: Mapping[str, Any], name: str) -> float | None:
    found = contract.field(entry, name, dict[str, Any]).get("value")
    return None if found is None else float(contract.check(float, found, name))


def _artefact(run: str, described: Artefact) -> Link:
    there = f"artefact of step {described.step}"
    try:
        now, then = dataclasses.asdict(artefact.load(run)), dataclasses.asdict(described)
    except DataError:
        return Link(SCORES, there, None, "no artefact that can be read is there")
    other = [name for name in now if now[name] != then[name]]
    return Link(
        SCORES, there, not other, f"the artefact has another {other[0]} now: evaluate it again" if other else ""
    )
