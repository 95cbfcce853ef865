"""One evaluation: runs the net over the splits, computes the scores, and writes them with a report and a picture."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import __version__, artefact, contract, dataset, staging, storage, telemetry, waiting
from boceto.artefact import Artefact
from boceto.console import Console
from boceto.dataset import DataSet, Split
from boceto.errors import SettingsError
from boceto.exposition import serving
from boceto.holdout import held_out
from boceto.telemetry import Telemetry
from eval_jobs import metrics, model, neighbours, report, retrieval
from eval_jobs.means import Bootstrap
from eval_jobs.model import Model, Predictions
from eval_jobs.retrieval import Rankings
from eval_jobs.settings import Settings

FORMAT = "boceto-scores"
VERSION = 2
FOLDER = "eval"
SCORES = "scores.json"
REPORT = "report.txt"
PICTURE = "neighbours.png"
RANKED = ("test", "validation")  # The first of them that is scored is ranked, too.


@dataclass(frozen=True)
class Sample:
    """The records that one score is about: `numbers` int64[N] of a split, chosen among `available` records."""

    split: Split
    numbers: NDArray[np.int64]
    available: int

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32[N], the classes of the records."""
        return self.split.labels[self.numbers]


@dataclass(frozen=True)
class Evaluation:
    """What the steps of an evaluation share."""

    settings: Settings
    data: DataSet
    net: Model
    bootstrap: Bootstrap
    console: Console
    telemetry: Telemetry


def run(settings: Settings, console: Console) -> dict[str, Any]:
    """Evaluates the run's export on the data set; writes scores, report and picture; returns the result for `--json`.

    Raises:
        DataError: the data set, the artefact or the net's outputs are damaged, or do not belong together.
        SettingsError: the data set has no drawings to score, or the run's folder cannot be written.
    """
    for url in (storage.join(settings.data, dataset.MANIFEST), artefact.path(settings.run)):
        waiting.until_there(url, settings.wait, console.progress)
    data = dataset.load(settings.data, staging.cache(settings.cache_dir, "eval.cache_dir", console.progress))
    description = model.described(settings.run)
    same = model.check_data(description, data.manifest, allow_other_data=settings.allow_other_data)
    if not same:
        console.warning(f"the net was trained with another data set, {description.data_digest}; the scores say so")
    folder = storage.join(settings.run, FOLDER, data.manifest.digest)
    storage.check_writable(folder, "eval.run")  # Before the work, not after it.
    with serving("eval", settings.metrics_port, settings.metrics_linger) as registry:
        registry.serve()
        samples = _choose(settings, data, description, console)
        net = model.load(settings.run, description, flip=settings.flip)
        evaluation = Evaluation(settings, data, net, Bootstrap(settings.bootstrap, settings.seed), console, registry)
        scores, picture = _score(evaluation, samples)
        _write(folder, scores, picture)
        _export(evaluation, scores)
    console.line(report.summary(scores))
    return _result(scores, folder, net)


def _choose(settings: Settings, data: DataSet, description: Artefact, console: Console) -> dict[str, Sample]:
    """Returns the records to score, by the name of their score.

    A run with a validation share has held out a part of the training split: that part is its validation set, and
    "train" are the other records. On a data set that the run was not trained with, the splits are the data set's own.

    Raises:
        SettingsError: the data set has none of them, or no test split though that is to be scored.
    """
    found: dict[str, Sample] = {}
    splits: dict[str, Split] = {}
    same = description.data_digest == data.manifest.digest
    share = description.settings.get("validation_share", 0.0) if same else 0.0
    for name in settings.each_split:
        of = "train" if share and name == "validation" else name
        info = data.manifest.splits.get(of)
        if of not in splits and (name == "test" or (info and info.records)):
            splits[of] = data.split(of, verify=settings.verify)
        numbers = np.arange(len(splits[of]) if of in splits else 0)
        if share and of == "train" and len(numbers):
            held = held_out(description.settings["seed"], share, splits[of].keys(numbers.tolist()))
            numbers = np.flatnonzero(held if name == "validation" else ~held)
        available, wanted = len(numbers), settings.train_records
        if not available:
            console.warning(f"{settings.data} has no drawings for {name}: it is not scored")
            continue
        if name == "train" and 0 < wanted < available:
            numbers = np.sort(np.random.default_rng([settings.seed, wanted]).choice(numbers, wanted, replace=False))
        found[name] = Sample(splits[of], numbers, available)
    if not found:
        raise SettingsError(f"eval.splits = {settings.splits}: none of them has drawings; choose others")
    return found


def _score(evaluation: Evaluation, samples: Mapping[str, Sample]) -> tuple[dict[str, Any], bytes | None]:
    """Returns the scores, and the picture where the test split is scored."""
    manifest, net = evaluation.data.manifest, evaluation.net.description
    definitions = {name: metric.definition for name, metric in metrics.find().items()}
    splits: dict[str, Any] = {}
    ranked = next((name for name in RANKED if name in samples), "")
    retrieved: dict[str, Any] = {"split": ranked, "queries": 0, "classes_without_query": [], "rankings": {}}
    picture = None
    for name, sample in samples.items():
        splits[name], embeddings = _classify(evaluation, name, sample, keep=name == ranked)
        if name == ranked:
            retrieved |= _retrieve(evaluation, embeddings, sample.labels)
            picture = _picture(evaluation, sample, embeddings)
    scores = {
        "format": FORMAT,
        "version": VERSION,
        "boceto": __version__,
        "settings": dataclasses.asdict(evaluation.settings),
        "data": {"digest": manifest.digest, "height": manifest.height, "width": manifest.width},
        "artefact": dataclasses.asdict(net),
        "trained_with_this_data": net.data_digest == manifest.digest,
        "classes": manifest.classes,
        "definitions": definitions | {"interval": evaluation.bootstrap.definition},
        "splits": splits,
        "retrieval": retrieved,
    }
    return scores, picture


