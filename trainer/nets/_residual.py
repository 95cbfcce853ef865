"""What resnet18 and resnet50 share: He et al., Deep residual learning for image recognition (2016)."""

from collections.abc import Callable, Sequence

import keras

from trainer import layers
from trainer.nets import Spec

WIDTHS = (64, 128, 256, 512)
HE = "he_normal"


def shortcut(  # noqa: PLR0913 - the properties of a block
    x: keras.KerasTensor, y: keras.KerasTensor, name: str, channels: int, spec: Spec, *, stride: int
) -> keras.KerasTensor:
    """ReLU of y and of x, which a convolution 1x1 brings to y's shape where the block has another one."""
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = layers.conv(
            x, f"{name}_shortcut", channels, spec, size=1, stride=stride, activation="linear", initializer=HE
        )
    return layers.activate(layers.add(y, x, f"{name}_sum", spec), name, spec)


def build(
    name: str,
    block: Callable[[keras.KerasTensor, str, int, int, Spec], keras.KerasTensor],
    depths: Sequence[int],
    spec: Spec,
) -> keras.Model:
    """A net of four stages of blocks; `block` maps (x, its name, its channels, its stride, the spec)."""
    image, x = layers.image(spec)
    x = layers.conv(x, "conv1", WIDTHS[0], spec, size=7, stride=2, initializer=HE)
    x = layers.pool(x, "pool_1", spec)
    for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), 2):
        for number in range(1, depth + 1):
            stride = 2 if stage > 2 and number == 1 else 1  # noqa: PLR2004 - the pool halves before the first stage
            x = block(x, f"block{stage}_{number}", width, stride, spec)
    return layers.pooled(name, image, x, spec)
