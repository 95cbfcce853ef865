"""Puts the parts of a run together: data, net, state, checkpoint, loop, artefact."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from boceto import __version__
from boceto import run as runs
from boceto.dataset import DataSet
from boceto.errors import DataError, SettingsError
from boceto.telemetry import Telemetry
from trainer import augment, devices, export, layers, loop, nets
from trainer import state as states
from trainer.batches import Ahead, Call, Source, calls
from trainer.checkpoints import Arrays, Checkpoints, Commit, Progress
from trainer.log import Log
from trainer.loop import Plan, Run
from trainer.meter import Meter
from trainer.nets import Spec
from trainer.report import Report, TensorBoard
from trainer.settings import Settings, check_batch, check_same
from trainer.steps import Placed, Steps
from trainer.stop import Stop
from trainer.validation import divide


def spec(settings: Settings, data: DataSet) -> Spec:
    """The net that the settings and the data ask for."""
    manifest = data.manifest
    return Spec(
        classes=len(manifest.classes),
        height=manifest.height,
        image_width=manifest.width,
        width=settings.width,
        embedding=settings.embedding,
        dropout=settings.dropout,
        precision=settings.precision,
        seed=settings.seed,
    )


def run(  # noqa: PLR0913, PLR0917 - what a run is made of
    settings: Settings, data: DataSet, log: Log, telemetry: Telemetry, stop: Stop, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains what is left to train and exports; returns the result."""
    strategy = devices.strategy(settings.replicas)
    on_gpu = devices.gpus() and not settings.replicas
    check_batch(settings.batch_size, strategy.num_replicas_in_sync)
    xla, deterministic = devices.modes(settings.xla, settings.deterministic, gpu=on_gpu)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    split = data.split("train", verify=settings.verify)
    numbers, held = divide(data, split, settings)
    source = Source(split, numbers, settings.seed, settings.batch_size, augment.DRAWS * augment.wanted(settings))
    if not len(source) or (held and not len(held.numbers)):
        raise SettingsError(f"train.validation_share = {settings.validation_share} leaves no record on one side")
    plan = _plan(settings, source)
    checkpoints = Checkpoints(
        settings.run, data.manifest.digest, settings.mathematics, settings.batch_size, settings.keep
    )
    restored = _restored(checkpoints, settings, data, log)
    progress = restored[0].progress if restored else Progress()
    with strategy.scope():
        model = nets.build(settings.net, spec(settings, data))
    state = states.create(strategy, model, settings)
    if restored:
        state.restore(restored[1])
        log.line(f"{settings.run}: goes on after step {progress.step} of {plan.last}", step=progress.step)
    description = {**description, "net": settings.net, "parameters": parameters(model)}
    description["multiply_accumulates"] = layers.multiply_accumulates(model)
    description["replicas"] = strategy.num_replicas_in_sync
    runs.write(settings.run, {**description, "result": None})
    history = runs.History(settings.run)
    history.resume(progress.step)
    telemetry.info({"net": settings.net, "data_digest": data.manifest.digest, "version": __version__})
    report = Report(log, history, TensorBoard(settings.run, settings.tensorboard), telemetry, source, plan.last)
    steps = Steps(state, model, settings, xla=xla)
    log.line(
        f"{settings.net}: {parameters(model):,} parameters, {len(source):,} records, steps {progress.step} to "
        f"{plan.last}, {strategy.num_replicas_in_sync} replicas"
    )

    def read(call: Call) -> Placed:
        return steps.place(source.read(call))

    batches = Ahead(calls(progress.step, plan.last, settings.steps_per_call, plan.ends_call), read, settings.readers)
    meter = Meter(source, progress, lambda: batches.waited)
    try:
        progress = loop.train(Run(plan, steps, state, batches, meter, checkpoints, report, held, stop))
    except tf.errors.ResourceExhaustedError as error:
        raise SettingsError(
            f"train.batch_size = {settings.batch_size} does not fit into the devices' memory; use a smaller one"
        ) from error
    return _export(settings, data, progress, checkpoints, state, log)


def parameters(model: keras.Model) -> int:
    """How many trainable parameters a net has."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def _plan(settings: Settings, source: Source) -> Plan:
    total = source.steps(settings.epochs)
    return Plan(settings, source, total, min(total, settings.max_steps or total))


def _restored(checkpoints: Checkpoints, settings: Settings, data: DataSet, log: Log) -> tuple[Commit, Arrays] | None:
    found = checkpoints.newest(log)
    if found is None:
        return None
    commit = found[0]
    if commit.data_digest != data.manifest.digest:
        raise DataError(
            f"{settings.run} was trained on data with the digest {commit.data_digest}, {settings.data} has "
            f"{data.manifest.digest}; give the old --data, or another --run"
        )
    check_same(commit.settings, settings)
    return found


def _export(  # noqa: PLR0913, PLR0917 - what an artefact is made of
    settings: Settings, data: DataSet, progress: Progress, checkpoints: Checkpoints, state: states.State, log: Log
) -> dict[str, Any]:
    step, arrays = _best(progress, checkpoints, state, log)
    # The artefact computes in float32 on any device, whatever the layers were trained in.
    model = nets.build(settings.net, dataclasses.replace(spec(settings, data), precision="float32", dropout=0.0))
    manifest = data.manifest
    url = export.export(
        settings.run,
        model,
        states.served(arrays),
        {
            "net": settings.net,
            "parameters": parameters(model),
            "classes": manifest.classes,
            "height": manifest.height,
            "width": manifest.width,
            "embedding": settings.embedding,
            "step": step,
            "data_digest": manifest.digest,
            "settings": dataclasses.asdict(settings),
            "images_per_second": progress.images_per_second,
            "boceto": __version__,
        },
    )
    log.line(f"exported step {step} to {url}", step=step)
    return {
        "net": settings.net,
        "parameters": parameters(model),
        "step": progress.step,
        "exported_step": step,
        "train_accuracy": progress.train_accuracy,
        "validation_accuracy": progress.best_accuracy if progress.best_step else None,
        "images_per_second": progress.images_per_second,
        "artefact": url,
        "run": settings.run,
        "data_digest": manifest.digest,
    }


def _best(progress: Progress, checkpoints: Checkpoints, state: states.State, log: Log) -> tuple[int, Arrays]:
    """The step and arrays to export: the best validated ones, or the last."""
    if progress.best_step and progress.best_step != progress.step:
        try:
            return progress.best_step, checkpoints.load(progress.best_step)[1]
        except DataError as error:
            log.alert(f"{error}; the last step is exported instead of the best")
    return progress.step, state.arrays()
