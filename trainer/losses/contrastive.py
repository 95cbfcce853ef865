"""Cross entropy and the supervised contrastive loss: Khosla et al., Supervised contrastive learning (2020).

The drawings of one group of a batch are each other's examples, so that a group of 64 or more teaches more than a small
one. The paper trains the embedding alone; here the logits learn beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from boceto.settings import option
from trainer.losses import cross_entropy


@dataclass(frozen=True)
class Options(cross_entropy.Options):
    """The settings of the loss."""

    share: float = option(1.0, help="factor of the contrastive loss, which is added", at_least=0, at_most=100)
    temperature: float = option(0.1, help="divides the cosines of embeddings", at_least=0.01, at_most=10)


def loss(
    outputs: Mapping[str, tf.Tensor], labels: tf.Tensor, weights: Mapping[str, tf.Tensor], options: Options
) -> tf.Tensor:
    """`logits` float32[B, C], `embedding` float32[B, D], labels int64[B] -> float32[B], in nats."""
    unit = tf.math.l2_normalize(outputs["embedding"], axis=1, epsilon=1e-12)
    others = 1 - tf.eye(tf.shape(unit)[0])
    cosines = tf.matmul(unit, unit, transpose_b=True) / options.temperature
    log_sums = tf.reduce_logsumexp(cosines - (1 - others) * 1e9, axis=1, keepdims=True)
    same = tf.cast(labels[:, None] == labels[None], tf.float32) * others
    count = tf.reduce_sum(same, axis=1)
    apart = -tf.reduce_sum(same * (cosines - log_sums), axis=1) / tf.maximum(count, 1)
    return cross_entropy.loss(outputs, labels, weights, options) + options.share * apart
