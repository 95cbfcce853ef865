"""Sets up a run (data, net, state, reports), trains it, and exports it."""

import contextlib
import dataclasses
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import tensorflow as tf

from boceto import __version__, checkpoint, storage, telemetry
from boceto import run as runs
from boceto.checkpoint import Commit, Progress
from boceto.dataset import DataSet, Manifest
from boceto.errors import BocetoError
from boceto.lease import Heartbeat
from boceto.telemetry import Telemetry
from boceto.tensors import Arrays
from trainer import augment, cluster, devices, environment, export, initial, layers, losses, nets, report
from trainer import state as states
from trainer.batches import Batches, StepRange, ValidationSet, divide, prefetch, step_ranges
from trainer.checkpoints import Checkpoints, check_fits
from trainer.curves import TensorBoard
from trainer.lease import Lease
from trainer.log import Log
from trainer.loop import ExportChoice, Schedule, TrainingLoop
from trainer.meter import GoodputTimer, Meter, goodput
from trainer.nets import Spec
from trainer.report import BEGUN, Report, Summary
from trainer.saver import Saver, TrainState
from trainer.settings import Settings, check_groups, check_last
from trainer.steps import Placed, Steps
from trainer.stop import Stop

PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-cpu")


@dataclass(frozen=True)
class TrainingJob:
    """The parts that are there before the set-up of a run. The lease is held. description: of `run.json`."""

    settings: Settings
    data: DataSet
    log: Log
    telemetry: Telemetry
    stop: Stop
    lease: Lease
    timer: GoodputTimer
    description: runs.Description


def run(job: TrainingJob) -> dict[str, Any]:
    """Trains what is left to train and exports; returns the result.

    Raises:
        BocetoError: the message says what is wrong and what to do.
    """
    training_set, validation_set = divide(job.data, job.settings, augment.parameters(job.settings))
    with job.timer.spending("restoring"), job.stop.at_once(job.lease.release):
        restored = restore(job)
    strategy, xla, settings = _devices(job, restored)
    job = dataclasses.replace(job, settings=settings)
    total = training_set.steps(settings.epochs)
    schedule = Schedule(settings, training_set, total, min(total, settings.max_steps or total))
    check_last(restored[0].step if restored else 0, schedule.last, settings)

    of_net = spec(settings, job.data.manifest)
    of_width = f"train.width_multiplier = {settings.width_multiplier} and train.embedding = {settings.embedding}"
    with devices.fitting(f"a net of {of_width}"):
        with strategy.scope():
            model = nets.build(settings.net, of_net)
        size = model.output["embedding"].shape[-1]
        loss = losses.find(settings.loss, settings.loss_options, dataclasses.replace(of_net, embedding=size))
        variables = states.create(strategy, model, settings, loss.weights)
    state = TrainState(variables)
    _set_state(job, state, restored)
    progress = state.progress
    history = _describe(job, schedule, model, progress, strategy.num_replicas_in_sync)
    steps = Steps(variables, model, settings, loss, xla=xla)

    def read(each: StepRange) -> tuple[Placed, Sequence[bytes]]:
        batches = training_set.read(each)
        return steps.place(batches), batches.digests

    ranges = step_ranges(progress.step, schedule.last, settings.steps_per_execution, schedule.ends_execution)
    batches = prefetch(ranges, read, settings.readers, lambda: job.timer.spending("waiting"))
    meter = Meter(training_set, state, job.timer)
    saver = Saver(_checkpoints(job), state, job.log, job.telemetry, settings.max_failed_saves)
    job.lease.heartbeat = lambda: Heartbeat(
        meter.progress.step, job.timer.seconds(), job.lease.before.sessions + 1, saver.saved
    )
    summary = Summary()
    board = TensorBoard(
        settings.run, progress, job.log.alert, hyperparameters=settings.hyperparameters, wanted=settings.tensorboard
    )
    writers: list[report.Writer] = [
        report.history(history),
        board,
        report.Metrics(job.telemetry, devices.memory),
        report.console(job.log),
        summary,
    ]
    reports = Report(writers, training_set, schedule.last)
    reports.write(BEGUN, progress.step)
    validation = functools.partial(validate, steps, validation_set, job) if validation_set else None
    loop = TrainingLoop(schedule, steps, batches, meter, saver, reports, history, job.log, validation, job.stop)

    def annotations() -> dict[str, str]:
        share, saved = goodput(job.timer.seconds()), f"step {saver.saved}" if saver.saved else "none"
        return {"progress": summary.text, "checkpoint": saved, "goodput": f"{share:.2f}"}

    with cluster.reporting(environment.pod(), annotations, job.log.alert):
        with contextlib.closing(saver), contextlib.closing(batches):
            progress = loop.run()
        chosen = loop.choose(lambda step: checkpoint.load(settings.run, step)[1], variables.arrays)
        reports.finished(progress, chosen.step, chosen.accuracy)
    job.timer.begin("saving")
    job.lease.confirm()
    return _export(job, chosen, progress)


