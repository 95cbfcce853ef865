"""One evaluation: the net over the splits, their scores, the ranking of the test drawings, and the files it writes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import __version__, artefact, contract, dataset, staging, storage, telemetry, waiting
from boceto import run as runs
from boceto.console import Console
from boceto.dataset import DataSet, Split
from boceto.errors import DataError, SettingsError
from boceto.exposition import serving
from boceto.holdout import held_out
from boceto.telemetry import Telemetry
from eval_jobs import metrics, model, neighbours, report, retrieval
from eval_jobs.means import Bootstrap
from eval_jobs.model import Model
from eval_jobs.predictions import Predictions
from eval_jobs.retrieval import Rankings
from eval_jobs.settings import Settings

FORMAT = "boceto-scores"
VERSION = 2
FOLDER = "eval"
SCORES = "scores.json"
REPORT = "report.txt"
PICTURE = "neighbours.png"


@dataclass(frozen=True)
class Job:
    """What the steps of an evaluation share."""

    settings: Settings
    data: DataSet
    net: Model
    bootstrap: Bootstrap
    console: Console
    telemetry: Telemetry


def run(settings: Settings, console: Console) -> dict[str, Any]:
    """Evaluates the run's export on the data set; writes scores, report and picture; returns what `--json` prints.

    Raises:
        DataError: the data set, the artefact or the net's outputs are damaged, or do not belong together.
        SettingsError: the data set has no drawings to score, or the run's folder cannot be written.
    """
    for url in (storage.join(settings.data, dataset.MANIFEST), artefact.path(settings.run)):
        waiting.until_there(url, settings.wait, console.progress)
    data = dataset.load(settings.data, staging.cache(settings.cache_dir, "eval.cache_dir", console.progress))
    description = artefact.load(settings.run)
    if other := runs.misfits(runs.read(settings.run) or {}, description):
        raise DataError(f"{settings.run}: {other[0]}; export it again with `boceto train --run {settings.run}`")
    same = model.check_data(description, data.manifest, allow_other_data=settings.allow_other_data)
    if not same:
        console.warning(f"the net was trained with another data set, {description.data_digest}; the scores say so")
    storage.check_writable(storage.join(settings.run, FOLDER, data.manifest.digest), "eval.run")  # Not at the end.
    with serving("eval", settings.metrics_port, settings.metrics_linger) as tell:
        tell.serve()
        return _evaluate(settings, data, description, console, tell, same=same)


def _evaluate(  # noqa: PLR0913 - what an evaluation is made of
    settings: Settings,
    data: DataSet,
    description: artefact.Artefact,
    console: Console,
    tell: Telemetry,
    *,
    same: bool,
) -> dict[str, Any]:
    chosen = _chosen(settings, data, description, console)
    net = model.load(settings.run, description)
    job = Job(settings, data, net, Bootstrap(settings.bootstrap, settings.seed), console, tell)
    splits: dict[str, Any] = {}
    retrieved: dict[str, Any] = {"queries": 0, "classes_without_query": [], "rankings": {}}
    picture = None
    for name, (split, numbers) in chosen.items():
        splits[name], embeddings = _classify(job, name, split, numbers)
        if name == "test":
            retrieved, picture = _retrieve(job, embeddings, split.labels), _picture(job, split, embeddings)
    scores = _header(job, same=same) | {"splits": splits, "retrieval": retrieved}
    folder = storage.join(settings.run, FOLDER, data.manifest.digest)
    _write(folder, scores, picture)
    _tell(job, scores)
    console.line(report.summary(scores))
    return _result(scores, folder, net)


def _chosen(
    settings: Settings, data: DataSet, description: artefact.Artefact, console: Console
) -> dict[str, tuple[Split, NDArray[np.int64]]]:
    """The records to score, by the name they are scored under: int64[N] of a split of the data set.

    Raises:
        SettingsError: the data set has none of them, or no test split though that is to be scored.
    """
    found: dict[str, tuple[Split, NDArray[np.int64]]] = {}
    for name in settings.each_split:
        share = description.settings.get("validation_share", 0.0) if name == "validation" else 0.0
        of_train = share and description.data_digest == data.manifest.digest
        of = "train" if of_train else name
        info = data.manifest.splits.get(of)
        if name != "test" and (not info or not info.records):
            console.warning(f"{settings.data} has no drawings for {name}: it is not scored")
            continue
        opened = found.get(of)  # Validation may be a part of train.
        split = opened[0] if opened else data.split(of)
        numbers = np.arange(len(split))
        wanted = settings.train_records
        if of_train:
            numbers = np.flatnonzero(held_out(description.settings["seed"], share, split.keys(numbers.tolist())))
        elif name == "train" and 0 < wanted < len(split):
            numbers = np.sort(np.random.default_rng([settings.seed, wanted]).choice(numbers, wanted, replace=False))
        found[name] = split, numbers
    if not found:
        raise SettingsError(f"eval.splits = {settings.splits}: none of them has drawings; choose others")
    return found


def _tell(job: Job, scores: Mapping[str, Any]) -> None:
    """Tells Prometheus the scores."""
    labels = {"net": job.net.description.net, "data": telemetry.short(job.data.manifest.digest)}
    for split, found in scores["splits"].items():
        job.telemetry.set(telemetry.EVAL_ACCURACY, found["accuracy"]["value"], split=split, **labels)
    for distance, found in scores["retrieval"]["rankings"].items():
        job.telemetry.set(telemetry.MAP, found["mean_average_precision"]["value"], distance=distance, **labels)


def _classify(
    job: Job, name: str, split: Split, numbers: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The classification scores of these records, and of test their embeddings float32[N, D]."""
    chosen = metrics.reading(Predictions)
    states = {each: metric.empty(len(job.data.manifest.classes)) for each, metric in chosen.items()}
    embeddings = np.empty((len(numbers) if name == "test" else 0, job.net.description.embedding), np.float32)
    done = 0
    for part, logits, embedding in model.batches(job.net, split, numbers, job.settings.batch_size):
        batch = Predictions(split.labels[part], logits)
        states = {each: metric.add(states[each], batch) for each, metric in chosen.items()}
        if len(embeddings):
            embeddings[done : done + len(part)] = embedding
        done += len(part)
        job.telemetry.add(telemetry.CLASSIFIED, len(part), split=name)
        job.console.progress(f"scoring {name}", done, len(numbers), "drawings")
    scores = {each: metric.value(states[each], job.bootstrap) for each, metric in chosen.items()}
    return {"drawings": len(numbers), "of": len(split)} | scores, embeddings


