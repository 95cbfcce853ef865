"""Writes the artefact: a SavedModel of plain TensorFlow that needs neither Keras nor our nets, and its description."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import trackable_object_graph_pb2

from boceto import artefact, storage
from boceto.artefact import Artefact
from boceto.errors import SettingsError
from trainer.state import is_seed

PARTIAL = ".export.partial"


class Served(tf.Module):
    """The net over plain variables, so that loading it needs no Keras."""

    def __init__(self, model: keras.Model, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        learned = {variable.path for variable in model.trainable_variables}
        values = {
            # A seed has no array; at inference, nothing is random. Keras's own value differs from build to build.
            variable.path: np.zeros_like(variable.numpy()) if is_seed(variable) else arrays.get(variable.path)
            for variable in model.variables
        }
        if missing := [path for path, value in values.items() if value is None]:
            raise SettingsError(
                f"the net has other weights without dropout: {missing[0]} was not trained; use the same layers, with a "
                "rate of 0"
            )
        self._variables = [
            tf.Variable(values[variable.path], name=variable.path, trainable=variable.path in learned)
            for variable in model.variables
        ]
        position = {variable.path: number for number, variable in enumerate(model.variables)}
        trainable = [position[variable.path] for variable in model.trainable_variables]
        others = [position[variable.path] for variable in model.non_trainable_variables]
        signature = [tf.TensorSpec(model.input_shape, tf.uint8, "images")]

        def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
            images = tf.ensure_shape(images, signature[0].shape)  # Callers of a loaded signature are not checked.
            values = [tf.convert_to_tensor(variable) for variable in self._variables]
            outputs, _ = model.stateless_call(
                [values[number] for number in trainable], [values[number] for number in others], images, training=False
            )
            return {name: outputs[name] for name in ("logits", "embedding")}

        self.serve = tf.function(serve, input_signature=signature)


def export(run: str, model: keras.Model, arrays: Mapping[str, NDArray[np.float32]], description: dict[str, Any]) -> str:
    """Writes `RUN/export/` whole, in place of an earlier one; returns its URL.

    model: the float32 net without dropout. arrays: its variables by path. description: the fields of Artefact but
    `files`. In object storage no folder can be replaced at once, so there is no `artefact.json` during the upload.
    """
    target = storage.join(run, artefact.FOLDER)
    with _partial(run) as partial:
        served = Served(model, arrays)
        tf.get_logger().setLevel("ERROR")  # It logs an empty folder of assets.
        tf.saved_model.save(served, str(partial / artefact.MODEL), signatures={"serving_default": served.serve})
        files = _checksums(partial / artefact.MODEL)
        text = Artefact(files=files, **description).to_json()
        if storage.is_local(run):
            storage.write_bytes(str(partial / artefact.DESCRIPTION), text)
            storage.replace_folder(partial, target)
        else:
            _upload(partial / artefact.MODEL, files, text, target)
    return target


def arrays(model: Path) -> dict[str, NDArray[Any]]:
    """Returns the variables in the local folder of a SavedModel that `export` wrote, by their paths in the net.

    No code of the SavedModel is run.
    """
    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    found = [attribute for node in graph.nodes for attribute in node.attributes]
    return {attribute.full_name: reader.get_tensor(attribute.checkpoint_key) for attribute in found}


@contextlib.contextmanager
def _partial(run: str) -> Iterator[Path]:
    """Yields an empty local folder for the export, for a local run on the disk of the run."""
    if not storage.is_local(run):
        with tempfile.TemporaryDirectory(prefix="boceto-export-") as folder:
            yield Path(folder)
        return
    partial = storage.local_folder(storage.join(run, PARTIAL))
    shutil.rmtree(partial)  # Of an export that was cut off.
    yield partial


def _upload(model: Path, files: Mapping[str, str], description: bytes, target: str) -> None:
    """Removes the old description, uploads the files, and then the description, which makes the artefact whole."""
    storage.delete(storage.join(target, artefact.DESCRIPTION))
    storage.delete_folder(storage.join(target, artefact.MODEL))
    for name in files:
        storage.upload(model / name, storage.join(target, artefact.MODEL, name))
    storage.write_bytes(storage.join(target, artefact.DESCRIPTION), description)


def _checksums(folder: Path) -> dict[str, str]:
    """The crc32c of each file below `folder`, by its path in it."""
    entries = storage.list_files(str(folder))
    return {storage.relative(entry.url, str(folder)): storage.checksum(entry.url)[1] for entry in entries}
