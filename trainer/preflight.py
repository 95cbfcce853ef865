"""`boceto preflight`: checks whether `boceto train` would run here with these settings. The run stays as it was."""

import errno
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from boceto import artefact, dataset, lease, staging, storage
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.console import Console, quiet, run_program, table
from boceto.dataset import Manifest
from boceto.errors import EXIT_FAULT, EXIT_SETTINGS, BocetoError, SettingsError
from boceto.settings import parse
from trainer import environment, footprint, initial, limits, redraw
from trainer.checkpoints import Checkpoints, check_fits, newest_whole
from trainer.footprint import REMEDY, Footprint
from trainer.limits import size
from trainer.settings import Settings, check_groups, check_last, check_patience

DESCRIPTION = (
    "Looks whether `boceto train` with these settings would run here: data, run folder, lease, checkpoints, devices, "
    "memory, disk, and a save timed against --grace. A child process trains one call in a temporary folder to measure "
    "the memory. Takes all settings of `boceto train`, its table in the TOML file too. Data in object storage is "
    "copied to --cache-dir, where training finds it; the run's folder stays as it was. Exit code 0: all passed; 2: a "
    "setting or this machine is unfit; 65: data or checkpoints are unfit; others: a check could not be done now."
)
PASSED, FAILED, OPEN = "passed", "FAILED", "not checked"
_UNKNOWN = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})  # Faults that say nothing about the settings.
_LOOKS = 20  # In one term of a lease.


class Check(NamedTuple):
    """One line of the table. code: the exit code where it failed."""

    name: str
    state: str
    said: str
    code: int = 0


