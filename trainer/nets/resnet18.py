"""ResNet-18: He et al., Deep residual learning for image recognition (2016).

The embedding is the mean of the last block. 11,689,512 parameters at 1,000 classes and 3 channels, as in torchvision.
"""

import keras

from trainer import layers
from trainer.nets import Spec, _residual

EMBEDDING = 0  # The channels of the last block.
DEPTHS = (2, 2, 2, 2)


def _block(x: keras.KerasTensor, name: str, channels: int, stride: int, spec: Spec) -> keras.KerasTensor:
    y = layers.conv(x, f"{name}_conv1", channels, spec, stride=stride, initializer=_residual.HE)
    y = layers.conv(y, f"{name}_conv2", channels, spec, activation="linear", initializer=_residual.HE)
    return _residual.shortcut(x, y, name, channels, spec, stride=stride)


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    return _residual.build("resnet18", _block, DEPTHS, spec)
