"""One checkpoint of a run: `COMMIT` and its arrays."""

import dataclasses

from boceto import checkpoint, storage
from boceto.checkpoint import COMMIT
from boceto.errors import DataError, SettingsError
from boceto.inspection import Found, Table, Tell, data_link, run_of
from boceto.tensors import Arrays

MARKS = (COMMIT, "arrays-*.safetensors*")


def look(url: str, tell: Tell) -> Found:
    """Reads `COMMIT` and every byte of the arrays.

    Raises:
        SettingsError: it is not where a run has its checkpoints, so its step is unknown.
    """
    top, name = storage.parent(url), url.rstrip("/").rpartition("/")[2]
    if not name.isdecimal() or not top.endswith(checkpoint.FOLDER):
        raise SettingsError(f"{url} is a checkpoint outside of a run; put it back to RUN/{checkpoint.FOLDER}/<step>")
    found, run = Found("checkpoint", url), storage.parent(top)
    tell(name)
    found.facts = {"step": int(name), "state": checkpoint.WHOLE}
    try:
        commit, arrays = checkpoint.load(run, int(name))
    except DataError as error:
        committed = storage.exists(storage.join(url, COMMIT))
        found.facts["state"] = checkpoint.CORRUPT if committed else checkpoint.TORN
        found.damaged.append(str(error))
        return found
    found.facts |= {
        "position": commit.position,
        "ledger": commit.progress.ledger,
        "bytes": commit.arrays.bytes,
        "arrays": len(arrays),
        "data_digest": commit.data_digest,
        "settings_digest": commit.settings_digest,
    }
    found.details = {"settings": commit.settings, "progress": dataclasses.asdict(commit.progress)}
    found.tables = [_groups(arrays)]
    description = run_of(run)
    found.chain.append(data_link(COMMIT, commit.data_digest, description))
    found.compare(COMMIT, commit.data_digest, commit.settings, description)
    return found


def _groups(arrays: Arrays) -> Table:
    sizes: dict[str, list[int]] = {}
    for name, array in arrays.items():
        group = sizes.setdefault(name.partition("/")[0], [0, 0, 0])
        group[:] = group[0] + 1, group[1] + array.size, group[2] + array.nbytes
    rows = [[name, *(f"{value:,}" for value in group)] for name, group in sizes.items()]
    return Table("arrays", ["group", "arrays", "values", "bytes"], rows)
