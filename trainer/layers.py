"""Blocks of layers that the nets share; the parameters and multiply-accumulates of any net."""

from collections.abc import Iterator

import keras

from trainer.nets import Spec

# Keras's 0.99 needs hundreds of steps before validation sees statistics of the data rather than of the start.
BATCH_NORM_MOMENTUM = 0.9


def _policy(spec: Spec) -> str:
    return "float32" if spec.precision == "float32" else f"mixed_{spec.precision}"


def image(spec: Spec) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """-> (the input uint8[B, H, W, C], its pixels float32[B, H, W, C] in 0..1)."""
    pixels = keras.Input((spec.height, spec.width, spec.image_channels), dtype="uint8", name="images")
    # In float32: 255ths are not exact in the short formats.
    return pixels, keras.layers.Rescaling(1 / 255, dtype="float32", name="rescale")(pixels)


def conv(x: keras.KerasTensor, name: str, channels: int, spec: Spec) -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, H, W, D], in the precision of `spec`: convolution 3x3 without bias, batch norm, ReLU.

    D is `channels` times the width multiplier.
    """
    policy = _policy(spec)
    convolution = keras.layers.Conv2D(
        spec.channels(channels), 3, padding="same", use_bias=False, dtype=policy, name=name
    )
    norm = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, dtype=policy, name=f"{name}_bn")
    return keras.layers.ReLU(dtype=policy, name=f"{name}_relu")(norm(convolution(x)))


def pool(x: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    """x[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]: maximum over 3x3, stride 2."""
    return keras.layers.MaxPooling2D(3, 2, padding="same", dtype=_policy(spec), name=name)(x)


def add(x: keras.KerasTensor, y: keras.KerasTensor, name: str, spec: Spec) -> keras.KerasTensor:
    """x[B, H, W, C], y[B, H, W, C] -> [B, H, W, C]: their sum."""
    return keras.layers.Add(dtype=_policy(spec), name=name)([x, y])


def classifier(name: str, image: keras.KerasTensor, x: keras.KerasTensor, spec: Spec) -> keras.Model:
    """Ends a net: images uint8[B, H, W, C] and its last features x[B, h, w, c] -> `logits` float32[B, classes] and
    `embedding` float32[B, D], by flatten, fc_1 with ReLU (the embedding), dropout, and fc_2, which is linear.

    fc_2 computes in float32 under every precision, so that logits and loss are float32.
    """
    policy = _policy(spec)
    x = keras.layers.Flatten(dtype=policy, name="flatten")(x)
    x = keras.layers.Dense(spec.embedding, activation="relu", dtype=policy, name="fc_1")(x)
    embedding = keras.layers.Activation("linear", dtype="float32", name="embedding")(x)
    kept = keras.layers.Dropout(spec.dropout, dtype="float32", name="dropout")(embedding) if spec.dropout else embedding
    logits = keras.layers.Dense(spec.classes, dtype="float32", name="fc_2")(kept)
    return keras.Model(image, {"logits": logits, "embedding": embedding}, name=name)


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
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "AveragePooling2D",
    "BatchNormalization", "Concatenate", "Cropping2D", "Dropout", "ELU", "Flatten", "GaussianDropout",
    "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "InputLayer",
    "LayerNormalization", "LeakyReLU", "Maximum", "MaxPooling2D", "Minimum", "Multiply", "PReLU", "Permute",
    "RMSNormalization", "ReLU", "Rescaling", "Reshape", "Softmax", "SpatialDropout2D", "Subtract",
    "UnitNormalization", "UpSampling2D", "ZeroPadding2D",
)  # fmt: skip


def multiply_accumulates(model: keras.Model) -> int | None:
    """Counts the multiply-accumulate operations of one image: those of convolutions and dense layers.

    Returns None where the net has a layer of another kind, whose operations are not known here.
    """
    total = 0
    for layer in model.layers:
        kind = type(layer).__name__
        if type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
            height, width = layer.output.shape[1:3]
            total += height * width * layer.kernel.shape.num_elements()
        elif isinstance(layer, keras.layers.SeparableConv2D):
            height, width = layer.output.shape[1:3]
            kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
            total += height * width * sum(kernel.shape.num_elements() for kernel in kernels)
        elif isinstance(layer, keras.layers.Dense):
            rows = 1
            for size in layer.output.shape[1:-1]:
                rows *= size
            total += rows * layer.kernel.shape.num_elements()
        elif not (kind in _FREE and type(layer).__module__.startswith("keras.")):
            return None
    return int(total)
