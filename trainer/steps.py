"""The compiled functions of a run: `train` does steps on batches, `evaluate` computes losses without a change.

A global batch is cut into a fixed number of groups (`train.groups`) of consecutive rows. Batch norm's statistics and
dropout's masks are a group's own. R replicas compute groups / R groups each, one after the other, and all is summed as
one binary tree over the groups: the lower levels on a replica, the upper levels after an all-gather. So a run ends with
the same bits on any number of replicas that divides the number of groups.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import augment, devices, layers, optimizers
from trainer.batches import Batches
from trainer.losses import Loss, cross_entropy
from trainer.nets import stable_hash
from trainer.settings import Settings
from trainer.state import LOSS, Variables, is_seed

SCALE_STEPS = 2000  # Steps without an overflow after which the loss scale doubles.
_LARGEST_SEED = 2**31 - 1


class Placed(NamedTuple):
    """The batches of an execution on their devices, one value a replica: images uint8[K, b, H, W, C], labels
    int64[K, b], and the parameters of the augmentation float32[K, b, D], D = 0 without augmentation.
    """

    images: Any
    labels: Any
    augmentation: Any


class Steps:
    """The compiled functions of one run."""

    def __init__(self, state: Variables, model: keras.Model, settings: Settings, loss: Loss, *, xla: bool) -> None:
        self._state = state
        self._strategy = state.strategy
        self._model = model
        self._settings = settings
        self._loss = loss
        self._own_groups = settings.groups // state.strategy.num_replicas_in_sync  # Of each replica.
        self._seeds = seeds(model, settings.seed)
        self._momentum = _momentum(model)
        # XLA compiles forward and backward only: it cannot compile updates of variables on several devices.
        self._gradients = tf.function(self._group_gradients, jit_compile=xla)
        self._train = tf.function(self._train_steps, reduce_retracing=True)
        self._evaluate = tf.function(self._evaluate_batch)
        # Grappler would rewrite a tree of additions into one sum, whose order depends on the number of replicas.
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})

    def cut(self, array: NDArray[Any]) -> Any:
        """Cuts an array [K, B, ...] over the replicas along axis 1 and puts the parts [K, b, ...] on their devices."""
        devices = self._strategy.extended.worker_devices
        size = array.shape[1] // len(devices)

        def part(context: Any) -> tf.Tensor:
            replica = context.replica_id_in_sync_group
            with tf.device(devices[replica]):
                return tf.identity(array[:, replica * size : (replica + 1) * size])

        return self._strategy.experimental_distribute_values_from_function(part)

    def place(self, batches: Batches) -> Placed:
        """Puts K global batches on their devices."""
        with self._fitting:
            return Placed(self.cut(batches.images), self.cut(batches.labels), self.cut(batches.augmentation))

    def train(self, batches: Placed, step: int, learning_rates: Sequence[float]) -> tf.Tensor:
        """Does K steps from `step` on, which counts from 0, at the learning rates float[K].

        Returns float32[K, 3]: of each step the loss, the number of correct answers, and the norm of the gradients.
        """
        with self._fitting:
            return self._train(*batches, tf.constant(step, tf.int64), tf.constant(learning_rates, tf.float32))

    def evaluate(self, batch: Placed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Evaluates one batch (K = 1) -> (cross entropy, 1 where the answer is correct), float64[B] each."""
        with self._fitting:
            parts = self._strategy.experimental_local_results(self._evaluate(batch.images, batch.labels))
        found = np.concatenate([part.numpy() for part in parts], axis=1, dtype=np.float64)
        return found[0], found[1]

    @property
    def _fitting(self) -> AbstractContextManager[None]:
        return devices.fitting(f"train.batch_size = {self._settings.batch_size}")

    def _train_steps(
        self, images: Any, labels: Any, augmentation: Any, step: tf.Tensor, learning_rates: tf.Tensor
    ) -> tf.Tensor:
        """The compiled part of `train`: step int64[], learning_rates float32[K] -> float32[K, 3]."""
        scalars = tf.TensorArray(tf.float32, tf.size(learning_rates), element_shape=[3])
        for number in tf.range(tf.size(learning_rates)):
            now = step + tf.cast(number, tf.int64)
            parts = self._strategy.run(self._replica, (images, labels, augmentation, number, now))
            gradients, statistics, scalar = (self._strategy.experimental_local_results(part) for part in parts)
            norms = []
            for replica, device in enumerate(self._strategy.extended.worker_devices):
                with tf.device(device):
                    norms.append(
                        self._update(replica, gradients[replica], statistics[replica], learning_rates[number], now)
                    )
            scalars = scalars.write(number, tf.concat([scalar[0], [norms[0]]], 0))
        return scalars.stack()

    def _replica(
        self, images: tf.Tensor, labels: tf.Tensor, augmentation: tf.Tensor, number: tf.Tensor, step: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
        """Computes the groups of one replica in batch `number` int32[] of K, and sums them over all replicas.

        Returns gradients float32 and statistics, each like its variable, and (loss, correct answers) float32[2].
        """
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * self._own_groups
        parameters = augmentation[number]
        pixels = augment.augmented(images[number], parameters, self._settings)
        weights = [tf.convert_to_tensor(variable) for variable in self._state.weights.values()]
        scale = tf.convert_to_tensor(self._state.scale["value"]) if self._state.scale else tf.constant(1.0)
        parts = (tf.split(part, self._own_groups) for part in (pixels, labels[number], parameters))
        groups = [augment.mixed(*rows) for rows in zip(*parts, [self._settings] * self._own_groups, strict=True)]
        found = [
            self._gradients(weights, self._untrained(step, first + group), records, scale)
            for group, records in enumerate(groups)
        ]
        gradients, statistics, scalars = zip(*found, strict=True)
        summed = self._sum([[*each, scalar] for each, scalar in zip(gradients, scalars, strict=True)])
        return summed[:-1], self._mean(statistics), summed[-1]

    def _untrained(self, step: tf.Tensor, group: Any) -> list[tf.Tensor]:
        """The values of the net's variables that are not trained, with the seeds of one group of one step."""
        key = step * self._settings.groups + tf.cast(group, tf.int64)
        return [
            self._seed(self._seeds[variable.path], key, variable.dtype)
            if is_seed(variable)
            else tf.convert_to_tensor(variable.value)
            for variable in self._model.non_trainable_variables
        ]

    @staticmethod
    def _seed(own: int, key: tf.Tensor, dtype: str) -> tf.Tensor:
        """The value [2] of a seed variable: a function of the variable's own seed and of `key` int64[]."""
        # The algorithm is named, so that CPU and GPU draw the same.
        found = tf.random.stateless_uniform([1], [own, key], 0, _LARGEST_SEED, tf.int32, alg="philox")
        return tf.cast(tf.concat([found, [0]], 0), dtype)

    def _sum(self, groups: Sequence[Sequence[tf.Tensor]]) -> list[tf.Tensor]:
        """Sums lists of float32 tensors over all groups of all replicas; `groups` are those of this replica."""
        own = [_tree(each) for each in zip(*groups, strict=True)]
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1 or not own:
            return own
        flat = tf.concat([tf.reshape(each, [-1]) for each in own], 0)
        gathered = tf.distribute.get_replica_context().all_gather(flat[None], axis=0)
        total = _tree([gathered[replica] for replica in range(replicas)])
        pieces = tf.split(total, [each.shape.num_elements() for each in own])
        return [tf.reshape(piece, each.shape) for piece, each in zip(pieces, own, strict=True)]

    def _mean(self, groups: Sequence[Sequence[tf.Tensor]]) -> list[tf.Tensor]:
        """The statistics over all groups: the mean of floats; of other types, as counters, the first group's value."""
        floats = [number for number, value in enumerate(groups[0]) if value.dtype.is_floating]
        sums = self._sum([[tf.cast(group[number], tf.float32) for number in floats] for group in groups])
        means = dict(zip(floats, sums, strict=True))
        return [
            tf.cast(means[number] / self._settings.groups, value.dtype) if number in means else self._first(value)
            for number, value in enumerate(groups[0])
        ]

    def _first(self, value: tf.Tensor) -> tf.Tensor:
        """The value on the first replica."""
        if self._strategy.num_replicas_in_sync == 1:
            return value
        return tf.distribute.get_replica_context().all_gather(value[None], axis=0)[0]

    def _group_gradients(
        self,
        weights: list[tf.Tensor],
        untrained: list[tf.Tensor],
        records: augment.Mixed,
        scale: tf.Tensor,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
        """Forward and backward of one group, with the loss scale float32[].

        Returns the group's share of the gradients of the global batch, times the scale; its statistics; and its share
        of (loss, correct answers) float32[2]. The loss of a mixed record is that of its two labels, weighted by their
        shares; its answer is correct where it is the label with the larger share.
        """
        size, of_net = records.images.shape[0], len(self._model.trainable_variables)
        names = [name.partition("/")[2] for name in self._state.weights if name.startswith(f"{LOSS}/")]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs, changed, added = self._model.stateless_call(
                weights[:of_net], untrained, records.images, training=True, return_losses=True
            )
            of_loss = dict(zip(names, weights[of_net:], strict=True))
            losses = self._loss.call(outputs, records.labels, of_loss)
            if records.shares is not None:
                of_others = self._loss.call(outputs, records.others, of_loss)
                losses = records.shares * losses + (1 - records.shares) * of_others
            mean = tf.reduce_sum(losses) / (size * self._settings.groups)
            loss = tf.add_n([mean, *(term / self._settings.groups for term in added)])
            scaled = loss * scale
        gradients = tape.gradient(scaled, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # A gather's holds some rows only.
        variables = self._model.non_trainable_variables
        statistics = [
            tf.identity(value) for variable, value in zip(variables, changed, strict=True) if not is_seed(variable)
        ]
        return gradients, statistics, tf.stack([loss, tf.reduce_sum(_correct(outputs, records.labels))])

    def _update(
        self, replica: int, gradients: Any, statistics: Any, learning_rate: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        """Updates the variables of one replica; returns the norm float32[] of the gradients before clipping.

        The gradients are the same on all replicas. Where a gradient is not finite, only the loss scale changes.
        """
        state, settings, finite = self._state, self._settings, True
        if state.scale:
            scale, steps = state.local(replica, state.scale)
            gradients = [gradient / scale for gradient in gradients]
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        norm = tf.linalg.global_norm(gradients)
        if finite:
            weights = state.local(replica, state.weights)
            slots = zip(*(state.local(replica, group) for group in state.slots.values()), strict=True)
            clipped = optimizers.clipped(gradients, norm, settings.clip_norm)
            for name, weight, own, gradient in zip(state.weights, weights, slots, clipped, strict=True):
                optimizers.update(settings, weight, name, own, gradient, learning_rate, step)
            done = tf.cast(step, tf.float32)
            variables = state.local(replica, state.statistics)
            for name, variable, value in zip(state.statistics, variables, statistics, strict=True):
                if name in self._momentum:
                    # A plain mean at first: in a short run, the statistics would otherwise stay near their start.
                    factor = tf.maximum(1.0, 1 / ((1 - self._momentum[name]) * (done + 1)))
                    variable.assign_add((value - variable) * factor)
                else:
                    variable.assign(value)
            share = 1 - tf.minimum(settings.ema, (1 + done) / (10 + done))
            for ema, weight in zip(state.local(replica, state.ema), weights, strict=False):
                ema.assign_sub((ema - weight) * share)
        if state.scale:
            grown = tf.where(steps + 1 >= SCALE_STEPS, scale * 2, scale)
            full = tf.logical_or(tf.logical_not(finite), steps + 1 >= SCALE_STEPS)
            scale.assign(tf.where(finite, grown, tf.maximum(scale / 2, 1.0)))
            steps.assign(tf.where(full, 0, steps + 1))
        return norm

    def _evaluate_batch(self, images: Any, labels: Any) -> Any:
        return self._strategy.run(self._evaluate_replica, (images, labels))

    def _evaluate_replica(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Images uint8[1, b, H, W, C], labels int64[1, b] -> float32[2, b]: cross entropy, and 1 where correct."""
        chosen: Mapping[str, tf.Variable] = self._state.ema or self._state.weights
        weights = [tf.convert_to_tensor(variable) for variable in chosen.values()]
        weights = weights[: len(self._model.trainable_variables)]
        untrained = [tf.convert_to_tensor(variable.value) for variable in self._model.non_trainable_variables]
        found = []
        # In groups, as a step: a kernel's sums may depend on the number of rows.
        groups = zip(tf.split(images[0], self._own_groups), tf.split(labels[0], self._own_groups), strict=True)
        for rows, answers in groups:
            outputs, _ = self._model.stateless_call(weights, untrained, rows, training=False)
            loss = cross_entropy.loss(outputs, answers, {}, cross_entropy.Options())
            found.append(tf.stack([loss, _correct(outputs, answers)]))
        return tf.concat(found, axis=1)


def _correct(outputs: Mapping[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
    """`logits` float32[b, C], labels int64[b] -> float32[b]: 1 where the highest logit is the label's."""
    return tf.cast(tf.argmax(outputs["logits"], axis=1) == labels, tf.float32)


def _tree(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of 1, 2, 4, ... tensors of one shape, in an order that is always the same."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [parts[at] + parts[at + 1] for at in range(0, len(parts), 2)]
    return parts[0]


def seeds(model: keras.Model, seed: int) -> dict[str, int]:
    """The own seed of each seed variable, by its path: a function of (seed, layer path, number within the layer)."""
    return {
        generator.state.path: stable_hash(seed, path, number)
        for path, layer in layers.every_layer(model)
        for number, generator in enumerate(layer._seed_generators)  # noqa: SLF001 - Keras has no public way
    }


def _momentum(model: keras.Model) -> dict[str, float]:
    """The momentum of batch norm's statistics, by the path of their variable."""
    norms = [each for _, each in layers.every_layer(model) if isinstance(each, keras.layers.BatchNormalization)]
    return {variable.path: norm.momentum for norm in norms for variable in norm.non_trainable_variables}
