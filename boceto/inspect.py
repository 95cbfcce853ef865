"""`boceto inspect PATH`: what something that Boceto wrote holds, where it comes from, and whether it is whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boceto import inspection
from boceto.console import Console, run_program, table
from boceto.errors import BocetoError, DataError
from boceto.inspection import Found
from boceto.settings import option, parse

DESCRIPTION = (
    "Says what a data set, a run, one of its checkpoints, its artefact (RUN/export) or scores (RUN/eval/<digest>) "
    "holds, where it comes from, and whether every byte is what its manifest says. It changes nothing. "
    "Exit code 0: whole; 65: damaged; 2: nothing of ours."
)
_MATCHES = {True: "matches", False: "DOES NOT MATCH", None: "not checked"}


@dataclass(frozen=True)
class Settings:
    """The words of `boceto inspect`."""

    path: str = option(help="folder: a path or gs://", positional=True)


def report(found: Found, columns: int | None = None) -> str:
    """Returns what was found as text for people, with tables of at most `columns` columns."""
    lines = [f"{found.kind} {found.url}"]
    width = max(map(len, found.facts), default=0)
    lines += [f"  {name.replace('_', ' '):{width}}  {value}" for name, value in found.facts.items()]
    for part in found.details.get("parts", ()):
        lines.append(f"  with {part['kind']} {part['path']}")
    for entry in found.tables:
        lines += ["", entry.title, table(entry.header, entry.rows, entry.left, columns) if entry.rows else "none"]
    if found.chain:
        rows = [[link.here, link.there, _MATCHES[link.matches], link.said] for link in found.chain]
        lines += ["", "where it comes from", table(["this", "is of", "", "as"], rows, 4, columns)]
    verdict = [f"DAMAGED: {what}" for what in found.damaged] or ["whole: every byte is what its manifest says"]
    return "\n".join([*lines, "", *verdict])


def main(argv: Sequence[str]) -> int:
    """Runs `boceto inspect` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(Settings, "inspect", argv, DESCRIPTION)
        found = inspection.look(invocation.settings.path, console.progress)
        console.line(report(found, console.width))
        if not found.damaged:
            return inspection.as_json(found), invocation.json, None
        first, *others = found.damaged
        more = f"; and {len(others)} more, above" if others else ""
        return inspection.as_json(found), invocation.json, DataError(f"{found.url} is damaged: {first}{more}")

    return run_program("inspect", work)
