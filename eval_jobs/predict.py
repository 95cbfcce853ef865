"""One run of `boceto predict`: the net's answers to new pictures and drawings, batch by batch, in bounded memory."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, dataset, staging, storage
from boceto.artefact import Artefact
from boceto.console import Console
from boceto.dataset import DataSet
from boceto.errors import BocetoError, DataError, SettingsError
from eval_jobs import model, predictions, reading
from eval_jobs.model import Model
from eval_jobs.predictions import Prediction
from eval_jobs.reading import Batch
from eval_jobs.search import Search
from eval_jobs.settings import PredictSettings

T = TypeVar("T")


def run(
    settings: PredictSettings, console: Console, show: Callable[[str], None]
) -> tuple[dict[str, Any], BocetoError | None]:
    """Predicts every input; returns the result for `--json`, and an error where too many inputs are bad.

    show: takes the table of the predictions, where no file takes them.

    Raises:
        DataError: the artefact, the data set or an output of the net is damaged, or they do not belong together.
        SettingsError: there is no input, or the output cannot be written.
    """
    files = reading.find(settings.input)
    predictions.check(settings.output, settings.columns)
    data = _data(settings, console)
    description = model.described(settings.run)
    reader = reading.Reader(settings.run, description, _options(settings.run, description, data))
    net = model.load(settings.run, description, flip=settings.flip)
    search = Search(data, net, settings.batch_size, console) if data and settings.neighbours else None
    predicted, refused, worst = 0, Counter[str](), ""
    with predictions.writing(settings, len(description.classes), show, console) as write:
        for batch in _ahead(reading.batches(reader.read(files), settings.batch_size)):
            write(_answers(settings, batch, net, search), batch.refused)
            predicted += len(batch.names)
            for bad in batch.refused:
                refused[bad.reason] += bad.lost
                worst = worst or f"in {bad.file}, line {bad.line}, {bad.reason}: {bad.what}"
            console.progress(f"predicted {predicted:,} inputs")
    lost = refused.total()
    told = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))
    console.line(f"predicted {predicted:,} inputs; refused {lost:,}{told and f' ({told})'}")
    result = {
        "run": settings.run,
        "net": description.net,
        "step": description.step,
        "inputs": predicted + lost,
        "predicted": predicted,
        "refused": dict(refused),
        "output": settings.output or None,
        "refused_inputs": predictions.refused_path(settings.output) if settings.output else None,
    }
    return result, _verdict(settings, predicted, lost, worst)


def _data(settings: PredictSettings, console: Console) -> DataSet | None:
    """Opens the data set, if there is one."""
    if settings.neighbours and not settings.data:
        raise SettingsError(
            f"predict.neighbours = {settings.neighbours} are drawings of a data set: give its folder with --data"
        )
    if not settings.data:
        return None
    return dataset.load(settings.data, staging.cache(settings.cache_dir, "predict.cache_dir", console.progress))


def _options(run: str, description: Artefact, data: DataSet | None) -> Mapping[str, Any]:
    """Returns the options of the data set that the net was trained with: they say how its images were made.

    Raises:
        DataError: neither the artefact nor the data set tells.
    """
    if description.data_options:
        return description.data_options
    if data and data.manifest.digest == description.data_digest and data.manifest.options:
        return data.manifest.options
    raise DataError(
        f"{artefact.path(run)} does not say how the images were made, as an older Boceto wrote it: give the data set "
        f"of the training with --data, or remove {storage.join(run, artefact.FOLDER)} and run `boceto train` again"
    )


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the items. The next one is made, in a thread, while the caller works on one."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def _answers(settings: PredictSettings, batch: Batch, net: Model, search: Search | None) -> list[Prediction]:
    """Returns the predictions of a batch."""
    if not batch.names:
        return []
    logits, embeddings = net.outputs(batch.images, f"inputs from {batch.names[0]} on")
    best = np.argsort(-logits, axis=1, kind="stable")[:, : settings.top]  # Of equal logits, the first class.
    shares = np.take_along_axis(_softmax(logits), best, axis=1)
    near = search.nearest(embeddings, settings.neighbours) if search else [None] * len(batch.names)
    classes = net.description.classes
    return [
        Prediction(name, key, [classes[label] for label in labels], [round(share, 6) for share in row], found)
        for name, key, labels, row, found in zip(
            batch.names, batch.keys, best.tolist(), shares.tolist(), near, strict=True
        )
    ]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """float32[B, C] -> float64[B, C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _verdict(settings: PredictSettings, predicted: int, lost: int, worst: str) -> DataError | None:
    """Returns the error of too many bad inputs."""
    total = predicted + lost
    if lost <= settings.max_refused * total:
        return None
    share = min(1.0, math.ceil(lost / total * 1000) / 1000)
    return DataError(
        f"{lost} of {total} inputs are bad, more than predict.max_refused = {settings.max_refused} allows: {worst}; "
        f"the others are predicted; mend the bad ones, or allow them with --max-refused {share}"
    )
