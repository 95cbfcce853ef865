"""The optimizers: updates in place of the variables of one device, by TensorFlow's fused kernels.

Keras's optimizers merge the replicas inside of the update, under tf.distribute. So they can neither clip by the norm of
the averaged gradients nor skip a step whose scaled gradients overflow. Tests compare these updates with Keras's.
"""

from collections.abc import Sequence

import tensorflow as tf

from trainer.settings import Settings

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
SLOTS = {"adam": ("m", "v"), "adamw": ("m", "v"), "sgd": ("momentum",)}


def decays(name: str, rank: int) -> bool:
    """Returns whether weight decay applies to a weight: to tensors of rank 2 or more, not to vectors or biases.

    Kernels and embeddings decay; biases (an attention's have rank 2), and the gamma and beta of a norm, do not.
    """
    return rank > 1 and name.rsplit("/", 1)[-1] != "bias"


def clipped(gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    """Scales gradients of the global norm `norm` float32[] down to `limit` where it is higher; 0: no limit."""
    if not limit:
        return list(gradients)
    return list(tf.clip_by_global_norm(gradients, limit, use_norm=norm)[0])


def update(  # noqa: PLR0913, PLR0917 - what an update needs
    settings: Settings,
    weight: tf.Variable,
    name: str,
    slots: Sequence[tf.Variable],
    gradient: tf.Tensor,
    learning_rate: tf.Tensor,
    step: tf.Tensor,
) -> None:
    """Updates the weight `name` and its slots in place, all float32 of one shape.

    gradient: of that shape, clipped. learning_rate: float32[]. step: int64[], counted from 0.
    """
    if settings.weight_decay and decays(name, weight.shape.rank):
        weight.assign_sub(weight * (learning_rate * settings.weight_decay))
    if settings.optimizer == "sgd":
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=weight.handle,
            accum=slots[0].handle,
            lr=learning_rate,
            grad=gradient,
            momentum=settings.momentum,
            use_nesterov=True,
        )
        return
    done = tf.cast(step + 1, tf.float32)
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=slots[0].handle,
        v=slots[1].handle,
        beta1_power=tf.pow(BETA_1, done),
        beta2_power=tf.pow(BETA_2, done),
        lr=learning_rate,
        beta1=BETA_1,
        beta2=BETA_2,
        epsilon=EPSILON,
        grad=gradient,
    )
