"""Measures the memory and disk that a training takes: a child process trains one call, saves and exports."""

import dataclasses
import math
import signal
import subprocess
import tempfile
import threading
from typing import NamedTuple

from boceto import artefact, checkpoint, storage
from boceto.dataset import Manifest
from boceto.errors import SettingsError
from boceto.settings import to_flags
from boceto.tensors import Arrays
from trainer import kills, limits
from trainer.batches import PREFETCHED
from trainer.limits import Memory, size
from trainer.settings import Settings

REMEDY = "use a smaller --batch-size or --steps-per-execution"
_LOOK_SECONDS = 0.02
_LOOKS_A_GPU_LOOK = 10  # The free memory of GPUs is read by another program.


class Footprint(NamedTuple):
    """The memory and disk of a training. arrays: its state as it is saved. exported: bytes of the artefact. host: the
    highest memory of the process with the batches that are read ahead, in bytes. gpu: of the fullest GPU, 0 for none.
    """

    arrays: Arrays
    exported: int
    host: int
    gpu: int

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint."""
        return sum(array.nbytes for array in self.arrays.values())

    def disk(self, settings: Settings, steps: int) -> int:
        """Bytes of a run of so many steps: checkpoints that stay, the best, one being written, and two artefacts."""
        saves = settings.epochs + (steps // settings.save_every if settings.save_every else 0)
        every = steps // settings.keep_every if settings.keep_every else 0
        return (min(settings.keep + every, saves) + 2) * self.checkpoint + 2 * self.exported


class _Watch:
    """Reads the memory of a child, and kills a child that takes more than `most` bytes of it.

    free: bytes free on each GPU before. host, gpu: the highest memory of the child and of the fullest GPU.
    """

    def __init__(self, most: int | None, free: list[int]) -> None:
        self._most, self._free = most, free
        self.host = self.gpu = 0
        self.over = threading.Event()

    def begin(self, child: subprocess.Popen[str]) -> None:
        threading.Thread(target=self._look, args=(child,), daemon=True).start()

    def _look(self, child: subprocess.Popen[str]) -> None:
        looks = 0
        while not self.over.wait(_LOOK_SECONDS):
            self.host = max(self.host, limits.peak(child.pid))
            if self._most is not None and self.host > self._most and child.poll() is None:
                child.kill()
            if self._free and looks % _LOOKS_A_GPU_LOOK == 0:
                taken = [before - now for before, now in zip(self._free, limits.gpu_memory(), strict=False)]
                self.gpu = max(self.gpu, *taken)
            looks += 1


def measure(settings: Settings, manifest: Manifest, free: Memory | None, *, gpu: bool) -> Footprint:
    """Trains one call in a child process that may take `free`, in a temporary run folder.

    Raises:
        SettingsError: there is too little memory.
        ChildFailed: the training failed for another reason.
    """
    watch = _Watch(free.free if free else None, limits.gpu_memory() if gpu else [])
    with tempfile.TemporaryDirectory(prefix="boceto-preflight-") as run:
        trial = dataclasses.replace(
            settings,
            run=run,
            max_steps=settings.steps_per_execution,
            validate_every=0,
            patience=0,
            verify=False,
            log_format="json",
            metrics_port=0,
            metrics_linger=0.0,
            tensorboard=False,
        )
        try:
            session = kills.run([*kills.COMMAND, *to_flags(trial)], begun=watch.begin)
        finally:
            watch.over.set()
        if session.status == -signal.SIGKILL:
            there = f", {size(free.free)} free of {free.of}" if free else ""
            raise SettingsError(f"over {size(watch.host)} needed{there}; {REMEDY}, or more memory")
        kills.done(session)
        _, arrays = checkpoint.load(run, max(checkpoint.files(run)))
        exported = sum(entry.size for entry in storage.list_files(storage.join(run, artefact.FOLDER)))
    images = (settings.readers + PREFETCHED) * settings.steps_per_execution * settings.batch_size
    return Footprint(arrays, exported, watch.host + images * math.prod(manifest.shape), watch.gpu)
