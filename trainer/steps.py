"""What a step computes: `train` and `evaluate` over all replicas, as compiled functions of the state and a batch."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from numpy.typing import NDArray

from trainer import augment, devices, layers, optimizers
from trainer.batches import Batches
from trainer.settings import Settings
from trainer.state import State, is_key

SCALE_STEPS = 2000  # Steps without an overflow after which the loss scale doubles.


class Placed(NamedTuple):
    """A call's batches on their devices, one value a replica: images uint8[K, b, H, W, 1], labels int64[K, b], and the
    augmentation's draws float32[K, b, 5], or float32[K, b, 0] without one.
    """

    images: Any
    labels: Any
    draws: Any


def losses(logits: tf.Tensor, labels: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Logits float32[B, C], labels int64[B] -> cross entropy float32[B]; `smoothing` is spread over all classes."""
    log_probabilities = tf.nn.log_softmax(logits)
    hit = tf.gather(log_probabilities, labels, axis=1, batch_dims=1)
    return -(1 - smoothing) * hit - smoothing * tf.reduce_mean(log_probabilities, axis=1)


class Steps:
    """The compiled functions of one run."""

    def __init__(self, state: State, model: keras.Model, settings: Settings, *, xla: bool) -> None:
        self._state = state
        self._strategy = state.strategy
        self._model = model
        self._settings = settings
        # Only forward and backward: what works on variables of several devices stays outside of XLA.
        self._gradients = tf.function(self._differentiate, jit_compile=True) if xla else self._differentiate
        self._train = tf.function(self._train_call, reduce_retracing=True)
        self._evaluate = tf.function(self._evaluate_batch)

    def cut(self, array: NDArray[Any]) -> Any:
        """Cuts an array [K, B, ...] over the replicas along axis 1 and puts the parts on their devices."""
        devices = self._strategy.extended.worker_devices
        size = array.shape[1] // len(devices)

        def part(context: Any) -> tf.Tensor:
            replica = context.replica_id_in_sync_group
            with tf.device(devices[replica]):
                return tf.identity(array[:, replica * size : (replica + 1) * size])

        return self._strategy.experimental_distribute_values_from_function(part)

    def place(self, batches: Batches) -> Placed:
        """Global batches on their devices."""
        with self._fitting:
            return Placed(self.cut(batches.images), self.cut(batches.labels), self.cut(batches.draws))

    def train(self, batches: Placed, step: int, rates: Sequence[float]) -> tf.Tensor:
        """K steps from `step` on, at `rates`: -> float32[K, 3], each step's loss, right answers and gradients' norm."""
        with self._fitting:
            return self._train(*batches, tf.constant(step), tf.constant(rates, tf.float32))

    def evaluate(self, batch: Placed, counted: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """One batch (K = 1), whose rows weigh `counted` float32[1, b]: -> (sum of losses, right answers), float32[]."""
        with self._fitting:
            return self._evaluate(batch.images, batch.labels, counted)

    @property
    def _fitting(self) -> AbstractContextManager[None]:
        return devices.fitting(f"train.batch_size = {self._settings.batch_size}")

    def _train_call(self, images: Any, labels: Any, draws: Any, step: tf.Tensor, rates: tf.Tensor) -> tf.Tensor:
        scalars = tf.TensorArray(tf.float32, tf.size(rates), element_shape=[3])
        for number in tf.range(tf.size(rates)):
            now = step + number
            parts = self._strategy.run(self._replica, (images, labels, draws, number, now))
            gradients, statistics, scalar = (self._strategy.experimental_local_results(part) for part in parts)
            norm = self._apply(gradients, statistics, rates[number], now)
            scalars = scalars.write(number, tf.concat([scalar[0], [norm]], 0))
        return scalars.stack()

    def _replica(
        self, images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor, number: tf.Tensor, step: tf.Tensor
    ) -> tuple[Any, ...]:
        """One replica's share of one step: gradients and statistics, the same on all replicas when it returns."""
        context = tf.distribute.get_replica_context()
        pixels = images[number]
        if draws.shape[-1]:
            pixels = augment.augmented(pixels, draws[number], self._settings)
        first = context.replica_id_in_sync_group * tf.shape(pixels)[0]
        key = tf.stack([self._settings.seed, step, first])
        model = self._model
        weights = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
        others = [key if is_key(variable) else variable.value for variable in model.non_trainable_variables]
        others = [tf.convert_to_tensor(value) for value in others]
        scale = tf.convert_to_tensor(self._state.scale["value"]) if self._state.scale else tf.constant(1.0)
        gradients, statistics, scalars = self._gradients(weights, others, pixels, labels[number], scale)
        gradients, scalars = context.all_reduce(tf.distribute.ReduceOp.SUM, (gradients, scalars))
        if statistics:
            # Statistics that stay as they were read have no device of their own, which all_reduce needs.
            statistics = context.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(value) for value in statistics])
        return gradients, statistics, scalars

    def _differentiate(
        self,
        weights: list[tf.Tensor],
        others: list[tf.Tensor],
        images: tf.Tensor,
        labels: tf.Tensor,
        scale: tf.Tensor,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
        """A replica's gradients, divided by the rows of all replicas; the new statistics; its (loss, right answers)."""
        rows = images.shape[0] * self._strategy.num_replicas_in_sync
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs, changed = self._model.stateless_call(weights, others, images, training=True)
            loss = tf.reduce_sum(losses(outputs["logits"], labels, self._settings.label_smoothing)) / rows
            scaled = loss * scale
        gradients = tape.gradient(scaled, weights)
        answers = tf.argmax(outputs["logits"], axis=1)
        # One float32 for both: TensorFlow reduces int32 on the host alone.
        scalars = tf.stack([loss, tf.reduce_sum(tf.cast(answers == labels, tf.float32))])
        variables = self._model.non_trainable_variables
        statistics = [value for variable, value in zip(variables, changed, strict=True) if not is_key(variable)]
        return gradients, statistics, scalars

    def _apply(self, gradients: Any, statistics: Any, rate: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Updates every replica's variables; the replicas' gradients are the same, and their norm is returned."""
        norms = []
        for replica in range(self._strategy.num_replicas_in_sync):
            if not self._state.scale:
                norms.append(tf.linalg.global_norm(gradients[replica]))
                self._apply_replica(replica, gradients[replica], norms[replica], statistics[replica], rate, step)
                continue
            value, steps = self._state.local(replica, self._state.scale)
            unscaled = [gradient / value for gradient in gradients[replica]]
            norms.append(tf.linalg.global_norm(unscaled))
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in unscaled])
            if finite:
                self._apply_replica(replica, unscaled, norms[replica], statistics[replica], rate, step)
            grown = tf.where(steps + 1 >= SCALE_STEPS, value * 2, value)
            full = tf.logical_or(tf.logical_not(finite), steps + 1 >= SCALE_STEPS)
            value.assign(tf.where(finite, grown, tf.maximum(value / 2, 1.0)))
            steps.assign(tf.where(full, 0, steps + 1))
        return norms[0]

    def _apply_replica(  # noqa: PLR0913, PLR0917 - what an update needs
        self,
        replica: int,
        gradients: Sequence[tf.Tensor],
        norm: tf.Tensor,
        statistics: Sequence[tf.Tensor],
        rate: tf.Tensor,
        step: tf.Tensor,
    ) -> None:
        state, settings = self._state, self._settings
        weights = state.local(replica, state.weights)
        slots = zip(*(state.local(replica, group) for group in state.slots.values()), strict=True)
        gradients = optimizers.clipped(gradients, norm, settings.clip_norm)
        for name, weight, own, gradient in zip(state.weights, weights, slots, gradients, strict=True):
            optimizers.update(settings, weight, name, own, gradient, rate, step)
        done = tf.cast(step, tf.float32)
        # Both kinds of moving average begin as plain means: those of a short run would otherwise stay near the start.
        share = tf.maximum(1.0, 1 / ((1 - layers.BATCH_NORM_MOMENTUM) * (done + 1)))
        for variable, value in zip(state.local(replica, state.statistics), statistics, strict=True):
            variable.assign_add((value - variable) * share)
        share = 1 - tf.minimum(settings.ema, (1 + done) / (10 + done))
        for average, weight in zip(state.local(replica, state.average), weights, strict=False):
            average.assign_sub((average - weight) * share)

    def _evaluate_batch(self, images: Any, labels: Any, counted: Any) -> tuple[tf.Tensor, tf.Tensor]:
        parts = self._strategy.run(self._evaluate_replica, (images, labels, counted))
        loss, right = (self._strategy.reduce("SUM", part, axis=None) for part in parts)
        return loss, right

    def _evaluate_replica(
        self, images: tf.Tensor, labels: tf.Tensor, counted: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        source: Mapping[str, tf.Variable] = self._state.average or self._state.weights
        weights = [tf.convert_to_tensor(variable) for variable in source.values()]
        others = [tf.convert_to_tensor(variable.value) for variable in self._model.non_trainable_variables]
        outputs, _ = self._model.stateless_call(weights, others, images[0], training=False)
        loss = losses(outputs["logits"], labels[0], 0.0)
        right = tf.argmax(outputs["logits"], axis=1) == labels[0]
        return tf.reduce_sum(loss * counted[0]), tf.reduce_sum(tf.cast(right, tf.float32) * counted[0])
