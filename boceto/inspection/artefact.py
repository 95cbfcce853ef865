"""An artefact: `artefact.json` and the SavedModel beside it."""

from boceto import artefact, checkpoint, saved_model, storage
from boceto import run as runs
from boceto.artefact import DESCRIPTION, MODEL
from boceto.errors import DataError
from boceto.inspection import Found, Link, Table, Tell, data_link, run_of

MARKS = (DESCRIPTION, f"{MODEL}/*")


def look(url: str, tell: Tell) -> Found:
    """Reads the description and every byte of the SavedModel."""
    found = Found("artefact", url)
    try:
        described = artefact.read(url)
        files = artefact.listed(url, described)
    except DataError as error:
        found.damaged.append(str(error))
        return found
    states = {}
    for file, expected in files.items():
        name = storage.relative(file, storage.join(url, MODEL))
        tell(name)
        states[name] = found.check_file(file, expected)
    found.facts = {
        "net": described.net,
        "parameters": described.parameters,
        "number_of_classes": len(described.classes),
        "images": f"{described.height}x{described.width}x{described.channels}",
        "embedding": described.embedding,
        "step": described.step,
        "data_digest": described.data_digest,
        "boceto": described.boceto,
    }
    found.details = {"classes": described.classes, "settings": described.settings, "files": states}
    found.tables = [Table("files", ["file", "state"], [[name, state] for name, state in states.items()], 2)]
    _look_at_graph(found)
    folder = storage.parent(url)
    run = run_of(folder)
    found.chain.append(data_link(DESCRIPTION, described.data_digest, run))
    kept = checkpoint.is_committed(checkpoint.files(folder).get(described.step, []))  # The others go in time.
    there = f"checkpoint {described.step}"
    found.chain.append(Link(DESCRIPTION, there, True, "") if kept else Link(DESCRIPTION, there, None, "not kept"))
    found.compare(DESCRIPTION, described.data_digest, described.settings, run)
    found.damaged += runs.misfits(run or {}, described)
    return found


def _look_at_graph(found: Found) -> None:
    """Says what the SavedModel would do to the machine that loads it, without loading it."""
    path = storage.join(found.url, MODEL, saved_model.FILE)
    if any(path in what for what in found.damaged):
        return
    try:
        outside = ", ".join(saved_model.reaches_outside(storage.read_bytes(path)))
    except ValueError as error:
        outside = f"unknown: {error}"
    known = "no op known to reach files, the network or Python; still, load none of somebody you do not trust"
    found.facts["program"] = f"REACHES OUTSIDE by {outside}: do not load it" if outside else known
