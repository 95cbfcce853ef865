"""ResNet-50: He et al., Deep residual learning for image recognition (2016), with bottlenecks whose 3x3 has the stride.

The embedding is the mean of the last block. 25,557,032 parameters at 1,000 classes and 3 channels, as in torchvision.
"""

import keras

from trainer import layers
from trainer.nets import Spec, _residual

EMBEDDING = 0  # The channels of the last block.
DEPTHS = (3, 4, 6, 3)
EXPANSION = 4


def _block(x: keras.KerasTensor, name: str, channels: int, stride: int, spec: Spec) -> keras.KerasTensor:
    full = EXPANSION * channels
    y = layers.conv(x, f"{name}_conv1", channels, spec, size=1, initializer=_residual.HE)
    y = layers.conv(y, f"{name}_conv2", channels, spec, stride=stride, initializer=_residual.HE)
    y = layers.conv(y, f"{name}_conv3", full, spec, size=1, activation="linear", initializer=_residual.HE)
    return _residual.shortcut(x, y, name, full, spec, stride=stride)


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    return _residual.build("resnet50", _block, DEPTHS, spec)
