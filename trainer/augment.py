"""Augmentation of pictures: mirror, rotation, shift and scale as one affine resampling; random erasing; mixup, CutMix.

Each record has random numbers of its own, keyed by (seed, epoch, record). Mixup and CutMix take the other record from
the same group of the batch, so that the number of replicas changes nothing.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.settings import Settings

HALF = 0.5  # The share of drawings that are mirrored; of CutMix, where mixup is on too.
# Of a record, the random numbers in [0, 1): mirror, rotation, shift in x, shift in y, scale; of erasing: chance, area,
# proportions, place in x, place in y; of mixing: choice, other record, share, place in x, place in y.
AFFINE, ERASE, MIX = slice(0, 5), slice(5, 10), slice(10, 15)
# Of random erasing, as in the paper: the share of the image, and the height by the width and its inverse.
AREAS, PROPORTIONS = (0.02, 0.4), 0.3
QUANTILES = 4096


def parameters(settings: Settings) -> int:
    """Returns the number of random parameters that the augmentation takes for a record: 0 where it is off."""
    if settings.mixup or settings.cutmix:
        return MIX.stop
    if settings.erase:
        return ERASE.stop
    return AFFINE.stop if _moves(settings) else 0


def _moves(settings: Settings) -> bool:
    return bool(settings.flip or settings.rotation or settings.shift or settings.scale)


def augmented(images: tf.Tensor, parameters: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Images uint8[B, H, W, C] and their parameters float32[B, D] in [0, 1) -> uint8[B, H, W, C], C = 1 or 3."""
    if _moves(settings):
        images = _moved(images, parameters[:, AFFINE], settings)
    if settings.erase:
        images = _erased(images, parameters[:, ERASE], settings.erase)
    return images


def _moved(images: tf.Tensor, parameters: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Mirrors, turns, shifts and scales; parameters: float32[B, 5].

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


def _erased(images: tf.Tensor, parameters: tf.Tensor, share: float) -> tf.Tensor:
    """Fills a rectangle with the colour of the image's corner, the paper, in this share of the images.

    parameters: float32[B, 5]. Source: Zhong et al., Random erasing data augmentation (2020).
    """
    height, width = images.shape[1:3]
    chance, area, proportions, right, down = tf.unstack(parameters, axis=1)
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * area) * (height * width)
    proportions = PROPORTIONS ** (2 * proportions - 1)
    high, wide = tf.minimum(tf.sqrt(area * proportions), height), tf.minimum(tf.sqrt(area / proportions), width)
    inside = _rectangle(right * (width - wide), down * (height - high), wide, high, (height, width))
    return tf.where(tf.logical_and(inside, (chance < share)[:, None, None, None]), images[:, :1, :1], images)


def _rectangle(left: tf.Tensor, top: tf.Tensor, wide: tf.Tensor, high: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
    """Rectangles in pixels, float32[B] each -> bool[B, H, W, 1]: whether a pixel's centre is inside."""
    rows, columns = (tf.range(side, dtype=tf.float32) + 0.5 for side in shape)
    down = tf.logical_and(rows >= top[:, None], rows < (top + high)[:, None])
    across = tf.logical_and(columns >= left[:, None], columns < (left + wide)[:, None])
    return tf.logical_and(down[:, :, None], across[:, None, :])[..., None]


class Mixed(NamedTuple):
    """The records of one group: images uint8[b, H, W, C], labels int64[b]; where pairs are mixed, also the labels of
    the other records int64[b], and the shares float32[b] of `labels`, at least a half.
    """

    images: tf.Tensor
    labels: tf.Tensor
    others: tf.Tensor | None = None
    shares: tf.Tensor | None = None


def mixed(images: tf.Tensor, labels: tf.Tensor, parameters: tf.Tensor, settings: Settings) -> Mixed:
    """Mixes each record of a group with another record of it; parameters: float32[b, D] in [0, 1).

    Mixup (Zhang et al. 2018) takes the mean of two images, weighted by a share; CutMix (Yun et al. 2019) puts a
    rectangle of the other image into an image. The share is drawn from Beta(alpha, alpha). Where both are on, each has
    half of the records.
    """
    if not (settings.mixup or settings.cutmix):
        return Mixed(images, labels)
    size, height, width, _ = images.shape
    choice, other, share, right, down = tf.unstack(parameters[:, MIX], axis=1)
    step = 1 + tf.cast(other * (size - 1), tf.int32)
    others = tf.math.floormod(tf.range(size) + tf.minimum(step, size - 1), size)
    cut = choice < (0.0 if not settings.cutmix else HALF if settings.mixup else 1.0)
    share = tf.where(cut, _beta(share, settings.cutmix), _beta(share, settings.mixup))
    wide, high = width * tf.sqrt(1 - share), height * tf.sqrt(1 - share)
    inside = _rectangle(right * width - wide / 2, down * height - high / 2, wide, high, (height, width))
    weights = tf.where(
        cut[:, None, None, None], tf.cast(tf.logical_not(inside), tf.float32), share[:, None, None, None]
    )
    pixels = tf.cast(images, tf.float32)
    pixels = weights * pixels + (1 - weights) * tf.gather(pixels, others)
    share, second = tf.reduce_mean(weights, axis=[1, 2, 3]), tf.gather(labels, others)
    most = share >= HALF
    return Mixed(
        tf.cast(tf.round(pixels), tf.uint8),
        tf.where(most, labels, second),
        tf.where(most, second, labels),
        tf.maximum(share, 1 - share),
    )


def _beta(uniform: tf.Tensor, alpha: float) -> tf.Tensor:
    """Random numbers float32[b] in [0, 1) -> float32[b], of the distribution Beta(alpha, alpha); alpha = 0: ones."""
    if not alpha:
        return tf.ones_like(uniform)
    values = np.sin(np.linspace(0, np.pi / 2, QUANTILES + 1)) ** 2  # Dense at the ends, where the density may be high.
    with tf.init_scope():  # Once, not in each step.
        below = tf.math.betainc(np.float64(alpha), np.float64(alpha), values).numpy()
    quantiles = np.interp((np.arange(QUANTILES) + 0.5) / QUANTILES, below, values)
    return tf.gather(tf.constant(quantiles, tf.float32), tf.cast(uniform * QUANTILES, tf.int32))