def _retrieve(job: Job, embeddings: NDArray[np.float32], labels: NDArray[np.int32]) -> dict[str, Any]:
    """The retrieval scores of the test drawings, a row a distance."""
    classes = job.data.manifest.classes
    counts = np.bincount(labels, minlength=len(classes))
    rankings = {}
    for distance, definition in retrieval.DISTANCES.items():
        job.console.progress(f"ranking {len(labels)} drawings by {distance}")
        rankings[distance] = {"distance": definition} | _rank(job, embeddings, labels, distance)
    return {
        "queries": int(counts[counts > 1].sum()),
        "classes_without_query": [name for name, count in zip(classes, counts, strict=True) if count == 1],
        "rankings": rankings,
    }


def _rank(job: Job, embeddings: NDArray[np.float32], labels: NDArray[np.int32], distance: str) -> dict[str, Any]:
    chosen = metrics.reading(Rankings)
    states = {name: metric.empty(len(job.data.manifest.classes)) for name, metric in chosen.items()}
    for batch in retrieval.rankings(embeddings, labels, distance):
        states = {name: metric.add(states[name], batch) for name, metric in chosen.items()}
    return {name: metric.value(states[name], job.bootstrap) for name, metric in chosen.items()}


def _header(job: Job, *, same: bool) -> dict[str, Any]:
    """What was measured, with what, and what the scores mean."""
    manifest, description = job.data.manifest, job.net.description
    definitions = {name: metric.definition for name, metric in metrics.find().items()}
    return {
        "format": FORMAT,
        "version": VERSION,
        "boceto": __version__,
        "settings": dataclasses.asdict(job.settings),
        "data": {"digest": manifest.digest, "height": manifest.height, "width": manifest.width},
        "artefact": dataclasses.asdict(description),
        "trained_with_this_data": same,
        "classes": manifest.classes,
        "definitions": definitions | {"interval": job.bootstrap.definition},
    }


def _picture(job: Job, test: Split, embeddings: NDArray[np.float32]) -> bytes:
    rows = []
    for query in neighbours.choose(test.labels, job.settings.picture_queries, job.settings.seed):
        near = neighbours.nearest(retrieval.distances(embeddings, query), test.labels, query)
        shown = np.concatenate([[query], near])
        images = test.images(shown)[..., 0]
        hits = [None, *(test.labels[near] == test.labels[query]).tolist()]
        names = [job.data.manifest.classes[label] for label in test.labels[shown]]
        rows.append([neighbours.Tile(*parts) for parts in zip(images, names, hits, strict=True)])
    return neighbours.draw(rows)


def _write(folder: str, scores: Mapping[str, Any], picture: bytes | None) -> None:
    """Writes the scores last, sealed over the checksums of the other files: where they stand, the rest stands."""
    beside = {REPORT: report.full(scores).encode()}
    if picture is None:
        storage.delete(storage.join(folder, PICTURE))  # Of an earlier evaluation.
    else:
        beside[PICTURE] = picture
    for name, data in beside.items():
        storage.write_bytes(storage.join(folder, name), data)
    files = {name: storage.crc32c(data) for name, data in beside.items()}
    storage.write_bytes(storage.join(folder, SCORES), contract.sealed({**scores, "files": files}))


def _result(scores: Mapping[str, Any], folder: str, net: Model) -> dict[str, Any]:
    """What `--json` prints; null where it was not scored."""
    splits, ranking = scores["splits"], scores["retrieval"]["rankings"].get("l2")

    def value(split: str, name: str) -> float | None:
        found: float | None = splits[split][name]["value"] if split in splits else None
        return found

    return {
        "net": net.description.net,
        "parameters": net.description.parameters,
        "train_accuracy": value("train", "accuracy"),
        "validation_accuracy": value("validation", "accuracy"),
        "test_accuracy": value("test", "accuracy"),
        "top5": value("test", "top_5"),
        "map": ranking["mean_average_precision"]["value"] if ranking else None,
        "images_per_second": net.clock.rate,
        "trained_with_this_data": scores["trained_with_this_data"],
        "scores": storage.join(folder, SCORES),
        "report": storage.join(folder, REPORT),
        "picture": storage.join(folder, PICTURE) if ranking else None,
    }