def validate(steps: Steps, validation_set: ValidationSet, job: TrainingJob) -> tuple[float, float] | None:
    """Returns mean cross entropy and accuracy 0..1 over the validation set; None where a stop cut it off."""
    size, count = job.settings.batch_size, len(validation_set.numbers)

    def read(batch: StepRange) -> Placed:
        # The last batch is filled up with records that have no sample weight.
        records = validation_set.numbers[np.minimum(np.arange(batch.first * size, batch.last * size), count - 1)]
        images, labels = validation_set.split.images(records), validation_set.split.labels[records].astype(np.int64)
        return steps.place(Batches(images[None], labels[None], np.zeros((1, size, 0), np.float32)))

    sums = np.zeros(2)
    for batch, placed in prefetch(step_ranges(0, -(-count // size), 1), read, job.settings.readers):
        if job.stop.requested:
            return None
        job.log.progress("validation", batch.first * size, count, "records")
        # On the host and in the order of the records: a sum over replicas would depend on their number.
        sample_weights = np.arange(size) < count - batch.first * size
        sums += [values[sample_weights].sum() for values in steps.evaluate(placed)]
    loss, accuracy = (sums / count).tolist()
    return loss, accuracy


def spec(settings: Settings, manifest: Manifest) -> Spec:
    """Returns the description of the net for the settings and the data."""
    return Spec(
        classes=len(manifest.classes),
        height=manifest.height,
        width=manifest.width,
        image_channels=manifest.channels,
        width_multiplier=settings.width_multiplier,
        embedding=settings.embedding,
        dropout=settings.dropout,
        precision=settings.precision,
        seed=settings.seed,
    )


def _checkpoints(job: TrainingJob) -> Checkpoints:
    """Returns the checkpoints of the run."""
    settings = job.settings
    return Checkpoints(
        settings.run,
        job.data.manifest.digest,
        settings.hyperparameters,
        settings.batch_size,
        settings.keep,
        settings.keep_every,
        job.lease.confirm,
        lambda steps: job.description.add(checkpoints=steps),
        job.log.alert,
    )


def restore(job: TrainingJob) -> tuple[Commit, Arrays] | None:
    """Returns the newest whole checkpoint of the run; None for a new run.

    Raises:
        DataError: there are checkpoints, and none is whole; or they are of other data.
        SettingsError: a hyperparameter differs.
    """
    found = _checkpoints(job).newest(job.log)
    if found:
        check_fits(found[0], job.data.manifest.digest, job.settings)
        if not job.description.begun:
            path = storage.join(job.settings.run, runs.DESCRIPTION)
            job.log.alert(f"{path} is missing: it is written anew, for a run that goes on from its checkpoints")
    return found


def _devices(
    job: TrainingJob, restored: tuple[Commit, Arrays] | None
) -> tuple[tf.distribute.MirroredStrategy, bool, Settings]:
    """-> (the strategy, whether to compile with XLA, the settings with the number of groups)."""
    settings = job.settings
    groups = settings.groups or (restored[0].settings.get("groups", 0) if restored else 0)
    strategy = devices.strategy(settings.replicas, groups, job.log.alert)
    groups = groups or strategy.num_replicas_in_sync
    check_groups(settings.batch_size, groups, strategy.num_replicas_in_sync, settings.least_group)
    gpu = devices.gpus() and not settings.replicas
    xla, deterministic = devices.modes(settings.xla, settings.deterministic, gpu=gpu)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return strategy, xla, dataclasses.replace(settings, groups=groups)


def _set_state(job: TrainingJob, state: TrainState, restored: tuple[Commit, Arrays] | None) -> None:
    """Sets the state and the goodput timer from the checkpoint, or the weights of a new run from `--init`."""
    if restored:
        with job.timer.spending("restoring"):
            state.restore(*restored)
    elif job.settings.init:
        state.variables.restore(initial.start(job.settings, state.variables.buffers(), job.log.line))
    progress, last = state.progress, job.lease.before
    job.timer.restore(progress.seconds, last.seconds, redone=last.step != progress.step)
    job.telemetry.set(telemetry.SESSIONS, last.sessions + 1)
    job.telemetry.add(telemetry.STEPS_LOST, max(0, last.step - progress.step))


def describe(settings: Settings, data: DataSet) -> dict[str, Any]:
    """Returns the first content of `run.json`."""
    versions = {"boceto": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "settings": dataclasses.asdict(settings),
        "hyperparameters": settings.hyperparameters,
        "stop_criterion": settings.stop_criterion,
        "data_digest": data.manifest.digest,
        "versions": versions,
        "result": None,
    }


def _describe(job: TrainingJob, schedule: Schedule, model: Any, progress: Progress, replicas: int) -> runs.History:
    """Reports net, data and devices, writes `run.json`, and opens the history."""
    settings, records, parameters = job.settings, len(schedule.training_set), layers.parameters(model)
    entry = describe(settings, job.data) | {
        "parameters": parameters,
        "multiply_accumulates": layers.multiply_accumulates(model),
        "records": records,
        "replicas": replicas,
    }
    job.description.begin(entry, progress.step)
    history = runs.History(settings.run, alert=job.log.alert, confirm=job.lease.confirm)
    history.resume(progress)
    job.telemetry.set(telemetry.RUN, 1, net=settings.net, data=telemetry.short(job.data.manifest.digest))
    job.telemetry.set(telemetry.REPLICAS, replicas)
    job.telemetry.set(telemetry.STEP, progress.step)
    if progress.best_step:
        job.telemetry.set(telemetry.BEST_STEP, progress.best_step)
    job.telemetry.set(telemetry.LAST_STEP, schedule.last)
    job.telemetry.now(telemetry.PROGRESSED)
    if progress.step:
        text = f"goes on after step {progress.step} of {schedule.last}, ledger {progress.ledger}"
        job.log.line(f"{settings.run}: {text}", step=progress.step)
    job.log.line(
        f"{settings.net}: {parameters:,} parameters, {records:,} records, "
        f"steps {progress.step} to {schedule.last}, {replicas} replica{'' if replicas == 1 else 's'}"
    )
    return history


def _export(job: TrainingJob, chosen: ExportChoice, progress: Progress) -> dict[str, Any]:
    """Writes the artefact of the chosen step; returns the result of the run."""
    settings, manifest = job.settings, job.data.manifest
    # The artefact computes in float32 on any device, whatever the precision of the training was.
    model = nets.build(settings.net, dataclasses.replace(spec(settings, manifest), precision="float32", dropout=0.0))
    both = {
        "net": settings.net,
        "parameters": layers.parameters(model),
        "data_digest": manifest.digest,
        "images_per_second": progress.images_per_second,
    }
    description = both | {
        "classes": manifest.classes,
        "height": manifest.height,
        "width": manifest.width,
        "channels": manifest.channels,
        "embedding": model.output["embedding"].shape[-1],
        "step": chosen.step,
        "settings": dataclasses.asdict(settings),
        "boceto": __version__,
        "data_options": manifest.options,
    }
    try:
        url = export.export(settings.run, model, states.export_weights(chosen.arrays), description)
    except tf.errors.OpError as error:
        why = devices.message(error)
        raise BocetoError(f"fault: the export to {settings.run} failed: {why}; run the same command again") from error
    job.log.line(f"exported step {chosen.step} to {url}", step=chosen.step)
    job.telemetry.set(telemetry.EXPORTED_STEP, chosen.step)
    return both | {
        "step": progress.step,
        "exported_step": chosen.step,
        "train_accuracy": progress.train_accuracy,
        "validation_accuracy": chosen.accuracy,
        "ledger": progress.ledger,
        "artefact": url,
        "run": settings.run,
    }
