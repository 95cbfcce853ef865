"""The losses: one file a loss, found by its name. The file of a loss has

    Options                                       a frozen dataclass of its settings, all with defaults
    loss(outputs, labels, weights, options)       outputs of the net, labels int64[B] -> float32[B], a loss a record
    weights(spec, options)                        only for a loss that learns weights: their initial values by name

`outputs` holds `logits` float32[B, C] and `embedding` float32[B, D]; `weights` holds float32 arrays by name. The B
records are one group of a batch (`train.groups`): a loss that compares records sees no others.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from boceto import lookup, settings
from boceto.errors import SettingsError
from trainer.nets import Spec


@dataclass(frozen=True)
class Loss:
    """A loss with its options. call: (outputs, labels int64[B], weights by name) -> float32[B].

    weights: the initial values, float32, of the weights that the loss learns, by name.
    """

    call: Callable[[Mapping[str, Any], Any, Mapping[str, Any]], Any]
    weights: Mapping[str, NDArray[Any]]


def names() -> list[str]:
    """Returns the names of the losses."""
    return lookup.names(__name__)


def find(name: str, options: str, spec: Spec) -> Loss:
    """Returns the loss of this name. options: "name=value, name=value". spec: of the net that is trained.

    Raises:
        SettingsError: the loss or an option is unknown, or a value is refused.
    """
    import tensorflow as tf

    module = lookup.find(__name__, name, "train.loss", "Options", "loss")
    chosen = settings.from_text(module.Options, options, "train.loss_options")
    weights = module.weights(spec, chosen) if hasattr(module, "weights") else {}
    found = Loss(functools.partial(_call, module.loss, chosen), weights)
    outputs = {"logits": tf.zeros((2, spec.classes)), "embedding": tf.zeros((2, spec.embedding))}
    values = tf.convert_to_tensor(found.call(outputs, tf.zeros(2, tf.int64), weights))
    if values.shape != (2,) or values.dtype != tf.float32:
        raise SettingsError(
            f"train.loss = {name!r} gives {values.dtype.name}{values.shape.as_list()} for 2 records, and must give "
            f"float32[2], one loss a record; mend {module.__file__}"
        )
    return found


def _call(loss: Callable[..., Any], options: Any, outputs: Any, labels: Any, weights: Any) -> Any:
    return loss(outputs, labels, weights, options)