def _classify(
    evaluation: Evaluation, name: str, sample: Sample, *, keep: bool
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Returns the classification scores of the records, and with `keep` their embeddings float32[N, D]."""
    chosen, classes, total = metrics.reading(Predictions), evaluation.data.manifest.classes, len(sample.numbers)
    states = {each: metric.empty(len(classes)) for each, metric in chosen.items()}
    embeddings = np.empty((total if keep else 0, evaluation.net.description.embedding), np.float32)
    done = 0
    for part, logits, embedding in evaluation.net.batches(sample.split, sample.numbers, evaluation.settings.batch_size):
        batch = Predictions(sample.split.labels[part], logits, embedding)
        states = metrics.add(chosen, states, batch)
        if keep:
            embeddings[done : done + len(part)] = embedding
        done += len(part)
        evaluation.telemetry.add(telemetry.CLASSIFIED, len(part), split=name)
        evaluation.console.progress(f"scoring {name}", done, total, "drawings")
    scores = metrics.values(chosen, states, evaluation.bootstrap, len(classes))
    return {"drawings": total, "of": sample.available} | scores, embeddings


def _retrieve(evaluation: Evaluation, embeddings: NDArray[np.float32], labels: NDArray[np.int32]) -> dict[str, Any]:
    """Returns the retrieval scores of one split's drawings, a row a distance."""
    classes, chosen = evaluation.data.manifest.classes, metrics.reading(Rankings)
    counts = np.bincount(labels, minlength=len(classes))
    rankings: dict[str, Any] = {}
    for distance, definition in retrieval.DISTANCES.items():
        evaluation.console.progress(f"ranking {len(labels)} drawings by {distance}")
        states = {name: metric.empty(len(classes)) for name, metric in chosen.items()}
        for batch in retrieval.rankings(embeddings, labels, distance):
            states = metrics.add(chosen, states, batch)
        values = metrics.values(chosen, states, evaluation.bootstrap, len(classes))
        rankings[distance] = {"distance": definition} | values
    return {
        "queries": int(counts[counts > 1].sum()),
        "classes_without_query": [name for name, count in zip(classes, counts, strict=True) if count == 1],
        "rankings": rankings,
    }


def _picture(evaluation: Evaluation, sample: Sample, embeddings: NDArray[np.float32]) -> bytes:
    rows, settings, labels = [], evaluation.settings, sample.labels
    for query in neighbours.choose(labels, settings.picture_queries, settings.seed):
        near = neighbours.nearest(retrieval.distances(embeddings, query), labels, query)
        shown = np.concatenate([[query], near])
        hits = [None, *(labels[near] == labels[query]).tolist()]
        names = [evaluation.data.manifest.classes[label] for label in labels[shown]]
        images = sample.split.images(sample.numbers[shown]).mean(axis=-1).astype(np.uint8)  # Grey.
        rows.append([neighbours.Tile(*parts) for parts in zip(images, names, hits, strict=True)])
    return neighbours.draw(rows)


def _write(folder: str, scores: Mapping[str, Any], picture: bytes | None) -> None:
    """Writes the scores last, sealed over the checksums of the other files: the other files exist where scores do."""
    beside = {REPORT: report.full(scores).encode()}
    if picture is None:
        storage.delete(storage.join(folder, PICTURE))  # Of an earlier evaluation.
    else:
        beside[PICTURE] = picture
    for name, data in beside.items():
        storage.write_bytes(storage.join(folder, name), data)
    files = {name: storage.crc32c(data) for name, data in beside.items()}
    storage.write_bytes(storage.join(folder, SCORES), contract.sealed({**scores, "files": files}))


def _export(evaluation: Evaluation, scores: Mapping[str, Any]) -> None:
    """Gives the scores to Prometheus."""
    manifest, registry = evaluation.data.manifest, evaluation.telemetry
    labels = {"net": evaluation.net.description.net, "data": telemetry.short(manifest.digest)}
    for split, found in scores["splits"].items():
        registry.set(telemetry.EVAL_ACCURACY, found["accuracy"]["value"], split=split, **labels)
    ranked = scores["retrieval"]
    for distance, found in ranked["rankings"].items() if ranked["split"] == "test" else ():
        registry.set(telemetry.MAP, found["mean_average_precision"]["value"], distance=distance, **labels)


def _result(scores: Mapping[str, Any], folder: str, net: Model) -> dict[str, Any]:
    """Returns the result for `--json`; a split that is not scored has null."""
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
        "map_split": scores["retrieval"]["split"],
        "map": ranking["mean_average_precision"]["value"] if ranking else None,
        "images_per_second": net.images_per_second,
        "trained_with_this_data": scores["trained_with_this_data"],
        "scores": storage.join(folder, SCORES),
        "report": storage.join(folder, REPORT),
        "picture": storage.join(folder, PICTURE) if ranking else None,
    }
