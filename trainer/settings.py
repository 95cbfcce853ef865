"""The settings of `boceto train`. The defaults are the assignment's recipe."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boceto import staging, telemetry, waiting
from boceto.dataset import Manifest
from boceto.errors import SettingsError
from boceto.settings import fixed, option
from trainer import losses, nets

# These may differ between the sessions of a run: no step computes with them.
FREE = frozenset({
    "data", "run", "init", "cache_dir", "epochs", "max_steps", "replicas", "xla", "deterministic",
    "steps_per_execution", "validate_every", "patience", "save_every", "keep", "keep_every", "max_failed_saves",
    "grace", "lease", "log_every", "log_format", "metrics_port", "metrics_linger", "tensorboard", "readers", "verify",
    "wait",
})  # fmt: skip
# These decide when a run is finished.
STOP_CRITERION = ("epochs", "max_steps", "patience")


@dataclass(frozen=True)
class Settings:
    """One run of the trainer."""

    data: str = option(help="folder of the data set")
    run: str = option(help="folder of the run; the same command run again goes on where it stopped")
    cache_dir: str = option(staging.DEFAULT, help="folder for copies of data in object storage")
    init: str = option(
        "", help="folder of a run or of an artefact, whose weights a new run starts from; empty: from random weights"
    )
    init_digest: str = fixed("")  # Over the weights of `init`.
    net: str = option("sknet", help="net", choices=nets.names())
    width_multiplier: float = option(1.0, help="multiplier of the conv channels", at_least=0.01, at_most=16)
    embedding: int = option(0, help="size of the embedding; 0: the net's own", at_least=0, at_most=10**12)
    dropout: float = option(0.0, help="dropout rate of the embedding in training, 0..0.95", at_least=0, at_most=0.95)
    epochs: int = option(30, help="passes over the training records; a run goes on when it is raised", at_least=1)
    batch_size: int = option(256, help="records a step, over all replicas", at_least=1, at_most=2**20)
    groups: int = option(
        0,
        help="groups of a batch, each with its own statistics, a power of two that the replicas divide; 0: as the run "
        "began, at first the number of replicas",
        at_least=0,
        at_most=64,
    )
    seed: int = option(0, help="seed of weights, order, augmentation and dropout", at_least=0, at_most=2**31 - 1)
    optimizer: str = option("adam", help="optimizer", choices=("adam", "adamw", "sgd"))
    learning_rate: float = option(1e-3, help="highest learning rate", at_least=0)
    momentum: float = option(0.9, help="Nesterov momentum of sgd", at_least=0, at_most=0.9999)
    weight_decay: float = option(
        0.0, help="decoupled decay of all weights but vectors and biases, times the learning rate", at_least=0
    )
    schedule: str = option("constant", help="learning rate after the warm-up", choices=("constant", "cosine"))
    warmup_steps: int = option(0, help="steps of linear warm-up", at_least=0)
    loss: str = option("cross_entropy", help="loss", choices=losses.names())
    loss_options: str = option("", help="settings of the loss, as name=value, name=value", listed=True)
    clip_norm: float = option(0.0, help="highest global norm of the gradients; 0: no clipping", at_least=0)
    ema: float = option(0.0, help="decay of the weights' moving average; 0: none", at_least=0, at_most=0.99999)
    precision: str = option("float32", help="precision of the layers", choices=("float32", "bfloat16", "float16"))
    augment: str = option(
        "none",
        help="stroke: draw each drawing anew in each epoch, with other line width, strokes moved, bent and dropped",
        choices=("none", "stroke"),
    )
    augment_strength: float = option(0.5, help="multiplies the ranges of --augment stroke", at_least=0, at_most=3)
    flip: bool = option(False, help="augmentation: mirror half of the drawings")
    rotation: float = option(0.0, help="augmentation: rotation of up to this many degrees", at_least=0, at_most=180)
    shift: float = option(0.0, help="augmentation: shift of up to this share of the image", at_least=0, at_most=0.5)
    scale: float = option(0.0, help="augmentation: scaling of up to this share", at_least=0, at_most=0.9)
    erase: float = option(
        0.0, help="augmentation: share of the drawings of which a rectangle is erased", at_least=0, at_most=1
    )
    mixup: float = option(0.0, help="augmentation: alpha of mixup, as 0.2; 0: off", at_least=0, at_most=100)
    cutmix: float = option(0.0, help="augmentation: alpha of CutMix, as 1; 0: off", at_least=0, at_most=100)
    validation_share: float = option(
        0.0,
        help="share of training kept for validation; 0: the validation split, where there is one",
        at_least=0,
        at_most=0.9,
    )
    validate_every: int = option(1, help="epochs between validations; 0: never", at_least=0)
    patience: int = option(0, help="validations without a better one before stopping; 0: no limit", at_least=0)
    replicas: int = option(0, help="logical CPU devices; 0: every GPU, or one CPU device", at_least=0, at_most=64)
    xla: str = option("auto", help="compile with XLA; auto: on GPUs", choices=("auto", "on", "off"))
    deterministic: str = option("auto", help="bit-exact operations; auto: on CPU", choices=("auto", "on", "off"))
    steps_per_execution: int = option(1, help="steps a call of the compiled function", at_least=1)
    readers: int = option(2, help="threads that read and decode", at_least=1, at_most=256)
    verify: bool = option(
        False, help="check every byte of the data set before training, not only each record when it is read"
    )
    save_every: int = option(0, help="steps between checkpoints; 0: at the end of each epoch", at_least=0)
    keep: int = option(3, help="newest checkpoints kept, besides the best", at_least=1)
    keep_every: int = option(0, help="checkpoints of steps that are multiples of this stay too; 0: none", at_least=0)
    max_failed_saves: int = option(3, help="saves in a row that may fail before the run ends", at_least=1)
    grace: float = option(25.0, help="seconds from SIGTERM to the end, saved or not", at_least=1, at_most=1e6)
    lease: float = option(
        20.0, help="seconds until another trainer may take over from a silent one", at_least=1, at_most=3600
    )
    max_steps: int = option(0, help="stop after this many steps in all; 0: all epochs", at_least=0)
    log_every: int = option(50, help="steps between log points", at_least=1)
    log_format: str = option("text", help="form of the log on standard error", choices=("text", "json"))
    wait: float = option(0.0, help=waiting.option_help("a data set"), at_least=0)
    metrics_port: int = telemetry.port_option()
    metrics_linger: float | None = telemetry.linger_option()
    tensorboard: bool = option(True, help="write TensorBoard events, where tensorboard is installed")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The settings that a step computes with. A cosine schedule ends with the last epoch, so it needs `epochs`."""
        free = FREE - {"epochs"} if self.schedule == "cosine" else FREE
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in free}

    @property
    def least_group(self) -> int:
        """The fewest records of a group: mixup and CutMix mix a record with another one of its group."""
        return 2 if self.mixup or self.cutmix else 1

    @property
    def stop_criterion(self) -> dict[str, Any]:
        """The settings that decide when the run is finished."""
        return {name: getattr(self, name) for name in STOP_CRITERION}


