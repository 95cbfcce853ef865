"""ReXNet 1.0x: Han et al., Rethinking channel dimensions for efficient model design (2021).

Inverted bottlenecks whose channels grow linearly from 16 to 180; squeeze-and-excite from the third stage on; SiLU after
the expansion, ReLU6 after the depthwise convolution. A shortcut is added to the first channels of a wider block.
4,796,873 parameters at 1,000 classes and 3 channels, as in timm's `rexnet_100`.
"""

from dataclasses import dataclass

import keras

from trainer import layers
from trainer.nets import Spec

EMBEDDING = 0  # The channels of the last convolution.
DEPTHS = (1, 2, 2, 3, 3, 5)
STRIDES = (1, 2, 2, 2, 1, 2)
STEM, FIRST, GROWTH, LAST = 32, 16, 180, 1280
EXPANSION, SQUEEZE = 6, 12
EXPANDS, SQUEEZES = 1, 2  # The numbers of the last stages that do not expand, and do not squeeze.
HE = "he_normal"


@dataclass(frozen=True)
class Block:
    """One block. before, channels: what comes in and goes out, at a width multiplier of 1."""

    name: str
    before: int
    channels: int
    stride: int
    expands: bool
    squeezes: bool


def blocks() -> list[Block]:
    """The sixteen blocks of the paper."""
    found: list[Block] = []
    before, total = STEM, sum(DEPTHS)
    for stage, (depth, stride) in enumerate(zip(DEPTHS, STRIDES, strict=True), 1):
        for number in range(1, depth + 1):
            channels = round(FIRST + len(found) * GROWTH / total)
            name, step = f"block{stage}_{number}", stride if number == 1 else 1
            found.append(Block(name, before, channels, step, expands=stage > EXPANDS, squeezes=stage > SQUEEZES))
            before = channels
    return found


def _block(x: keras.KerasTensor, block: Block, spec: Spec) -> keras.KerasTensor:
    name, y = block.name, x
    if block.expands:
        full = EXPANSION * block.before
        y = layers.conv(y, f"{name}_expand", full, spec, size=1, activation="silu", initializer=HE)
    y = layers.depthwise(y, f"{name}_depthwise", spec, block.stride, "linear")
    if block.squeezes:
        inner = max(1, y.shape[-1] // SQUEEZE)
        y = layers.squeeze_excite(y, f"{name}_squeeze", inner, spec, norm_between=True, activation="relu")
    y = layers.activate(y, f"{name}_depthwise", spec, "relu6")
    y = layers.conv(y, f"{name}_project", block.channels, spec, size=1, activation="linear", initializer=HE)
    wider = y.shape[-1] - x.shape[-1]
    if block.stride > 1 or wider < 0:
        return y
    if wider:
        x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, wider)))
    return layers.add(y, x, f"{name}_sum", spec)


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    image, x = layers.image(spec)
    x = layers.conv(x, "stem", STEM, spec, stride=2, activation="silu", initializer=HE)
    for block in blocks():
        x = _block(x, block, spec)
    x = layers.conv(x, "last", LAST, spec, size=1, activation="silu", initializer=HE)
    return layers.pooled("rexnet", image, x, spec)
