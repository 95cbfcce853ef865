"""skNet: eight convolutions in four blocks, then fc_1 and fc_2. 18,321,316 parameters at 100 classes and 128 px."""

import keras

from trainer import layers
from trainer.nets import Spec

BLOCKS = ((64, 64), (128, 128), (128, 128), (256, 256))


def build(spec: Spec) -> keras.Model:
    """uint8[B, H, W, channels] -> logits float32[B, C], embedding float32[B, D]."""
    image, x = layers.image(spec)
    for block, channels in enumerate(BLOCKS, 1):
        for number, full in enumerate(channels, 1):
            x = layers.conv(x, f"conv{block}_{number}", full, spec)
        x = layers.pool(x, f"pool_{block}", spec)
    return layers.classifier("sknet", image, x, spec)
