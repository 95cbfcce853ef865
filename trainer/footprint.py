"""What a training takes: the arrays of its state, and estimates of its memory and of its place on a disk."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from boceto.dataset import Manifest
from boceto.tensors import Arrays
from trainer import devices, losses, nets
from trainer import state as states
from trainer.nets import Spec
from trainer.settings import Settings

# Measured on CPU (docs/benchmarks.md): what a training holds that has next to no net, how often it holds what each
# layer gives, and how often the weights that are exported. On GPUs, the first is a guess at CUDA's own libraries.
BASE_BYTES = 800_000_000
GPU_BASE_BYTES = 1_000_000_000
PASSES = 1.1
EXPORTS = 7


@dataclass(frozen=True)
class Footprint:
    """What a training with `settings` takes. arrays: its state as it is saved. outputs: bytes that all layers give for
    one record.
    """

    settings: Settings
    manifest: Manifest
    replicas: int
    arrays: Arrays
    outputs: int

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def served(self) -> int:
        """Bytes of the artefact's arrays."""
        return sum(array.nbytes for array in states.export_weights(self.arrays).values())

    @property
    def device(self) -> int:
        """Bytes that one replica takes on its device: the state, gradients, and what the layers give."""
        records = -(-self.settings.batch_size // self.replicas)
        return self.checkpoint + self.served + round(PASSES * self.outputs * records)

    @property
    def ahead(self) -> int:
        """Bytes of the batches that are read ahead."""
        calls = self.settings.readers + 2
        return (
            calls
            * self.settings.steps_per_execution
            * self.settings.batch_size
            * self.manifest.height
            * self.manifest.width
        )

    @property
    def gpu(self) -> int:
        """Bytes of one GPU's memory."""
        return GPU_BASE_BYTES + self.device

    def host(self, *, gpu: bool) -> int:
        """Bytes of this machine's memory: the copy that is saved from, the export, and without GPUs the replicas."""
        own = BASE_BYTES + self.checkpoint + EXPORTS * self.served + self.ahead
        return own + (0 if gpu else self.replicas * self.device)

    def disk(self, steps: int) -> int:
        """Bytes of a run of so many steps: checkpoints that stay, the best, one being written, and two artefacts."""
        settings = self.settings
        saves = settings.epochs + (steps // settings.save_every if settings.save_every else 0)
        every = steps // settings.keep_every if settings.keep_every else 0
        return (min(settings.keep + every, saves) + 2) * self.checkpoint + 2 * self.served


def measure(settings: Settings, manifest: Manifest, spec: Spec, replicas: int) -> Footprint:
    """Builds the net and its state once, on the CPU.

    Raises:
        SettingsError: not even that fits into the memory.
    """
    with devices.fitting_net(settings), tf.device("CPU:0"):
        model = nets.build(settings.net, spec)
        loss = losses.find(settings.loss, settings.loss_options, spec)
        state = states.create(tf.distribute.get_strategy(), model, settings, loss.weights)
        return Footprint(settings, manifest, replicas, state.arrays(), _outputs(model))


def _outputs(model: keras.Model) -> int:
    return sum(_bytes(layer.output) for layer in model.layers if hasattr(layer, "output"))


def _bytes(tensor: keras.KerasTensor) -> int:
    return int(np.prod(tensor.shape[1:])) * tf.as_dtype(tensor.dtype).size
