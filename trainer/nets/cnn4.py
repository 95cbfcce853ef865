"""cnn4: four convolutions and two dense layers, a course's first net for its competition.

8,830,948 parameters at 100 classes and 128 px.
"""

import keras

from trainer import layers
from trainer.nets import Spec

CHANNELS = (32, 64, 128, 256)
EMBEDDING = 512


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    image, x = layers.image(spec)
    for number, channels in enumerate(CHANNELS, 1):
        x = layers.conv(x, f"conv{number}", channels, spec)
        x = layers.pool(x, f"pool_{number}", spec, size=2)
    return layers.classifier("cnn4", image, x, spec)
