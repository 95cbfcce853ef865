"""The nets, one file each: `build(spec) -> keras.Model`, uint8[B, H, W, 1] -> logits float32[B, C], embedding
float32[B, D]. The folder is the registry: a new file is a new net, under the file's name.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from boceto.errors import SettingsError


@dataclass(frozen=True)
class Spec:
    """What a net is built from. `width` multiplies the conv channels; 1 and an embedding of 1024 are the design's."""

    classes: int
    height: int = 128
    image_width: int = 128
    width: float = 1.0
    embedding: int = 1024
    dropout: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def channels(self, full: int) -> int:
        """The channels of a convolution that has `full` at width 1."""
        return max(1, round(full * self.width))


def names() -> list[str]:
    """The nets there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(name: str, spec: Spec) -> Any:
    """The net `name` as a keras.Model with the outputs `logits` and `embedding`.

    Raises:
        SettingsError: there is no such net.
    """
    if name not in names():
        raise SettingsError(f"train.net = {name!r} is unknown; the nets are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").build(spec)
