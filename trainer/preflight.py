"""`boceto preflight`: would `boceto train` with these settings run here? It leaves the run as it was."""

import errno
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from boceto import artefact, dataset, lease, staging, storage
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.console import Console, quiet, run_program, table
from boceto.dataset import Manifest
from boceto.errors import EXIT_FAULT, EXIT_SETTINGS, BocetoError, SettingsError
from boceto.settings import parse
from trainer import environment, footprint, initial, limits
from trainer.checkpoints import Checkpoints, check_fits, newest_whole
from trainer.footprint import REMEDY, Footprint
from trainer.limits import size
from trainer.settings import Settings, check_groups, check_last, check_patience

DESCRIPTION = (
    "Looks whether `boceto train` with these settings would run here: data, run folder, lease, checkpoints, devices, "
    "memory, disk, and a save timed against --grace. A child process trains one call in a temporary folder to measure "
    "the memory. Takes all settings of `boceto train`, its table in the TOML file too. Data in object storage is "
    "copied to --cache-dir, where training finds it; the run's folder stays as it was. Exit code 0: all passed; 2: a "
    "setting or this machine does not do; 65: data or checkpoints do not; others: it could not be found out now."
)
PASSED, FAILED, OPEN = "passed", "FAILED", "not checked"
_UNKNOWN = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})  # Then nothing was found out.
_LOOKS = 20  # In one term of a lease.


class _Open(Exception):  # noqa: N818 - it is no error
    """A check that cannot be done, and why."""


class Check(NamedTuple):
    """One line of the table. code: the exit code that it asks for."""

    name: str
    state: str
    said: str
    code: int = 0


