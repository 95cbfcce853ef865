"""Cross entropy and the centre loss: Wen et al., A discriminative feature learning approach (2016).

Each class has a centre, which is learned; an embedding is drawn to the centre of its class. Both have length 1 here, so
that the distance does not depend on the size of the embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from boceto.settings import option
from trainer.losses import cross_entropy
from trainer.nets import Spec


@dataclass(frozen=True)
class Options(cross_entropy.Options):
    """The settings of the loss."""

    share: float = option(
        0.5, help="factor of the squared distance to the centre, which is added", at_least=0, at_most=100
    )


def weights(spec: Spec, options: Options) -> Mapping[str, NDArray[np.float32]]:
    """The centres, float32[C, D]."""
    del options
    shape = (spec.classes, spec.embedding)
    return {"centres": np.random.default_rng(spec.seed).normal(size=shape).astype(np.float32)}


def loss(
    outputs: Mapping[str, tf.Tensor], labels: tf.Tensor, weights: Mapping[str, tf.Tensor], options: Options
) -> tf.Tensor:
    """`logits` float32[B, C], `embedding` float32[B, D], labels int64[B] -> float32[B]."""
    unit = tf.math.l2_normalize(outputs["embedding"], axis=1, epsilon=1e-12)
    centres = tf.math.l2_normalize(weights["centres"], axis=1, epsilon=1e-12)
    # A product with one-hot rows: the gradient of a gather has no fixed order on every device.
    own = tf.matmul(tf.one_hot(labels, tf.shape(centres)[0]), centres)
    distance = tf.reduce_sum((unit - own) ** 2, axis=1)
    return cross_entropy.loss(outputs, labels, weights, options) + options.share * distance
