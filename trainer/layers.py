"""Blocks of layers that the nets share; the parameters and multiply-accumulates of any net."""

import math
from collections.abc import Iterator

import keras

from trainer.nets import Spec

# Keras's 0.99 needs hundreds of steps before validation sees statistics of the data rather than of the start.
BATCH_NORM_MOMENTUM = 0.9


def policy(spec: Spec) -> str:
    """The dtype policy of the layers of a net."""
    return "float32" if spec.precision == "float32" else f"mixed_{spec.precision}"


def image(spec: Spec) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """-> (the input uint8[B, H, W, C], its pixels float32[B, H, W, C] in 0..1)."""
    pixels = keras.Input((spec.height, spec.width, spec.image_channels), dtype="uint8", name="images")
    # In float32: 255ths are not exact in the short formats.
    return pixels, keras.layers.Rescaling(1 / 255, dtype="float32", name="rescale")(pixels)


def conv(  # noqa: PLR0913 - the properties of a convolution
    x: keras.KerasTensor,
    name: str,
    channels: int,
    spec: Spec,
    *,
    size: int = 3,
    stride: int = 1,
    activation: str = "relu",
    initializer: str = "glorot_uniform",
) -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), D]: convolution without bias, batch norm, activation.

    D is `channels` times the width multiplier. The kernel is size x size, the padding SAME.
    """
    x = keras.layers.Conv2D(
        spec.channels(channels),
        size,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer=initializer,
        dtype=policy(spec),
        name=name,
    )(x)
    return norm(x, name, spec, activation)


def depthwise(
    x: keras.KerasTensor, name: str, spec: Spec, stride: int = 1, activation: str = "relu"
) -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C]: one 3x3 a channel, batch norm, activation."""
    x = keras.layers.DepthwiseConv2D(
        3, stride, padding="same", use_bias=False, depthwise_initializer="he_normal", dtype=policy(spec), name=name
    )(x)
    return norm(x, name, spec, activation)


def norm(x: keras.KerasTensor, name: str, spec: Spec, activation: str = "linear") -> keras.KerasTensor:
    """x[B, ..., C] -> the same shape: batch norm, and an activation where it is not linear."""
    x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, dtype=policy(spec), name=f"{name}_bn")(x)
    return x if activation == "linear" else activate(x, name, spec, activation)


def activate(x: keras.KerasTensor, name: str, spec: Spec, activation: str = "relu") -> keras.KerasTensor:
    """x[...] -> the same shape: an activation of Keras."""
    return keras.layers.Activation(activation, dtype=policy(spec), name=f"{name}_{activation}")(x)


def pool(x: keras.KerasTensor, name: str, spec: Spec, size: int = 3, padding: str = "same") -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]: maximum over size x size, stride 2."""
    return keras.layers.MaxPooling2D(size, 2, padding=padding, dtype=policy(spec), name=name)(x)


def add(x: keras.KerasTensor, y: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    """x[B, H, W, C], y[B, H, W, C] -> [B, H, W, C]: their sum."""
    return keras.layers.Add(dtype=policy(spec), name=name)([x, y])


def squeeze_excite(  # noqa: PLR0913 - the two forms that nets use
    x: keras.KerasTensor, name: str, channels: int, spec: Spec, *, norm_between: bool, activation: str
) -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, H, W, C]: channels scaled by a function of their means (Hu et al., 2018)."""
    y = keras.layers.GlobalAveragePooling2D(keepdims=True, dtype=policy(spec), name=f"{name}_mean")(x)
    y = keras.layers.Conv2D(channels, 1, dtype=policy(spec), name=f"{name}_reduce")(y)
    y = norm(y, f"{name}_reduce", spec, activation) if norm_between else activate(y, f"{name}_reduce", spec, activation)
    y = keras.layers.Conv2D(x.shape[-1], 1, activation="sigmoid", dtype=policy(spec), name=f"{name}_expand")(y)
    return keras.layers.Multiply(dtype=policy(spec), name=f"{name}_scale")([x, y])


