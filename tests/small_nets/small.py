"""A net that is traced in a tenth of the time of ours, with a layer of each kind that they have."""

from trainer import layers


def build(spec):
    image, x = layers.image(spec)
    x = layers.pool(layers.conv(x, "conv1_1", 64, spec), "pool_1", spec)
    return layers.classifier("small", image, x, spec)
