"""The artefact's net: verified, loaded as a SavedModel, and called in batches. Knows no net and no Keras."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boceto import artefact, saved_model, storage
from boceto.artefact import Artefact
from boceto.console import quiet
from boceto.dataset import Manifest, Split
from boceto.errors import PASSING, DataError
from eval_jobs.retrieval import check

SIGNATURE = "serving_default"


def check_data(description: Artefact, manifest: Manifest, *, allow_other_data: bool) -> bool:
    """Whether the data set is the one that the net was trained with.

    Raises:
        DataError: other classes or another image size, or another data set though that is not allowed.
    """
    if description.classes != manifest.classes:
        raise DataError(
            f"the net knows {_difference(description.classes, manifest.classes)}; evaluate it on data with its classes"
        )
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


def _difference(classes: list[str], others: list[str]) -> str:
    """The first place where two lists of classes differ, in words."""
    if len(classes) != len(others):
        return f"{len(classes)} classes, the data set has {len(others)}"
    at = next(at for at, (a, b) in enumerate(zip(classes, others, strict=True)) if a != b)
    return f"class {at} as {classes[at]!r}, the data set as {others[at]!r}"


@dataclass
class Clock:
    """Images and seconds in the net's calls; the first call of each batch size may compile, and is kept apart."""

    images: int = 0
    seconds: float = 0.0
    _first: dict[int, float] = field(default_factory=dict)

    def add(self, images: int, seconds: float) -> None:
        """Counts one call."""
        if images in self._first:
            self.images += images
            self.seconds += seconds
        self._first.setdefault(images, seconds)

    @property
    def rate(self) -> float:
        """Images a second, without the first calls where there were others."""
        if self.seconds:
            return self.images / self.seconds
        return sum(self._first) / sum(self._first.values())


@dataclass(frozen=True)
class Model:
    """A loaded net: `call` maps uint8[B, H, W, C] to its signature's outputs by name."""

    description: Artefact
    call: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]
    clock: Clock

    def embed(self, images: NDArray[np.uint8], where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8[B, H, W, C] -> logits float32[B, C], embedding float32[B, D].

        Raises:
            DataError: an output is missing, of another shape than `artefact.json` says, or not finite.
        """
        begin = time.perf_counter()
        outputs = self.call(images)
        self.clock.add(len(images), time.perf_counter() - begin)
        sizes = {"logits": len(self.description.classes), "embedding": self.description.embedding}
        for name, size in sizes.items():
            shape = outputs[name].shape if name in outputs else "missing"
            if shape != (len(images), size):
                raise DataError(f"the net's output {name!r} is {shape}, {artefact.DESCRIPTION} says [B, {size}]")
            check(outputs[name], f"{name} of {where}")
        return outputs["logits"], outputs["embedding"]


def load(run: str, description: Artefact) -> Model:
    """Loads the verified SavedModel of the run.

    Raises:
        DataError: it is not what `artefact.json` says, it would reach out of its tensors, or TensorFlow cannot load it.
    """
    with quiet():
        import tensorflow as tf

    with artefact.verified(storage.join(run, artefact.FOLDER), description) as folder:
        _check_graph(run, storage.read_bytes(str(folder / saved_model.FILE)))
        try:
            loaded = tf.saved_model.load(str(folder))
            signature = loaded.signatures[SIGNATURE]
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(f"{storage.join(run, artefact.FOLDER)} cannot be loaded: {error.message}") from error
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            if getattr(error, "errno", None) in PASSING:
                raise
            raise DataError(
                f"{storage.join(run, artefact.FOLDER)} cannot be loaded: {error}; "
                f"export it again with `boceto train --run {run}`"
            ) from error

    def call(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        assert loaded is not None  # noqa: S101 - the signature lives as long as what it was loaded with
        return {name: tensor.numpy() for name, tensor in signature(images=tf.constant(images)).items()}

    return Model(description, call, Clock())


def _check_graph(run: str, graph: bytes) -> None:
    """Refuses a SavedModel that would do more than compute: it is a program, which may come from a stranger.

    Raises:
        DataError: it is one.
    """
    try:
        if outside := saved_model.reaches_outside(graph):
            raise ValueError(
                f"it would reach files, the network or Python ({', '.join(outside)}), which no net of Boceto does"
            )
    except ValueError as error:
        path = storage.join(run, artefact.FOLDER, artefact.MODEL, saved_model.FILE)
        raise DataError(f"{path} is not loaded: {error}; a SavedModel is a program: ask who made this one") from error


def batches(
    model: Model, split: Split, numbers: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
    """int64[N] record numbers -> (numbers int64[B], logits float32[B, C], embedding float32[B, D]) batch by batch.

    The next batch is decoded while the net works on one.
    """
    parts = [numbers[at : at + batch_size] for at in range(0, len(numbers), batch_size)]
    with ThreadPoolExecutor(1) as reader:
        coming: Any = reader.submit(split.images, parts[0])
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            images = coming.result()
            if following is not None:
                coming = reader.submit(split.images, following)
            yield part, *model.embed(images, f"split {split.name!r}, records from {part[0]}")
