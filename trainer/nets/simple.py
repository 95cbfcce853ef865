"""Simple: three convolutions and two dense layers, the first net of a course on TU-Berlin's sketches.

8,546,010 parameters at 250 classes and 128 px.
"""

import keras

from trainer import layers
from trainer.nets import Spec

CHANNELS = (32, 64, 128)
EMBEDDING = 256


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    image, x = layers.image(spec)
    for number, channels in enumerate(CHANNELS, 1):
        x = layers.conv(x, f"conv{number}", channels, spec)
        x = layers.pool(x, f"pool_{number}", spec)
    return layers.classifier("simple", image, x, spec)
