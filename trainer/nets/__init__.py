"""The nets: one file a net, found by its name. The file of a net has `build(spec) -> keras.Model`.

The model maps `uint8[B, H, W, C]` to a dict with `logits` float32[B, C] and `embedding` float32[B, D]. Its layers may
be any of Keras's. Its module may define two constants. `EMBEDDING` is the size of the net's own embedding: 1,024 where
it is not defined, and 0 for the channels of the last block. `SMALLEST` is the fewest pixels a side that it can take.
"""

import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boceto import lookup
from boceto.errors import SettingsError

if TYPE_CHECKING:
    import keras


_POSITIONAL = ("shape", "initializer", "dtype")  # The arguments of `add_weight` that may have no name.


@dataclass(frozen=True)
class Spec:
    """The numbers that a net is built from.

    classes: C. height, width: of the images, in pixels. image_channels: 1 or 3. width_multiplier: multiplies the
    channels of the convolutions. embedding: D, the size of the embedding; 0: the net's own. dropout: the dropout rate
    of the embedding, 0..1. precision: of the layers, `float32`, `bfloat16` or `float16`. seed: of the initial weights.
    """

    classes: int
    height: int = 128
    width: int = 128
    width_multiplier: float = 1.0
    embedding: int = 0
    dropout: float = 0.0
    precision: str = "float32"
    seed: int = 0
    image_channels: int = 1

    def channels(self, full: int) -> int:
        """Returns the channels of a convolution that has `full` channels at a width multiplier of 1."""
        return max(1, round(full * self.width_multiplier))


def names() -> list[str]:
    """Returns the names of the nets."""
    return lookup.names(__name__)


def smallest(name: str) -> int:
    """Returns the fewest pixels a side that the strides of a net allow."""
    return int(getattr(lookup.find(__name__, name, "train.net"), "SMALLEST", 1))


def build(name: str, spec: Spec) -> "keras.Model":
    """Builds a net. Two builds of one spec have the same layer names and the same weights.

    Raises:
        SettingsError: there is no such net, or the images are too small for it (`SMALLEST` of its module).
    """
    module = lookup.find(__name__, name, "train.net", "build")
    if min(spec.height, spec.width) < smallest(name):
        raise SettingsError(
            f"train.net = {name!r} needs images of {smallest(name)} pixels or more a side, these have {spec.height}x"
            f"{spec.width}; prepare them with --height and --width of at least {smallest(name)}, or choose another net"
        )
    from keras.src.utils import naming  # Keras 3.15 has no public way to number unnamed layers from 0 again.

    naming.reset_uids()
    with _seeded(spec.seed):
        own = spec.embedding or getattr(module, "EMBEDDING", 1024)
        model: keras.Model = module.build(dataclasses.replace(spec, embedding=own))
    _check_outputs(name, model, spec)
    paths = [variable.path for variable in model.variables]
    twice = sorted({path for path in paths if paths.count(path) > 1 or path.startswith("loss/")})
    if twice:
        raise SettingsError(
            f"train.net = {name!r}: the weight {twice[0]} has the name of another; give its layer a name of its own"
        )
    return model


def _check_outputs(name: str, model: "keras.Model", spec: Spec) -> None:
    """Raises SettingsError where a net does not give the outputs that the trainer reads."""
    wanted = {"logits": spec.classes, "embedding": spec.embedding}
    outputs = model.output if isinstance(model.output, dict) else {}
    for key, size in wanted.items():
        found = outputs.get(key)
        if found is None or found.ndim != 2 or found.shape[1] != (size or found.shape[1]):  # noqa: PLR2004 - [B, D]
            there = f"float[B, {', '.join(map(str, found.shape[1:]))}]" if found is not None else "nothing"
            raise SettingsError(
                f"train.net = {name!r} gives {there} as {key!r}, and must give float[B, {size or 'D'}] in a dict with "
                "'logits' and 'embedding'; mend its build()"
            )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Makes the initial value of a weight a function of (seed, layer path, weight name) within the block.

    Weights of one name in one layer are numbered in their order. An initialiser that is a plain function is used as it
    is. Every layer of Keras makes its weights with `keras.Layer.add_weight`, which the block replaces.
    """
    import keras

    original = keras.Layer.add_weight
    seen: collections.Counter[object] = collections.Counter()

    def add_weight(layer: keras.Layer, *args: Any, **options: Any) -> Any:
        options |= zip(_POSITIONAL, args, strict=False)
        initializer = options.get("initializer")
        if initializer is None and keras.backend.is_float_dtype(options.get("dtype") or layer.variable_dtype):
            initializer = "glorot_uniform"  # As Keras, but with a seed.
        if initializer is not None:
            options["initializer"] = found = keras.initializers.get(initializer)
            if hasattr(found, "seed"):
                name = layer.path or layer.name, options.get("name")
                own = stable_hash(seed, *name, *([seen[name]] if seen[name] else []))
                seen[name] += 1
                options["initializer"] = type(found).from_config({**found.get_config(), "seed": own})
        return original(layer, *args[len(_POSITIONAL) :], **options)

    keras.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.Layer.add_weight = original


def stable_hash(*parts: object) -> int:
    """Returns a number in 0..2^31-1: a function of the texts of the parts, the same in every process."""
    hashed = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4)
    return int.from_bytes(hashed.digest(), "little") & 0x7FFFFFFF
