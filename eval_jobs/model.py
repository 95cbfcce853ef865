"""The artefact's net: verified, loaded as a SavedModel, and called in batches. It needs no Keras and no net's file."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, saved_model, storage
from boceto import run as runs
from boceto.artefact import Artefact
from boceto.console import quiet
from boceto.dataset import Manifest, Split
from boceto.errors import PASSING, DataError
from eval_jobs.retrieval import check

SIGNATURE = "serving_default"
Batch = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Predictions:
    """A net's answers, which the classification metrics read.

    labels: int32[B], the true classes; logits: float32[B, C]; embedding: float32[B, D].
    """

    labels: NDArray[np.int32]
    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]

    def ranks(self) -> NDArray[np.int64]:
        """int64[B], the rank (from 1) of the true class's logit; at equal logits the others stand before it."""
        true = np.take_along_axis(self.logits, self.labels[:, None].astype(np.int64), axis=1)
        return (self.logits >= true).sum(axis=1)


def described(run: str) -> Artefact:
    """Returns the description of the run's artefact.

    Raises:
        DataError: there is none, it is damaged, or it is not the one that `run.json` names.
    """
    description = artefact.load(run)
    if other := runs.misfits(runs.read(run) or {}, description):
        raise DataError(f"{run}: {other[0]}; export it again with `boceto train --run {run}`")
    return description


def check_data(description: Artefact, manifest: Manifest, *, allow_other_data: bool) -> bool:
    """Returns whether the data set is the one that the net was trained with.

    Raises:
        DataError: other classes or another image size, or another data set though that is not allowed.
    """
    if description.classes != manifest.classes:
        difference = f"{len(description.classes)} classes, the data set has {len(manifest.classes)}"
        if len(description.classes) == len(manifest.classes):
            pairs = enumerate(zip(description.classes, manifest.classes, strict=True))
            at, (ours, theirs) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
            difference = f"class {at} as {ours!r}, the data set as {theirs!r}"
        raise DataError(f"the net knows {difference}; evaluate it on data with its classes")
    ours, theirs = ("x".join(map(str, (it.height, it.width, it.channels))) for it in (manifest, description))
    if ours != theirs:
        raise DataError(f"the data set's images are {ours}, the net takes {theirs}; prepare the data set in that size")
    same = description.data_digest == manifest.digest
    if not same and not allow_other_data:
        raise DataError(
            f"the net was trained with data set {description.data_digest}, this one is {manifest.digest}; give the "
            f"data set of its training, or --allow-other-data"
        )
    return same


@dataclass(frozen=True)
class Model:
    """A loaded net: `call` maps uint8[B, H, W, C] to its signature's outputs by name.

    flip: the outputs are the means of those of an image and of its mirror image.
    """

    description: Artefact
    call: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]
    flip: bool = False
    _times: list[tuple[int, float]] = field(default_factory=list)  # Images and seconds of each call.

    @property
    def images_per_second(self) -> float:
        """The speed without the first call of each batch size, which may compile, where there are other calls."""
        sizes = [images for images, _ in self._times]
        later = [time for number, time in enumerate(self._times) if sizes.index(time[0]) < number] or self._times
        return sum(images for images, _ in later) / sum(seconds for _, seconds in later)

    def batches(self, split: Split, numbers: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """int64[N] record numbers -> (numbers int64[B], logits float32[B, C], embedding float32[B, D]) batch by batch.

        The next batch is decoded while the net works on one.

        Raises:
            DataError: an output is missing, of another shape than `artefact.json` says, or not finite.
        """
        parts = [numbers[at : at + batch_size] for at in range(0, len(numbers), batch_size)]
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(split.images, parts[0])
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                images = coming.result()
                if following is not None:
                    coming = reader.submit(split.images, following)
                yield part, *self.outputs(images, f"split {split.name!r}, records from {part[0]}")

    def outputs(self, images: NDArray[np.uint8], where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8[B, H, W, C] -> logits float32[B, C], embedding float32[B, D].

        Raises:
            DataError: as `batches`; the message names `where`.
        """
        begin = time.perf_counter()
        outputs = self.call(images)
        if self.flip:
            mirrored = self.call(images[:, :, ::-1])
            outputs = {name: (outputs[name] + mirrored[name]) * np.float32(0.5) for name in outputs}
        self._times.append((len(images), time.perf_counter() - begin))
        sizes = {"logits": len(self.description.classes), "embedding": self.description.embedding}
        for name, size in sizes.items():
            shape = outputs[name].shape if name in outputs else "missing"
            if shape != (len(images), size):
                raise DataError(f"the net's output {name!r} is {shape}, {artefact.DESCRIPTION} says [B, {size}]")
            check(outputs[name], f"{name} of {where}")
        return outputs["logits"], outputs["embedding"]


def load(run: str, description: Artefact, *, flip: bool = False) -> Model:
    """Loads the verified SavedModel of the run. flip: as in `Model`.

    Raises:
        DataError: it is not what `artefact.json` says, it would reach out of its tensors, or TensorFlow cannot load it.
    """
    with quiet():
        import tensorflow as tf

    place = storage.join(run, artefact.FOLDER)
    with artefact.verified(place, description) as folder:
        _check_graph(place, storage.read_bytes(str(folder / saved_model.FILE)))
        try:
            loaded: Any = tf.saved_model.load(str(folder))
            signature = loaded.signatures[SIGNATURE]
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(f"{place} cannot be loaded: {error.message}") from error
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            if getattr(error, "errno", None) in PASSING:
                raise
            raise DataError(
                f"{place} cannot be loaded: {error}; export it again with `boceto train --run {run}`"
            ) from error

    def call(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        assert loaded is not None  # noqa: S101 - the signature lives as long as what it was loaded with
        return {name: tensor.numpy() for name, tensor in signature(images=tf.constant(images)).items()}

    return Model(description, call, flip)


def _check_graph(place: str, graph: bytes) -> None:
    """Raises DataError where a SavedModel does more than compute: it is a program, perhaps of a stranger."""
    try:
        reaches = ", ".join(saved_model.reaches_outside(graph))
        reason = f"it would reach files, the network or Python ({reaches}), which no net of Boceto does"
        if not reaches:
            return
    except ValueError as error:
        reason = str(error)
    path = storage.join(place, artefact.MODEL, saved_model.FILE)
    raise DataError(f"{path} is not loaded: {reason}; a SavedModel is a program: ask its author about it")