def check_same(before: Mapping[str, Any], settings: Settings) -> None:
    """Compares the hyperparameters that the run was trained with, as they were saved, with the settings.

    A hyperparameter that is younger than the run was trained with its default.

    Raises:
        SettingsError: a hyperparameter differs.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, value in settings.hyperparameters.items():
        old = before.get(name, defaults[name])
        if old == value or (name == "groups" and not value):  # Without --groups, the run keeps its groups.
            continue
        if name == "init_digest":
            raise SettingsError(
                f"train.init = {settings.init!r}: {settings.run} has started from other weights; give the old --init, "
                "or another --run"
            )
        why = " and the cosine schedule depends on it" if name == "epochs" else ""
        raise SettingsError(
            f"train.{name} = {value!r}, but {settings.run} was trained with {old!r}{why}; give the old value, or "
            "another --run"
        )


def check_patience(settings: Settings, manifest: Manifest) -> None:
    """Refuses `patience` in a run without validations.

    Raises:
        SettingsError: it has patience, and no validation.
    """
    validation = manifest.splits.get("validation")
    if not settings.patience or (settings.validate_every and settings.validation_share):
        return
    if not settings.validate_every or not validation or not validation.records:
        why = "nothing is held for validation" if settings.validate_every else "train.validate_every = 0"
        raise SettingsError(
            f"train.patience = {settings.patience} can never act: {why}; use --validation-share 0.1 and "
            "--validate-every 1, or --patience 0"
        )


def check_last(step: int, last: int, settings: Settings) -> None:
    """Refuses settings that end the run with step `last`, before the step that it has come to.

    Raises:
        SettingsError: `last` is before `step`.
    """
    if step > last:
        flag, value = ("max_steps", last) if settings.max_steps == last else ("epochs", settings.epochs)
        raise SettingsError(
            f"train.{flag} = {value} ends with step {last}, and {settings.run} has come to step {step}; use a larger "
            "one, or another --run"
        )


def check_groups(batch_size: int, groups: int, replicas: int, least: int = 1) -> None:
    """Checks that a batch divides over the groups, the groups over the replicas, and a group has `least` records.

    Raises:
        SettingsError: one of them does not divide, or a group is too small; the message names numbers that do.
    """
    for name, number in (("replicas", replicas), ("groups", groups)):
        if number & (number - 1):
            below = 1 << (number.bit_length() - 1)
            raise SettingsError(f"train.{name} = {number} is no power of two; use {below} or {2 * below}")
    if groups % replicas:
        raise SettingsError(
            f"train.groups = {groups} do not divide over {replicas} replicas; use --replicas {groups} or fewer"
        )
    if batch_size % groups:
        below = batch_size // groups * groups
        sizes = f"{below} or {below + groups}" if below else str(groups)
        raise SettingsError(f"train.batch_size = {batch_size} does not divide over {groups} groups; use {sizes}")
    if batch_size < least * groups:
        raise SettingsError(
            f"train.batch_size = {batch_size} leaves one record in each of {groups} groups, and train.mixup and "
            f"train.cutmix need {least}; use {least * groups} or more"
        )
