"""The devices of a run: all GPUs, or one CPU device where there is none, or a number of logical CPU devices."""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from boceto.errors import SettingsError


def gpus() -> bool:
    """Returns whether this machine has a GPU that TensorFlow can use."""
    return bool(tf.config.list_physical_devices("GPU"))


def memory() -> dict[str, dict[str, int]]:
    """Returns the bytes in use by GPU, `current` and `peak`."""
    names = [f"GPU:{number}" for number in range(len(tf.config.list_logical_devices("GPU")))]
    return {name: tf.config.experimental.get_memory_info(name) for name in names}


def strategy(
    replicas: int, groups: int = 0, alert: Callable[[str], None] = lambda _: None
) -> tf.distribute.MirroredStrategy:
    """Returns a strategy with `replicas` on logical CPU devices; for 0, with one a GPU, or one on the CPU without GPUs.

    The number of GPUs in use is a power of two, and at most `groups` where that is not 0; others are left idle, and
    reported to `alert`.

    Raises:
        SettingsError: TensorFlow was already started in this process with fewer devices.
    """
    if not replicas and (found := tf.config.list_logical_devices("GPU")):
        used = 1 << (min(len(found), groups or len(found)).bit_length() - 1)
        if used < len(found):
            why = f"the run has {groups} groups" if used == groups else "a run uses 1, 2, 4, ... of them"
            alert(f"{used} of {len(found)} GPUs are used: {why}")
        return tf.distribute.MirroredStrategy([device.name for device in found[:used]])
    replicas = replicas or 1
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ("CPU:0",)) < replicas:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
        except RuntimeError as error:
            raise SettingsError(f"train.replicas = {replicas}: TensorFlow already runs with fewer devices") from error
    # On CPUs, sums are made in one place: two strategies in one process would clash in TensorFlow's collectives.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)], reduction)


def modes(xla: str, deterministic: str, *, gpu: bool) -> tuple[bool, bool]:
    """`on`, `off` or `auto` for each -> (whether to compile with XLA, whether operations must be bit-exact).

    Raises:
        SettingsError: both are on, and XLA has no deterministic gradient of max pooling.
    """
    if xla == deterministic == "on":
        raise SettingsError("train.xla = 'on' and train.deterministic = 'on' exclude each other; leave one at 'auto'")
    compiled = xla == "on" or (xla == "auto" and gpu and deterministic != "on")
    return compiled, deterministic == "on" or (deterministic == "auto" and not gpu and not compiled)


def message(error: tf.errors.OpError) -> str:
    """Returns the first line of the message of an error of TensorFlow, without the node of the graph."""
    return str(error.message).rpartition("}} ")[2].partition("\n")[0]


@contextlib.contextmanager
def fitting(what: str) -> Iterator[None]:
    """Turns a lack of device memory in the block into an error whose subject is `what`.

    Raises:
        SettingsError: the devices have too little memory.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise SettingsError(f"{what} does not fit into the devices' memory; use a smaller one") from error
