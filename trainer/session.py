"""A session of `boceto train` around the training: checks, the lease, `run.json`. It needs no TensorFlow."""

import contextlib
from collections.abc import Mapping
from typing import Any

from boceto import artefact, checkpoint, dataset, staging, storage, waiting
from boceto import run as runs
from boceto.console import quiet
from boceto.dataset import DataSet
from boceto.errors import BocetoError, DataError, Stopped
from boceto.exposition import serving
from boceto.telemetry import NOT_FINITE, Telemetry
from trainer import attempts, initial
from trainer.checkpoints import NotFinite
from trainer.lease import Lease, held
from trainer.log import Log
from trainer.meter import GoodputTimer, goodput
from trainer.settings import Settings, check_groups, check_patience, check_same
from trainer.stop import Stop


def run(settings: Settings, log: Log, stop: Stop, timer: GoodputTimer) -> Mapping[str, Any]:
    """Trains what is left of the run; returns its result.

    Raises:
        BocetoError: the message says what is wrong and what to do.
    """
    replicas = settings.replicas or 1
    check_groups(settings.batch_size, settings.groups or replicas, replicas, settings.least_group)
    with serving("train", settings.metrics_port, settings.metrics_linger, stop.wait) as telemetry:
        telemetry.serve()
        with stop.at_once():
            data = _data(settings, log, stop)
            storage.check_lasting(settings.run, "train.run")
            runs.check_files(settings.run)
            before = runs.read(settings.run)
            settings = initial.resolved(settings, before)
            if result := _finished(settings, data, before, log):
                return result
            storage.check_writable(settings.run, "train.run")
            artefact.check_own(settings.run)
        with held(settings.run, settings.lease, stop, log.line, timer.seconds) as lease:
            if lease.killed:
                attempts.note_killed(settings.run, lease.killed)
            with stop.at_once(lease.release), quiet():
                from trainer import train  # Here, since TensorFlow takes seconds, and a finished run needs none.

            for name in (runs.DESCRIPTION, runs.HISTORY):
                storage.delete_partials(storage.join(settings.run, name))
            # Read again: another trainer may have held the lease meanwhile.
            description = runs.Description(settings.run, runs.read(settings.run))
            try:
                result = train.run(train.TrainingJob(settings, data, log, telemetry, stop, lease, timer, description))
            except Stopped:
                with contextlib.suppress(Stopped):  # Not where another trainer has taken the run over.
                    _write_goodput(description, lease, timer)
                raise
            except NotFinite:
                telemetry.add(NOT_FINITE)
                raise
            finally:
                _keep_metrics(settings.run, lease, telemetry)
            _write_goodput(description, lease, timer, result=result)
        return result


def _data(settings: Settings, log: Log, stop: Stop) -> DataSet:
    """Waits for the data set and opens it."""

    def show(text: str, *amounts: Any) -> None:
        if stop.requested:
            raise Stopped("stopped before the first step, what was copied is kept; run the same command again")
        log.progress(text, *amounts)

    waiting.until_there(storage.join(settings.data, dataset.MANIFEST), settings.wait, log.waits, stop.pause)
    data = dataset.load(settings.data, staging.cache(settings.cache_dir, "train.cache_dir", show))
    check_patience(settings, data.manifest)
    return data


def _write_goodput(description: runs.Description, lease: Lease, timer: GoodputTimer, **more: Any) -> None:
    """Writes the seconds by activity, over all sessions so far, to `run.json`."""
    lease.confirm()
    seconds = {activity: round(spent, 3) for activity, spent in timer.seconds().items()}
    description.add(seconds=seconds, goodput=round(goodput(seconds), 4), **more)


def _keep_metrics(run: str, lease: Lease, telemetry: Telemetry) -> None:
    """Writes the last metrics beside the run. A failure is ignored."""
    if text := telemetry.text():
        with contextlib.suppress(BocetoError, OSError):
            lease.confirm()
            storage.write_bytes(storage.join(run, runs.METRICS), text)


def _finished(
    settings: Settings, data: DataSet, before: Mapping[str, Any] | None, log: Log
) -> Mapping[str, Any] | None:
    """Returns the result of a run that was finished with these settings and this data, and whose export is whole.

    Raises:
        DataError: these settings do not lead to the result.
        SettingsError: a hyperparameter differs.
    """
    if not before or not before.get("result") or before["data_digest"] != data.manifest.digest:
        return None
    if before["stop_criterion"] != settings.stop_criterion:
        return None
    check_same(before["hyperparameters"], settings)
    _check_result(settings, before)
    url = storage.join(settings.run, artefact.FOLDER)
    try:
        described = artefact.load(settings.run)
        artefact.verify(settings.run, described)
        if other := runs.misfits(before, described):
            raise DataError(other[0])
    except DataError as error:
        log.alert(f"{url} is missing or damaged; it is exported again from the checkpoint: {error}")
        return None
    step = before["result"]["step"]
    if not checkpoint.is_committed(checkpoint.files(settings.run).get(step, [])):
        log.alert(f"{checkpoint.folder_of(settings.run, step)} is gone: the run is finished, and cannot go on")
    log.line(f"{settings.run} is finished: step {step}, exported to {url}")
    return {**before["result"], "run": settings.run, "artefact": url}  # The run may have been moved since.


def _check_result(settings: Settings, before: Mapping[str, Any]) -> None:
    """Compares the last step of a finished run with its settings and its checkpoints.

    Raises:
        DataError: the steps differ.
    """
    total = -(-settings.epochs * before["records"] // settings.batch_size)
    last, step = min(total, settings.max_steps or total), before["result"]["step"]
    committed = [at for at, urls in checkpoint.files(settings.run).items() if checkpoint.is_committed(urls)]
    newest = max(committed, default=0)
    if step < newest or last < step != newest or (step < last and not settings.patience):
        there = f"there is a checkpoint of step {newest}" if step < newest else f"its settings lead to step {last}"
        raise DataError(
            f"{storage.join(settings.run, runs.DESCRIPTION)} says that the run was finished at step {step}, but "
            f"{there}: it was changed, or an older one put back; remove it to go on from the checkpoints, or use "
            "another --run"
        )
