"""AlexNet with one tower: Krizhevsky, One weird trick for parallelizing convolutional neural networks (2014).

Dropout of one half before each of the two hidden dense layers, the second of which is the embedding. 61,100,840
parameters at 1,000 classes, 224 px and 3 channels, as in torchvision.
"""

import keras

from trainer import layers
from trainer.nets import Spec

SMALLEST = 63  # Pixels of height and width: below, the third pool has nothing to look at.
EMBEDDING = 4096


def _conv(x: keras.KerasTensor, name: str, channels: int, spec: Spec, *, size: int = 3) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        spec.channels(channels), size, padding="same", activation="relu", dtype=layers.policy(spec), name=name
    )(x)


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    policy = layers.policy(spec)
    image, x = layers.image(spec)
    x = keras.layers.ZeroPadding2D(2, dtype=policy, name="pad")(x)
    x = keras.layers.Conv2D(spec.channels(64), 11, 4, activation="relu", dtype=policy, name="conv1")(x)
    x = layers.pool(x, "pool_1", spec, padding="valid")
    x = layers.pool(_conv(x, "conv2", 192, spec, size=5), "pool_2", spec, padding="valid")
    x = _conv(x, "conv3", 384, spec)
    x = _conv(x, "conv4", 256, spec)
    x = layers.pool(_conv(x, "conv5", 256, spec), "pool_3", spec, padding="valid")
    x = keras.layers.Flatten(dtype=policy, name="flatten")(x)
    x = keras.layers.Dropout(0.5, dtype=policy, name="dropout_6")(x)
    x = keras.layers.Dense(spec.channels(EMBEDDING), activation="relu", dtype=policy, name="fc_6")(x)
    x = keras.layers.Dropout(0.5, dtype=policy, name="dropout_7")(x)
    x = keras.layers.Dense(spec.embedding, activation="relu", dtype=policy, name="fc_7")(x)
    return layers.head("alexnet", image, x, spec)