class Checks:
    """The checks of one training, in order; each leaves what later ones need."""

    def __init__(self, settings: Settings, tell: Callable[..., None]) -> None:
        self._settings = settings
        self._tell = tell
        self._gpus = 0
        self._replicas = 0
        self._data: Manifest | None = None
        self._measured: Footprint | None = None
        self._passed: set[str] = set()

    def all(self) -> list[Check]:
        """Looks at everything."""
        looks = {
            "devices": self._look_at_devices,
            "batch": self._look_at_batch,
            "data set": self._look_at_data,
            "run folder": self._look_at_run,
            "lease": self._look_at_lease,
            "checkpoints": self._look_at_checkpoints,
            "memory": self._look_at_memory,
            "disk": self._look_at_disk,
            "save": self._look_at_save,
        }
        with storage.as_found(self._settings.run):
            return [self._check(name, look) for name, look in looks.items()]

    def _check(self, name: str, look: Callable[[], str]) -> Check:
        self._tell(f"checking: {name}")
        try:
            said = look()
        except _Open as error:
            return Check(name, OPEN, str(error))
        except BocetoError as error:
            return Check(name, FAILED, str(error), error.exit_code)
        except (OSError, MemoryError) as error:
            code = EXIT_FAULT if getattr(error, "errno", None) in _UNKNOWN else EXIT_SETTINGS
            return Check(name, FAILED, str(error) or type(error).__name__, code)
        self._passed.add(name)
        return Check(name, PASSED, said)

    def _needs(self, *names: str) -> None:
        """Leaves a check open where one of these has not passed."""
        for name in names:
            if name not in self._passed:
                raise _Open(f"needs: {name}")

    def _look_at_devices(self) -> str:
        with quiet():
            import tensorflow as tf

            from trainer import devices

            self._gpus = 0 if self._settings.replicas else len(tf.config.list_physical_devices("GPU"))
            if tf.config.list_physical_devices("GPU"):  # Left to those who compute there now.
                tf.config.set_visible_devices([], "GPU")
        self._replicas = self._settings.replicas or (1 << (self._gpus.bit_length() - 1) if self._gpus else 1)
        xla, deterministic = devices.modes(self._settings.xla, self._settings.deterministic, gpu=self._gpus > 0)
        seen = f"{self._gpus} GPUs" if self._gpus else f"{self._replicas} on the CPU, {os.cpu_count()} cores"
        return f"{seen}; XLA {'on' if xla else 'off'}, bit-exact operations {'on' if deterministic else 'off'}"

    def _look_at_batch(self) -> str:
        self._needs("devices")
        begun = (runs.read(self._settings.run) or {}).get("hyperparameters", {}).get("groups", 0)
        check_groups(self._settings.batch_size, self._settings.groups or begun or self._replicas, self._replicas)
        each = self._settings.batch_size // self._replicas
        return f"{self._settings.batch_size} records a step, {each} a device"

    def _look_at_data(self) -> str:
        data = dataset.load(self._settings.data, staging.cache(self._settings.cache_dir, "train.cache_dir", self._tell))
        check_patience(self._settings, data.manifest)
        self._data = data.manifest
        records = {name: info.records for name, info in data.manifest.splits.items() if info.records}
        for name in ("train", *sorted(records.keys() - {"train"})):
            self._tell(f"checking: {data.url}, {name}")
            data.split(name, verify=True)
        counts = ", ".join(f"{name} {count:,}" for name, count in records.items())
        return f"{data.manifest.digest}, every byte is what its manifest says; {counts}"

    def _look_at_run(self) -> str:
        run = self._settings.run
        storage.check_writable(run, "train.run")
        artefact.check_own(run)
        runs.check_files(run)
        if not storage.preconditions_honoured(run):
            raise SettingsError(
                f"train.run = {run}: its storage lets a second writer replace what may only be made once, so that two "
                "trainers could spoil one run; give a --run on a storage that honours preconditions"
            )
        return f"{run} can be written, and of two who make one file only the first does"

    def _look_at_lease(self) -> str:
        path = storage.join(self._settings.run, lease.NAME)
        holder, version = lease.read(path)
        who = str(holder or lease.UNREADABLE)
        if not version:
            return "free, nobody has held it"
        if holder and (holder.released or holder.is_gone):
            return f"free, {who} {'has given it back' if holder.released else 'has ended'}"
        if (holder and holder.is_here) or self._is_renewed(path, version, holder):
            raise SettingsError(f"{path}: {who} is training this run; wait for it, or give another --run")
        return f"free, {who} has not renewed it for its term"

    def _is_renewed(self, path: str, version: str, holder: lease.Holder | None) -> bool:
        """Watches a lease for its term, as a trainer does that would take it over."""
        term = holder.term if holder else self._settings.lease
        until = time.monotonic() + term
        while time.monotonic() < until:
            self._tell(f"checking: is {path} renewed within {term:g} s?")
            time.sleep(term / _LOOKS)
            if lease.read(path)[1] != version:
                return True
        return False

    def _look_at_checkpoints(self) -> str:
        skipped: list[str] = []
        description = runs.read(self._settings.run)
        found = newest_whole(self._settings.run, skipped.append)
        if found is None:
            return "; ".join(["none, it begins with the first step", *skipped])
        check_fits(found[0], self._manifest.digest, initial.resolved(self._settings, description))
        check_last(found[0].step, min(self._settings.max_steps or self._steps, self._steps), self._settings)
        finished = (
            bool((description or {}).get("result"))
            and (description or {})["stop_criterion"] == self._settings.stop_criterion
        )
        goes_on = f"{'the run is finished' if finished else 'it goes on'} after step {found[0].step}"
        return "; ".join([f"{goes_on}, whose settings fit", *skipped])

    def _look_at_memory(self) -> str:
        self._needs("batch", "data set", "lease")
        self._tell("training one call to measure its memory")
        free = limits.memory()
        self._measured = found = footprint.measure(self._settings, self._manifest, free, gpu=self._gpus > 0)
        said = f"{size(found.host)} needed"
        if free and found.host > free.free:
            raise SettingsError(f"{said}, {size(free.free)} free of {free.of}; {REMEDY}, or more memory")
        said += f", {size(free.free)} free of {free.of}" if free else ", what is free is unknown"
        return f"{said}; at most {size(found.gpu)} on a GPU, which were there" if self._gpus else said

    def _look_at_disk(self) -> str:
        self._needs("run folder")
        run = self._settings.run
        needed = self._footprint.disk(self._settings, self._settings.max_steps or self._steps)
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

    def _look_at_save(self) -> str:
        self._needs("run folder", "disk")
        settings, found = self._settings, self._footprint
        probe = storage.join(settings.run, f".preflight-{uuid.uuid4().hex}")
        started = time.monotonic()
        try:
            checkpoints = Checkpoints(probe, self._manifest.digest, settings.hyperparameters, settings.batch_size, 1)
            checkpoints.save(found.arrays, Progress(step=1))
            seconds = time.monotonic() - started
        finally:
            storage.delete_folder(probe)
        said = f"{size(found.checkpoint)} in {seconds:,.2f} s"
        if seconds > settings.grace:
            raise SettingsError(
                f"{said}, more than train.grace = {settings.grace:g} s from SIGTERM to the end; use a larger --grace "
                "and give the container as much, or a faster storage"
            )
        return f"{said} of {settings.grace:g} s from SIGTERM to the end, which the running step needs too"

    @property
    def _steps(self) -> int:
        """The steps of all epochs, at most: what is held for validation is not counted off."""
        return -(-self._settings.epochs * self._manifest.splits["train"].records // self._settings.batch_size)

    @property
    def _manifest(self) -> Manifest:
        if self._data is None:
            raise _Open("needs: data set")
        return self._data

    @property
    def _footprint(self) -> Footprint:
        if self._measured is None:
            raise _Open("needs: memory")
        return self._measured


def wrong(checks: Sequence[Check]) -> BocetoError | None:
    """What failed; the first decides on the exit code."""
    failed = [check for check in checks if check.state == FAILED]
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
        checks = Checks(invocation.settings, console.progress).all()
        rows = [[check.name, check.state, check.said] for check in checks]
        console.line(table(["check", "", "what was found"], rows, 3))
        result = {
            "passed": not any(check.state == FAILED for check in checks),
            "checks": [check._asdict() for check in checks],
        }
        return result, invocation.json, wrong(checks)

    return run_program("preflight", work)
