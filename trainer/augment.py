"""Augmentation: mirror, rotation, shift and scale, as one affine resampling of each image."""

import math

import tensorflow as tf

from trainer.settings import Settings

HALF = 0.5  # The share of drawings that are mirrored.
PARAMETERS = 5  # Of a record: mirror, rotation, shift in x, shift in y, scale.


def parameters(settings: Settings) -> int:
    """Returns the number of random parameters that the augmentation takes for a record: 0 where it is off."""
    return PARAMETERS if settings.flip or settings.rotation or settings.shift or settings.scale else 0


def _transforms(parameters: tf.Tensor, settings: Settings, height: int, width: int) -> tf.Tensor:
    """Parameters float32[B, 5] in [0, 1) -> float32[B, 8]: the affine maps from output to input pixels.

    The maps turn and scale about the middle of the image.
    """
    mirror, turn, right, down, grow = tf.unstack(parameters, axis=1)
    angle = (2 * turn - 1) * (settings.rotation * math.pi / 180)
    zoom = 1 + (2 * grow - 1) * settings.scale
    sign = tf.where(tf.logical_and(settings.flip, mirror < HALF), -1.0, 1.0)
    cos, sin = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    a, b, d, e = sign * cos, -sign * sin, sin, cos
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = middle_x + (2 * right - 1) * (settings.shift * width)
    y = middle_y + (2 * down - 1) * (settings.shift * height)
    zero = tf.zeros_like(a)
    return tf.stack([a, b, middle_x - a * x - b * y, d, e, middle_y - d * x - e * y, zero, zero], axis=1)


def augmented(images: tf.Tensor, parameters: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Images uint8[B, H, W, C] and their parameters float32[B, 5] in [0, 1) -> uint8[B, H, W, C], C = 1 or 3.

    Pixels from outside of the image are those of its border: the paper, where a drawing leaves a margin.
    """
    height, width = images.shape[1:3]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=_transforms(parameters, settings, height, width),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.cast(tf.round(moved), tf.uint8)
