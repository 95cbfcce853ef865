"""Cross entropy of the logits, in nats."""

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from boceto.settings import option


@dataclass(frozen=True)
class Options:
    """The settings of the loss."""

    label_smoothing: float = option(0.0, help="probability spread over all classes", at_least=0, at_most=0.9)


def loss(
    outputs: Mapping[str, tf.Tensor], labels: tf.Tensor, weights: Mapping[str, tf.Tensor], options: Options
) -> tf.Tensor:
    """`logits` float32[B, C], labels int64[B] in 0..C-1 -> float32[B], in nats."""
    del weights  # This loss learns none.
    log_probabilities = tf.nn.log_softmax(outputs["logits"])
    hit = tf.gather(log_probabilities, labels, axis=1, batch_dims=1)
    spread = tf.reduce_mean(log_probabilities, axis=1)
    return -(1 - options.label_smoothing) * hit - options.label_smoothing * spread
