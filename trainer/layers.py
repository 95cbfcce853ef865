"""What the nets are made of, under the design's names: convolution, pool, sum, and the classifier at the end."""

import hashlib
from typing import Any

import keras
import tensorflow as tf

from trainer.nets import Spec

# Keras's 0.99 needs hundreds of steps before validation sees statistics of the data rather than of the start.
BATCH_NORM_MOMENTUM = 0.9


def _policy(spec: Spec) -> str:
    return "float32" if spec.precision == "float32" else f"mixed_{spec.precision}"


def _initialiser(spec: Spec, name: str) -> keras.initializers.Initializer:
    """Glorot's uniform; its seed is a function of the run's seed and the layer's name alone."""
    hashed = hashlib.blake2b(f"{spec.seed}/{name}".encode(), digest_size=4)
    return keras.initializers.GlorotUniform(seed=int.from_bytes(hashed.digest(), "little") & 0x7FFFFFFF)


def image(spec: Spec) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """(the input uint8[B, H, W, 1], its pixels float32[B, H, W, 1] in 0..1)."""
    pixels = keras.Input((spec.height, spec.image_width, 1), dtype="uint8", name="images")
    # In float32: 255ths are not exact in the short formats.
    return pixels, keras.layers.Rescaling(1 / 255, dtype="float32", name="rescale")(pixels)


def conv(x: keras.KerasTensor, name: str, channels: int, spec: Spec) -> keras.KerasTensor:
    """float[B, H, W, C] -> float[B, H, W, `channels` at width 1]: 3x3, stride 1, no bias, batch norm, ReLU."""
    policy = _policy(spec)
    convolution = keras.layers.Conv2D(
        spec.channels(channels),
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=_initialiser(spec, name),
        dtype=policy,
        name=name,
    )
    norm = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, dtype=policy, name=f"{name}_bn")
    return keras.layers.ReLU(dtype=policy, name=f"{name}_relu")(norm(convolution(x)))


def pool(x: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    """float[B, H, W, C] -> float[B, ceil(H / 2), ceil(W / 2), C]: max over 3x3, stride 2."""
    return keras.layers.MaxPooling2D(3, 2, padding="same", dtype=_policy(spec), name=name)(x)


def add(x: keras.KerasTensor, y: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    """The sum of two tensors of one shape."""
    return keras.layers.Add(dtype=_policy(spec), name=name)([x, y])


def classifier(name: str, image: keras.KerasTensor, x: keras.KerasTensor, spec: Spec) -> keras.Model:
    """The end of every net: flatten, fc_1 with ReLU (the embedding), dropout, and fc_2, which is linear.

    fc_2 computes in float32 under every precision, so that logits and loss do.
    """
    x = keras.layers.Flatten(dtype=_policy(spec), name="flatten")(x)
    x = keras.layers.Dense(
        spec.embedding,
        activation="relu",
        kernel_initializer=_initialiser(spec, "fc_1"),
        dtype=_policy(spec),
        name="fc_1",
    )(x)
    embedding = keras.layers.Activation("linear", dtype="float32", name="embedding")(x)
    kept = KeyedDropout(spec.dropout, dtype="float32", name="dropout")(embedding) if spec.dropout else embedding
    logits = keras.layers.Dense(
        spec.classes, kernel_initializer=_initialiser(spec, "fc_2"), dtype="float32", name="fc_2"
    )(kept)
    return keras.Model(image, {"logits": logits, "embedding": embedding}, name=name)


class KeyedDropout(keras.layers.Layer):
    """Dropout whose mask is a function of its weight `key`, int32[3]: seed, step, and the replica's first row.

    The mask is drawn for the global batch and cut to the replica's rows, so it is the same on any number of replicas.
    """

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate
        self.key = self.add_weight(shape=(3,), initializer="zeros", dtype="int32", trainable=False, name="key")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:  # noqa: FBT001, FBT002 - Keras's own signature
        """float32[B, D] -> float32[B, D]."""
        if not training:
            return x
        key = tf.convert_to_tensor(self.key.value)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # By name, so that CPU and GPU draw the same. (XLA has a layout of its own: its masks are others.)
        draws = tf.random.stateless_uniform([tf.shape(x)[0] * replicas, x.shape[1]], key[:2], alg="philox")
        mine = tf.slice(draws, tf.stack([key[2], 0]), tf.shape(x))
        return tf.where(mine >= self.rate, x / (1 - self.rate), 0.0)


def multiply_accumulates(model: keras.Model) -> int:
    """Multiply-accumulates an image of the convolutions and dense layers."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            total += layer.output.shape[1] * layer.output.shape[2] * layer.kernel.shape.num_elements()
        elif isinstance(layer, keras.layers.Dense):
            total += layer.kernel.shape.num_elements()
    return int(total)