def classifier(name: str, image: keras.KerasTensor, x: keras.KerasTensor, spec: Spec) -> keras.Model:
    """Ends a net behind its features x[B, h, w, c]: flatten, fc_1 with ReLU (the embedding), and `head`."""
    x = keras.layers.Flatten(dtype=policy(spec), name="flatten")(x)
    return head(name, image, _fc_1(x, spec), spec)


def pooled(name: str, image: keras.KerasTensor, x: keras.KerasTensor, spec: Spec) -> keras.Model:
    """Ends a net behind its features x[B, h, w, D]: their means (the embedding), and `head`."""
    return head(name, image, keras.layers.GlobalAveragePooling2D(dtype=policy(spec), name="mean")(x), spec)


def head(name: str, image: keras.KerasTensor, x: keras.KerasTensor, spec: Spec) -> keras.Model:
    """Ends a net: images uint8[B, H, W, C], x[B, D] -> `logits` float32[B, classes], `embedding` float32[B, D].

    x is the embedding; behind it are dropout and fc_2, which is linear.

    Where the spec asks for an embedding of another size than D, fc_1 makes it, with ReLU. fc_2 computes in float32
    under every precision, so that logits and loss do.
    """
    if spec.embedding not in {0, x.shape[-1]}:
        x = _fc_1(x, spec)
    embedding = keras.layers.Activation("linear", dtype="float32", name="embedding")(x)
    kept = keras.layers.Dropout(spec.dropout, dtype="float32", name="dropout")(embedding) if spec.dropout else embedding
    logits = keras.layers.Dense(spec.classes, dtype="float32", name="fc_2")(kept)
    return keras.Model(image, {"logits": logits, "embedding": embedding}, name=name)


def _fc_1(x: keras.KerasTensor, spec: Spec) -> keras.KerasTensor:
    return keras.layers.Dense(spec.embedding, activation="relu", dtype=policy(spec), name="fc_1")(x)


def every_layer(layer: keras.Layer, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Yields (path, layer) of all layers inside a layer or a net. A path is the names from the top, with slashes."""
    for inner in layer._flatten_layers(include_self=False, recursive=False):  # noqa: SLF001 - there is no public way
        name = f"{path}/{inner.name}"
        yield name, inner
        yield from every_layer(inner, name)


def parameters(model: keras.Model) -> int:
    """Returns the number of trainable parameters of a net."""
    return sum(int(variable.shape.num_elements()) for variable in model.trainable_variables)


# Layers whose multiplications are few enough to leave out.
_FREE = (
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "AveragePooling1D", "AveragePooling2D",
    "BatchNormalization", "Concatenate", "Cropping2D", "Dropout", "ELU", "Flatten", "GaussianDropout",
    "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GroupNormalization", "InputLayer", "LayerNormalization", "LeakyReLU", "Maximum", "MaxPooling1D", "MaxPooling2D",
    "Minimum", "Multiply", "Pad", "Permute", "PReLU", "ReLU", "Rescaling", "Reshape", "RMSNormalization", "Softmax",
    "SpatialDropout2D", "Subtract", "UnitNormalization", "UpSampling2D", "ZeroPadding2D",
)  # fmt: skip


def multiply_accumulates(model: keras.Model) -> int | None:
    """Counts the multiply-accumulate operations of one image: those of convolutions, dense layers and attention.

    A layer of a net's own counts its operations in `multiply_accumulates()`. Returns None where the net has a layer or
    an operation of another kind, whose operations are not known here.
    """
    counts = [count_of(layer) for layer in model.operations]
    return None if None in counts else sum(filter(None, counts))


def count_of(layer: keras.Operation) -> int | None:
    """Counts the multiply-accumulate operations of one layer for one image; None where its kind is not known."""
    if hasattr(layer, "multiply_accumulates"):
        return int(layer.multiply_accumulates())
    if type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
        kernels = [layer.kernel]
    elif isinstance(layer, keras.layers.SeparableConv2D):
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    elif isinstance(layer, keras.layers.Dense):
        kernels = [layer.kernel]
    else:
        return 0 if type(layer).__name__ in _FREE and type(layer).__module__.startswith("keras.") else None
    places = math.prod(layer.output.shape[1:-1])
    return places * sum(int(kernel.shape.num_elements()) for kernel in kernels)
