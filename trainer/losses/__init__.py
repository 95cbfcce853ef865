"""The losses: one file a loss, found by its name. A loss's file has

    Options                                       a frozen dataclass of its settings, all with defaults
    loss(outputs, labels, weights, options)       outputs of the net, labels int64[B] -> float32[B], one loss a record
    weights(spec, options)                        only where the loss learns weights of its own: arrays by name

`outputs` has `logits` float32[B, C] and `embedding` float32[B, D].
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from boceto import lookup, settings
from trainer.nets import Spec


@dataclass(frozen=True)
class Loss:
    """A loss with its options. call: (outputs, labels int64[B], weights by name) -> float32[B].

    weights: the initial values of the weights that the loss learns, by name.
    """

    call: Callable[[Mapping[str, Any], Any, Mapping[str, Any]], Any]
    weights: Mapping[str, NDArray[Any]]


def names() -> list[str]:
    """The losses there are."""
    return lookup.names(__name__)


def find(name: str, options: str, spec: Spec) -> Loss:
    """The loss of a name, with options written as "name=value, name=value".

    Raises:
        SettingsError: the loss or an option is unknown, or a value is refused.
    """
    module = lookup.find(__name__, name, "train.loss")
    chosen = settings.from_text(module.Options, options, "train.loss_options")
    weights = module.weights(spec, chosen) if hasattr(module, "weights") else {}
    return Loss(functools.partial(_call, module.loss, chosen), weights)


def _call(loss: Callable[..., Any], options: Any, outputs: Any, labels: Any, weights: Any) -> Any:
    return loss(outputs, labels, weights, options)
