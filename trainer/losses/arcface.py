"""Cross entropy and ArcFace: Deng et al., ArcFace: additive angular margin loss for deep face recognition (2019).

Each class has a direction, which is learned. The angle between an embedding and the direction of its class, plus a
margin, competes with the angles to the others. The logits learn beside it, so that accuracy is measured as ever.
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

    share: float = option(1.0, help="factor of the angular loss, which is added", at_least=0, at_most=100)
    margin: float = option(0.3, help="margin of the angle, in radians", at_least=0, at_most=1.5)
    scale: float = option(16.0, help="multiplies the cosines", at_least=1, at_most=128)


def weights(spec: Spec, options: Options) -> Mapping[str, NDArray[np.float32]]:
    """The directions of the classes, float32[C, D]."""
    del options
    shape = (spec.classes, spec.embedding)
    return {"directions": np.random.default_rng(spec.seed).normal(size=shape).astype(np.float32)}


def loss(
    outputs: Mapping[str, tf.Tensor], labels: tf.Tensor, weights: Mapping[str, tf.Tensor], options: Options
) -> tf.Tensor:
    """`logits` float32[B, C], `embedding` float32[B, D], labels int64[B] -> float32[B], in nats."""
    unit = tf.math.l2_normalize(outputs["embedding"], axis=1, epsilon=1e-12)
    directions = tf.math.l2_normalize(weights["directions"], axis=1, epsilon=1e-12)
    cosines = tf.matmul(unit, directions, transpose_b=True)
    own = tf.one_hot(labels, tf.shape(directions)[0])
    cosine = tf.clip_by_value(tf.reduce_sum(own * cosines, axis=1), -1 + 1e-6, 1 - 1e-6)
    # Beyond an angle of pi - margin, the cosine of the sum would rise again: the paper's linear continuation.
    shifted = tf.cos(tf.acos(cosine) + options.margin)
    shifted = tf.where(cosine > -np.cos(options.margin), shifted, cosine - options.margin * np.sin(options.margin))
    angular = {"logits": options.scale * (cosines + own * (shifted - cosine)[:, None])}
    plain = cross_entropy.Options()
    return cross_entropy.loss(outputs, labels, weights, options) + options.share * cross_entropy.loss(
        angular, labels, weights, plain
    )
