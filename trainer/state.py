"""The variables of a run, mirrored over the replicas, as arrays and back."""

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from boceto.errors import DataError
from trainer import optimizers
from trainer.settings import Settings

FIRST_LOSS_SCALE = 2.0**15
_COPIERS = 4
LOSS = "loss"


def is_seed(variable: keras.Variable) -> bool:
    """Returns whether a variable is a seed of Keras. It is no state of a run, since each step sets it anew."""
    return bool(variable.name == "seed_generator_state")


@dataclass(frozen=True)
class Variables:
    """The variables of a run by kind; each is one tf.Variable a replica, float32 unless the net says otherwise.

    weights: all that is trained: of the net by their path, and of the loss by `loss/<name>`. statistics: the other
    variables of the net, as batch norm's means and variances. slots: of the optimizer, by slot; each slot has the names
    and shapes of `weights`. ema: the exponential moving average of `weights`, or empty. scale: the loss scale
    float32[] and the number of steps int32[] since it changed, or empty.
    """

    strategy: tf.distribute.Strategy
    weights: Mapping[str, tf.Variable]
    statistics: Mapping[str, tf.Variable]
    slots: Mapping[str, Mapping[str, tf.Variable]]
    ema: Mapping[str, tf.Variable]
    scale: Mapping[str, tf.Variable]

    @property
    def groups(self) -> dict[str, Mapping[str, tf.Variable]]:
        """All variables, by the first part of their name in a checkpoint: `weights/…`, `m/…`."""
        return {
            "weights": self.weights,
            "statistics": self.statistics,
            "ema": self.ema,
            "scale": self.scale,
            **self.slots,
        }

    def local(self, replica: int, group: Mapping[str, tf.Variable]) -> list[tf.Variable]:
        """The variables of `group` on one replica, in the order of `group`."""
        return [self.strategy.experimental_local_results(variable)[replica] for variable in group.values()]

    def _named(self) -> dict[str, tf.Variable]:
        """The variables of the first replica by their names in a checkpoint; all replicas have the same values."""
        return {
            f"{group}/{name}": variable
            for group, variables in self.groups.items()
            for name, variable in zip(variables, self.local(0, variables), strict=True)
        }

    @functools.cached_property
    def _read(self) -> Any:
        """A compiled function that reads all variables at once: a call for each would cost as much as the copies."""
        named = self._named()
        return tf.function(lambda: {name: variable.read_value() for name, variable in named.items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns the values by name; each has the shape and dtype of its variable."""
        return {name: variable.numpy() for name, variable in self._named().items()}

    def buffers(self) -> dict[str, NDArray[Any]]:
        """Returns memory for `copy_to`, like `arrays`. The first use of fresh memory costs more than a copy, so it is
        filled here.
        """
        return {name: np.array(variable.numpy()) for name, variable in self._named().items()}

    def copy_to(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copies the values into `arrays`, which are those of `buffers`."""
        values = self._read()
        with ThreadPoolExecutor(_COPIERS) as pool:  # On the host, values are read where they lie.
            list(pool.map(lambda name: np.copyto(arrays[name], np.asarray(values[name])), arrays))

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Sets the variables of all replicas from arrays like `arrays()`.

        Raises:
            DataError: an array is missing or has another shape.
        """
        for group, variables in self.groups.items():
            for name, variable in variables.items():
                value = arrays.get(f"{group}/{name}")
                if value is None or value.shape != variable.shape:
                    raise DataError(
                        f"the checkpoint has no {group}/{name} of shape {variable.shape}; use another --run"
                    )
                for copy in self.strategy.experimental_local_results(variable):
                    copy.assign(value)


def create(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    settings: Settings,
    of_loss: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> Variables:
    """Creates the variables of a run at step 0.

    model: was built under the scope of `strategy`. of_loss: the initial weights of the loss, float32, by name.
    """
    weights = {variable.path: variable.value for variable in model.trainable_variables}
    kept = [variable for variable in model.non_trainable_variables if not is_seed(variable)]
    with strategy.scope():
        weights |= {f"{LOSS}/{name}": _variable(value, name) for name, value in of_loss.items()}
        slots = {
            slot: {name: _like(weight, slot) for name, weight in weights.items()}
            for slot in optimizers.SLOTS[settings.optimizer]
        }
        averaged = weights if settings.ema else {}
        ema = {name: _variable(weight.numpy(), "ema") for name, weight in averaged.items()}
        scaled = settings.precision == "float16"
        scale = {
            "value": tf.Variable(FIRST_LOSS_SCALE, trainable=False, name="loss_scale"),
            "steps": tf.Variable(0, trainable=False, name="loss_scale_steps"),
        }
    statistics = {variable.path: variable.value for variable in kept}
    return Variables(strategy, weights, statistics, slots, ema, scale if scaled else {})


def _like(weight: tf.Variable, name: str) -> tf.Variable:
    return tf.Variable(lambda: tf.zeros(weight.shape), trainable=False, name=name)


def _variable(value: NDArray[Any], name: str) -> tf.Variable:
    return tf.Variable(lambda: tf.constant(value), trainable=False, name=name)


def export_weights(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Returns the weights (their EMA, where there is one) and statistics of the net, by path, out of `arrays()`."""
    group = "ema" if any(name.startswith("ema/") for name in arrays) else "weights"
    chosen = {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith(f"{group}/")}
    rest = {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith("statistics/")}
    return chosen | rest
