"""What `boceto preflight` looks at: would a training with these settings run here? It leaves the run as it was."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boceto import artefact, dataset, lease, staging, storage
from boceto import run as runs
from boceto.checkpoint import Progress
from boceto.console import quiet
from boceto.dataset import Manifest
from boceto.errors import EXIT_FAULT, EXIT_SETTINGS, BocetoError, SettingsError
from trainer import limits
from trainer.checkpoints import Checkpoints, check_fits, newest_whole
from trainer.settings import Settings, check_groups, check_last, check_patience

if TYPE_CHECKING:
    from trainer.footprint import Footprint

PASSED, FAILED, OPEN = "passed", "FAILED", "not checked"
_GB = 10**9
_UNKNOWN = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})  # Then nothing was found out.
_LOOKS = 20  # In one term of a lease.


class _Open(Exception):  # noqa: N818 - it is no error
    """It cannot be looked at, and why."""


@dataclass(frozen=True)
class Check:
    """One line of the table. code: the exit code that it asks for."""

    name: str
    state: str
    said: str
    code: int = 0


class Checks:
    """The checks of one training, in order; each leaves what later ones need."""

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._memory = limits.memory()  # Before TensorFlow takes its part, which goes with this process.
        self._gpus = 0
        self._replicas = 0
        self._data: Manifest | None = None
        self._footprint: Footprint | None = None
        self._passed: set[str] = set()

    def all(self) -> list[Check]:
        """Looks at everything."""
        with storage.as_found(self._settings.run):
            return [
                self._check("devices", self._look_at_devices),
                self._check("batch", self._look_at_batch),
                self._check("data set", self._look_at_data),
                self._check("run folder", self._look_at_run),
                self._check("lease", self._look_at_lease),
                self._check("checkpoints", self._look_at_checkpoints),
                self._check("memory", self._look_at_memory),
                self._check("disk", self._look_at_disk),
                self._check("save", self._look_at_save),
            ]

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
            data.split(name)
        counts = ", ".join(f"{name} {count:,}" for name, count in records.items())
        return f"{data.manifest.digest}, every byte is what its manifest says; {counts}"

    def _look_at_run(self) -> str:
        run = self._settings.run
        storage.check_writable(run, "train.run")
        artefact.check_own(run)
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
        check_fits(found[0], self._manifest.digest, self._settings)
        check_last(found[0].step, min(self._settings.max_steps or self._steps, self._steps), self._settings)
        finished = (
            bool((description or {}).get("result"))
            and (description or {})["stop_criterion"] == self._settings.stop_criterion
        )
        goes_on = f"{'the run is finished' if finished else 'it goes on'} after step {found[0].step}"
        return "; ".join([f"{goes_on}, whose settings fit", *skipped])

    def _look_at_memory(self) -> str:
        self._needs("batch", "data set")
        footprint = self._measured()
        needed, remedy = footprint.host(gpu=self._gpus > 0), "use a smaller --batch-size or --steps-per-execution"
        said = f"about {_size(needed)} needed"
        if self._memory and needed > self._memory.free:
            raise SettingsError(
                f"{said}, {_size(self._memory.free)} free of {self._memory.of}; {remedy}, or more memory"
            )
        said += (
            f", {_size(self._memory.free)} free of {self._memory.of}" if self._memory else ", what is free is unknown"
        )
        if not self._gpus:
            return said
        needed, free = footprint.gpu, limits.gpu_memory()
        said += f"; on each GPU about {_size(needed)}"
        if free and needed > min(free):
            raise SettingsError(f"{said}, {_size(min(free))} free; {remedy}")
        return f"{said}, {_size(min(free))} free" if free else f"{said}, what is free is unknown"

    def _look_at_disk(self) -> str:
        self._needs("data set", "run folder")
        run = self._settings.run
        needed = self._measured().disk(self._settings.max_steps or self._steps)
        free = storage.free_bytes(run)
        if free is None:
            return f"about {_size(needed)} needed in {run}, which has no end"
        there = sum(entry.size for entry in storage.list_files(run))
        needed = max(0, needed - there)
        if needed > free:
            raise SettingsError(
                f"train.run = {run}: about {_size(needed)} more needed, {_size(free)} free; make room, use a smaller "
                "--keep, or another --run"
            )
        return f"about {_size(needed)} more needed in {run}, {_size(free)} free"

    def _look_at_save(self) -> str:
        self._needs("run folder", "lease", "disk")
        footprint, grace = self._measured(), self._settings.grace
        probe = storage.join(self._settings.run, f".preflight-{uuid.uuid4().hex}")
        started = time.monotonic()
        try:
            Checkpoints(
                probe, footprint.manifest.digest, self._settings.hyperparameters, self._settings.batch_size, 1
            ).save(footprint.arrays, Progress(step=1))
            seconds = time.monotonic() - started
        finally:
            storage.delete_folder(probe)
        said = f"{_size(footprint.checkpoint)} in {seconds:,.2f} s"
        if seconds > grace:
            raise SettingsError(
                f"{said}, more than train.grace = {grace:g} s from SIGTERM to the end; use a larger --grace and give "
                "the container as much, or a faster storage"
            )
        return f"{said} of {grace:g} s from SIGTERM to the end, which the running step needs too"

    @property
    def _steps(self) -> int:
        """The steps of all epochs, at most: what is held for validation is not counted off."""
        return -(-self._settings.epochs * self._manifest.splits["train"].records // self._settings.batch_size)

    @property
    def _manifest(self) -> Manifest:
        if self._data is None:
            raise _Open("needs: data set")
        return self._data

    def _measured(self) -> "Footprint":
        """Builds the net, once."""
        if self._footprint is None:
            with quiet():
                from trainer import footprint, train

            spec = train.spec(self._settings, self._manifest)
            self._tell("building the net")
            self._footprint = footprint.measure(self._settings, self._manifest, spec, self._replicas)
        return self._footprint


def _size(count: int) -> str:
    """Bytes, for people."""
    return f"{count / _GB:,.1f} GB" if count >= _GB else f"{count / 1e6:,.1f} MB"
