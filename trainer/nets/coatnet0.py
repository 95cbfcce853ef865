"""CoAtNet-0: Dai et al., CoAtNet: marrying convolution and attention for all data sizes (2021).

A stem of two convolutions, two stages of inverted bottlenecks with squeeze-and-excite, two stages of attention with a
learned bias for each relative position; each stage halves height and width. The embedding is the normalised mean of
the last stage. 24,446,228 parameters at 1,000 classes, 224 px and 3 channels: timm's `coatnet_0_224` has the same and
a hidden layer of 768 before its logits (590,592 more); timm's `coatnet_0_rw_224` has other stages.
"""

from typing import Any

import keras

from trainer import layers
from trainer.nets import Spec

SMALLEST = 33  # Pixels a side: below, the last stage attends to one pixel.
EMBEDDING = 0  # The channels of the last stage.
STEM = 64
WIDTHS = (96, 192, 384, 768)
DEPTHS = (2, 3, 5, 2)
CONVOLUTIONAL = 2  # The first stages; the others attend.
EXPANSION, SQUEEZE, HEAD = 4, 4, 32
HE = "he_normal"


class RelativeAttention(keras.layers.Layer):
    """Multi-head attention over the pixels of float[B, H, W, C] -> float[B, H, W, D], D = `channels`.

    To the logits of a pair of pixels, a head adds a learned number for their distance in rows and columns.
    """

    def __init__(self, channels: int, heads: int, **options: Any) -> None:
        super().__init__(**options)
        self.channels = channels
        self.heads = heads

    def build(self, shape: tuple[int, ...]) -> None:
        """Makes the weights; the biases are float32[2H - 1, 2W - 1, heads]."""
        _, self.height, self.width, before = shape
        self.qkv = self.add_weight(shape=(before, 3 * self.channels), name="qkv")
        self.qkv_bias = self.add_weight(shape=(3 * self.channels,), initializer="zeros", name="qkv_bias")
        self.project = self.add_weight(shape=(self.channels, self.channels), name="project")
        self.project_bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="project_bias")
        distances = (2 * self.height - 1, 2 * self.width - 1, self.heads)
        self.bias = self.add_weight(
            shape=distances, initializer=keras.initializers.TruncatedNormal(0.0, 0.02), name="bias"
        )

    def call(self, x: Any) -> Any:
        """float[B, H, W, C] -> float[B, H, W, D]."""
        pixels, size = self.height * self.width, self.channels // self.heads
        ops = keras.ops
        qkv = ops.matmul(ops.reshape(x, (-1, pixels, x.shape[-1])), self.qkv) + self.qkv_bias
        qkv = ops.transpose(ops.reshape(qkv, (-1, pixels, 3, self.heads, size)), (2, 0, 3, 1, 4))
        logits = ops.matmul(qkv[0] * size**-0.5, ops.transpose(qkv[1], (0, 1, 3, 2)))  # float[B, heads, HW, HW]
        weights = ops.softmax(logits + self._biases())
        mixed = ops.transpose(ops.matmul(weights, qkv[2]), (0, 2, 1, 3))
        mixed = ops.matmul(ops.reshape(mixed, (-1, pixels, self.channels)), self.project) + self.project_bias
        return ops.reshape(mixed, (-1, self.height, self.width, self.channels))

    def _biases(self) -> Any:
        """float[heads, HW, HW]: the bias of each pair of pixels, by slices alone, whose gradients have one order."""
        ops = keras.ops
        height, width = self.height, self.width
        rows = ops.stack([self.bias[height - 1 - row : 2 * height - 1 - row] for row in range(height)])
        both = ops.stack([rows[:, :, width - 1 - at : 2 * width - 1 - at] for at in range(width)], axis=1)
        return ops.transpose(ops.reshape(both, (height * width, height * width, self.heads)), (2, 0, 1))

    def multiply_accumulates(self) -> int:
        """The multiplications of one image: of the four dense maps, and of each pair of pixels twice."""
        pixels = self.height * self.width
        dense = int(self.qkv.shape.num_elements() + self.project.shape.num_elements())
        return pixels * dense + 2 * pixels * pixels * self.channels


def _halved(x: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    return keras.layers.AveragePooling2D(2, padding="same", dtype=layers.policy(spec), name=f"{name}_pool")(x)


def _dense(
    x: keras.KerasTensor, name: str, channels: int, spec: Spec, activation: str | None = None
) -> keras.KerasTensor:
    return keras.layers.Dense(channels, activation=activation, dtype=layers.policy(spec), name=name)(x)


def _layer_norm(x: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    return keras.layers.LayerNormalization(epsilon=1e-6, dtype=layers.policy(spec), name=name)(x)


def _bottleneck(x: keras.KerasTensor, name: str, channels: int, stride: int, spec: Spec) -> keras.KerasTensor:
    """An inverted bottleneck, normalised before it."""
    wide = spec.channels(channels)
    y = layers.norm(x, f"{name}_before", spec)
    y = layers.conv(y, f"{name}_expand", EXPANSION * channels, spec, size=1, activation="gelu", initializer=HE)
    y = layers.depthwise(y, f"{name}_depthwise", spec, stride, "gelu")
    inner = max(1, wide // SQUEEZE)
    y = layers.squeeze_excite(y, f"{name}_squeeze", inner, spec, norm_between=False, activation="silu")
    y = _dense(y, f"{name}_project", wide, spec)
    if stride > 1:
        x = _dense(_halved(x, name, spec), f"{name}_shortcut", wide, spec)
    return layers.add(y, x, f"{name}_sum", spec)


def _attention(x: keras.KerasTensor, name: str, channels: int, stride: int, spec: Spec) -> keras.KerasTensor:
    """Attention and two dense layers, each with its norm before and its shortcut around."""
    heads = max(1, spec.channels(channels) // HEAD)
    wide = -(-spec.channels(channels) // heads) * heads
    y = _layer_norm(x, f"{name}_norm_1", spec)
    if stride > 1:
        y = _halved(y, f"{name}_attend", spec)
        x = _dense(_halved(x, name, spec), f"{name}_shortcut", wide, spec)
    y = RelativeAttention(wide, heads, dtype=layers.policy(spec), name=f"{name}_attend")(y)
    x = layers.add(y, x, f"{name}_sum_1", spec)
    y = _dense(_layer_norm(x, f"{name}_norm_2", spec), f"{name}_dense_1", EXPANSION * wide, spec, "gelu")
    return layers.add(_dense(y, f"{name}_dense_2", wide, spec), x, f"{name}_sum_2", spec)


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    image, x = layers.image(spec)
    x = layers.conv(x, "stem_1", STEM, spec, stride=2, activation="gelu", initializer=HE)
    x = keras.layers.Conv2D(
        spec.channels(STEM), 3, padding="same", use_bias=False, dtype=layers.policy(spec), name="stem_2"
    )(x)
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
        block = _bottleneck if stage <= CONVOLUTIONAL else _attention
        for number in range(1, depth + 1):
            x = block(x, f"block{stage}_{number}", width, 2 if number == 1 else 1, spec)
    x = keras.layers.GlobalAveragePooling2D(dtype=layers.policy(spec), name="mean")(x)
    return layers.head("coatnet0", image, _layer_norm(x, "norm", spec), spec)
