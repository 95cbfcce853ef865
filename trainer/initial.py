"""The weights that a new run starts from, where `--init` names another run or an artefact."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from boceto import artefact, checkpoint, storage
from boceto.errors import DataError, SettingsError
from boceto.tensors import Arrays
from trainer.checkpoints import newest_whole
from trainer.settings import Settings

_NAMED = 5  # Names that a line lists.


class Origin(NamedTuple):
    """Where weights come from: the checkpoint of `step` of the run in the folder `url`, or, where `step` is 0, the
    artefact in that folder. digest: over the checksums of the files that hold the weights.
    """

    url: str
    step: int
    digest: str


def resolved(settings: Settings, before: Mapping[str, Any] | None) -> Settings:
    """Returns `settings` with the digest of the weights that `--init` names.

    A run that has begun with the same `--init` keeps its digest, and does not need the source any more.

    Raises:
        SettingsError: `--init` names no weights.
    """
    if not settings.init:
        return settings
    if before and before.get("settings", {}).get("init") == settings.init:
        return dataclasses.replace(settings, init_digest=before["settings"].get("init_digest", ""))
    return dataclasses.replace(settings, init_digest=find(settings.init).digest)


def find(url: str) -> Origin:
    """Returns the weights of the artefact in the folder `url`; or, for the folder of a run, of its artefact, or else
    of its best checkpoint, or of its newest.

    Raises:
        SettingsError: there are none.
    """
    try:
        for folder in (url, storage.join(url, artefact.FOLDER)):
            if storage.exists(storage.join(folder, artefact.DESCRIPTION)):
                return Origin(folder, 0, _digest(artefact.read(folder).files))  # `start` checks the files.
        found = newest_whole(url, lambda _: None)
        if found:
            step = found[0].progress.best_step or found[0].step
            return Origin(url, step, _digest(dataclasses.asdict(checkpoint.commit(url, step).arrays)))
    except DataError as error:
        raise SettingsError(f"train.init = {url} holds no weights to start from: {error}") from error
    there = "holds no weights: it has neither an export nor a checkpoint" if storage.list_files(url) else "is not there"
    raise SettingsError(f"train.init = {url} {there}; give the folder of a run or of an artefact")


def _digest(files: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(files, sort_keys=True).encode(), digest_size=16).hexdigest()


def start(settings: Settings, arrays: Arrays, report: Callable[[str], None]) -> dict[str, Any]:
    """Returns `arrays`, of a run at step 0, with the weights, statistics and EMA of `--init` where name and shape are
    the same. Reports in one line how many are the same, and the names of the others.

    Raises:
        SettingsError: the weights are not there, others than when the run began, or nothing fits.
    """
    origin = find(settings.init)
    if origin.digest != settings.init_digest:
        raise SettingsError(
            f"train.init = {settings.init} holds other weights than when {settings.run} began; give another --run"
        )
    try:
        weights = _read(origin)
    except DataError as error:
        raise SettingsError(f"train.init = {settings.init} holds no weights to start from: {error}") from error
    started, kept, used = dict(arrays), [], set()
    for name, array in arrays.items():
        group, _, path = name.partition("/")
        value = weights.get(path)
        if group not in {"weights", "statistics", "ema"}:
            continue
        if value is not None and value.shape == array.shape:
            started[name] = value.astype(array.dtype)
            used.add(path)
        elif group != "ema":
            kept.append(path)
    if not any(weights[path].ndim > 1 for path in used):  # The last bias fits any net of as many classes.
        raise SettingsError(
            f"train.init = {settings.init}: none of its {len(weights)} arrays that are no biases fits this net by name "
            "and shape; give a run of the same net"
        )
    unused = [name for name in weights if name not in used]
    report(
        f"{settings.init}: {len(used)} of its {len(weights)} arrays are copied; arrays of this net that begin as in "
        f"a new run: {_listed(kept)}; arrays that are not used: {_listed(unused)}"
    )
    return started


def _listed(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "none"


def _read(origin: Origin) -> dict[str, Any]:
    """Returns weights and statistics by the path of their variable."""
    from trainer import export, state

    if origin.step:
        return dict(state.export_weights(checkpoint.load(origin.url, origin.step)[1]))
    with artefact.verified(origin.url, artefact.read(origin.url)) as model:
        return export.arrays(model)