@dataclass
class Trial:
    """The training that is checked, and what the checks have found so far. show: shows the progress."""

    settings: Settings
    show: Callable[..., None]
    gpus: int = field(init=False)
    replicas: int = field(init=False)
    manifest: Manifest = field(init=False)
    footprint: Footprint = field(init=False)

    @property
    def steps(self) -> int:
        """The steps of the run, at most: records that are held for validation are not subtracted."""
        total = -(-self.settings.epochs * self.manifest.splits["train"].records // self.settings.batch_size)
        return min(self.settings.max_steps or total, total)


def _devices(trial: Trial) -> str:
    settings = trial.settings
    with quiet():
        import tensorflow as tf

        from trainer import devices

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:  # Their memory is left to the programs that compute there now.
            tf.config.set_visible_devices([], "GPU")
    trial.gpus = 0 if settings.replicas else len(gpus)
    trial.replicas = settings.replicas or (1 << (trial.gpus.bit_length() - 1) if trial.gpus else 1)
    xla, deterministic = devices.modes(settings.xla, settings.deterministic, gpu=trial.gpus > 0)
    seen = f"{trial.gpus} GPUs" if trial.gpus else f"{trial.replicas} on the CPU, {os.cpu_count()} cores"
    return f"{seen}; XLA {'on' if xla else 'off'}, bit-exact operations {'on' if deterministic else 'off'}"


def _batch(trial: Trial) -> str:
    settings = trial.settings
    begun = (runs.read(settings.run) or {}).get("hyperparameters", {}).get("groups", 0)
    groups = settings.groups or begun or trial.replicas
    check_groups(settings.batch_size, groups, trial.replicas, settings.least_group)
    return f"{settings.batch_size} records a step, {settings.batch_size // trial.replicas} a device"


def _data_set(trial: Trial) -> str:
    data = dataset.load(trial.settings.data, staging.cache(trial.settings.cache_dir, "train.cache_dir", trial.show))
    check_patience(trial.settings, data.manifest)
    trial.manifest = data.manifest
    records = {name: info.records for name, info in data.manifest.splits.items() if info.records}
    for name in ("train", *sorted(records.keys() - {"train"})):
        trial.show(f"checking: {data.url}, {name}")
        split = data.split(name, verify=True)
        if name == "train":
            redraw.of_settings(trial.settings, split)
    counts = ", ".join(f"{name} {count:,}" for name, count in records.items())
    return f"{data.manifest.digest}, every byte is what its manifest says; {counts}"


def _run_folder(trial: Trial) -> str:
    run = trial.settings.run
    storage.check_writable(run, "train.run")
    artefact.check_own(run)
    runs.check_files(run)
    if not storage.preconditions_honoured(run):
        raise SettingsError(
            f"train.run = {run}: its storage lets a second writer replace what may only be made once, so that two "
            "trainers could spoil one run; give a --run on a storage that honours preconditions"
        )
    return f"{run} can be written, and of two who make one file only the first does"


def _lease(trial: Trial) -> str:
    path = storage.join(trial.settings.run, lease.NAME)
    holder, version = lease.read(path)
    name = str(holder or lease.UNREADABLE)
    if not version:
        return "free, nobody has held it"
    if holder and (holder.released or holder.is_gone):
        return f"free, {name} {'has given it back' if holder.released else 'has ended'}"
    # As a trainer that would take the lease over: it waits whether the lease is renewed within its term.
    term = holder.term if holder else trial.settings.lease
    until = time.monotonic() + term
    held = bool(holder and holder.is_here)
    while not held and time.monotonic() < until:
        trial.show(f"checking: is {path} renewed within {term:g} s?")
        time.sleep(term / _LOOKS)
        held = lease.read(path)[1] != version
    if held:
        raise SettingsError(f"{path}: {name} is training this run; wait for it, or give another --run")
    return f"free, {name} has not renewed it for its term"


def _checkpoints(trial: Trial) -> str:
    settings, skipped = trial.settings, list[str]()
    description = runs.read(settings.run) or {}
    found = newest_whole(settings.run, skipped.append)
    if found is None:
        return "; ".join(["none, it begins with the first step", *skipped])
    check_fits(found[0], trial.manifest.digest, initial.resolved(settings, description))
    check_last(found[0].step, trial.steps, settings)
    finished = description.get("result") and description["stop_criterion"] == settings.stop_criterion
    goes_on = f"{'the run is finished' if finished else 'it goes on'} after step {found[0].step}"
    return "; ".join([f"{goes_on}, whose settings fit", *skipped])


def _memory(trial: Trial) -> str:
    trial.show("training one call to measure its memory")
    free = limits.memory()
    found = footprint.measure(trial.settings, trial.manifest, free, gpu=trial.gpus > 0)
    needed = f"{size(found.host)} needed"
    there = f"{size(free.free)} free of {free.of}" if free else "what is free is unknown"
    if free and found.host > free.free:
        raise SettingsError(f"{needed}, {there}; {REMEDY}, or more memory")
    trial.footprint = found
    return f"{needed}, {there}" + (f"; at most {size(found.gpu)} on a GPU, which were there" if trial.gpus else "")


def _disk(trial: Trial) -> str:
    run = trial.settings.run
    needed = trial.footprint.disk(trial.settings, trial.steps)
    free = storage.free_bytes(run)
    if free is None:
        return f"about {size(needed)} needed in {run}, which has no end"
    needed = max(0, needed - sum(entry.size for entry in storage.list_files(run)))
    if needed > free:
        raise SettingsError(
            f"train.run = {run}: about {size(needed)} more needed, {size(free)} free; make room, use a smaller "
            "--keep, or another --run"
        )
    return f"about {size(needed)} more needed in {run}, {size(free)} free"


def _save(trial: Trial) -> str:
    settings, grace = trial.settings, trial.settings.grace
    probe = storage.join(settings.run, f".preflight-{uuid.uuid4().hex}")
    started = time.monotonic()
    try:
        checkpoints = Checkpoints(probe, trial.manifest.digest, settings.hyperparameters, settings.batch_size, 1)
        checkpoints.save(trial.footprint.arrays, Progress(step=1))
        seconds = time.monotonic() - started
    finally:
        storage.delete_folder(probe)
    took = f"{size(trial.footprint.checkpoint)} in {seconds:,.2f} s"
    if seconds > grace:
        raise SettingsError(
            f"{took}, more than train.grace = {grace:g} s from SIGTERM to the end; use a larger --grace and give the "
            "container as much, or a faster storage"
        )
    return f"{took} of {grace:g} s from SIGTERM to the end, which the running step needs too"


# Each check: (its name, its function, the checks that have to pass before).
CHECKS = (
    ("devices", _devices, ()),
    ("batch", _batch, ("devices",)),
    ("data set", _data_set, ()),
    ("run folder", _run_folder, ()),
    ("lease", _lease, ()),
    ("checkpoints", _checkpoints, ("data set",)),
    ("memory", _memory, ("batch", "data set", "lease")),
    ("disk", _disk, ("run folder", "memory")),
    ("save", _save, ("run folder", "memory", "disk")),
)


def check(settings: Settings, show: Callable[..., None]) -> list[Check]:
    """Does all checks that can be done, in order."""
    trial, found = Trial(settings, show), dict[str, Check]()
    with storage.as_found(settings.run):
        for name, function, needs in CHECKS:
            missing = [need for need in needs if found[need].state != PASSED]
            if missing:
                found[name] = Check(name, OPEN, f"needs: {missing[0]}")
            else:
                show(f"checking: {name}")
                found[name] = _checked(name, function, trial)
    return list(found.values())


def _checked(name: str, function: Callable[[Trial], str], trial: Trial) -> Check:
    try:
        return Check(name, PASSED, function(trial))
    except BocetoError as error:
        return Check(name, FAILED, str(error), error.exit_code)
    except (OSError, MemoryError) as error:
        code = EXIT_FAULT if getattr(error, "errno", None) in _UNKNOWN else EXIT_SETTINGS
        return Check(name, FAILED, str(error) or type(error).__name__, code)


def wrong(checks: Sequence[Check]) -> BocetoError | None:
    """Returns an error for the checks that failed, None where none has; the first decides on the exit code."""
    failed = [each for each in checks if each.state == FAILED]
    if not failed:
        return None
    more = f" (and {len(failed) - 1} more, above)" if len(failed) > 1 else ""
    found = BocetoError(f"{failed[0].name}: {failed[0].said}{more}")
    found.exit_code = failed[0].code
    return found


def main(argv: Sequence[str]) -> int:
    """Runs `boceto preflight` with these words; returns the exit code."""

    def work(console: Console) -> tuple[Mapping[str, Any], bool, BocetoError | None]:
        invocation = parse(Settings, "preflight", argv, DESCRIPTION, base="train")
        environment.prepare()
        checks = check(invocation.settings, console.progress)
        rows = [[each.name, each.state, each.said] for each in checks]
        console.line(table(["check", "", "what was found"], rows, 3))
        result = {
            "passed": not any(each.state == FAILED for each in checks),
            "checks": [each._asdict() for each in checks],
        }
        return result, invocation.json, wrong(checks)

    return run_program("preflight", work)
