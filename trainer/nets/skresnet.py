"""skResNet: ten groups of convolutions with six residual sums. 20,978,340 parameters at 100 classes and 128 px."""

import keras

from trainer import layers
from trainer.nets import Spec


def _residual(x: keras.KerasTensor, group: int, channels: int, name: str, spec: Spec) -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, H, W, C]: convolutions conv`group`_1 and conv`group`_2, whose result is added to x."""
    y = layers.conv(x, f"conv{group}_1", channels, spec)
    y = layers.conv(y, f"conv{group}_2", channels, spec)
    return layers.add(y, x, name, spec)


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    image, x = layers.image(spec)
    x = layers.conv(x, "conv1_1", 64, spec)
    x = layers.conv(x, "conv1_2", 64, spec)
    x = layers.pool(x, "pool_1", spec)
    x = _residual(x, 2, 64, "r1", spec)
    x = _residual(x, 3, 64, "r2", spec)
    x = layers.conv(x, "conv4_1", 128, spec)
    x = layers.pool(x, "pool_2", spec)
    x = _residual(x, 5, 128, "r3", spec)
    x = _residual(x, 6, 128, "r4", spec)
    x = layers.conv(x, "conv7_1", 256, spec)
    x = layers.pool(x, "pool_3", spec)
    x = _residual(x, 8, 256, "r5", spec)
    x = _residual(x, 9, 256, "r6", spec)
    x = layers.conv(x, "conv10_1", 256, spec)
    x = layers.pool(x, "pool_4", spec)
    return layers.classifier("skresnet", image, x, spec)
