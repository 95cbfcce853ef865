import numpy as np
import pytest
import tensorflow as tf

from boceto import artefact, dataset, storage
from boceto.artefact import Artefact

EMBEDDING = 8


class TinyNet(tf.Module):
    """Random weights that are the same every time: good enough to separate the squares of `make_data`."""

    def __init__(self, size, classes, fault):
        super().__init__()
        random = np.random.default_rng(0)
        self.hidden = tf.Variable(random.standard_normal((size * size, EMBEDDING)).astype(np.float32) / size)
        self.out = tf.Variable(random.standard_normal((EMBEDDING, classes)).astype(np.float32))
        self.fault = fault

    def __call__(self, images):
        flat = tf.reshape(tf.cast(images, tf.float32) / 255.0, [-1, self.hidden.shape[0]])
        embedding = tf.nn.relu(flat @ self.hidden) + self.fault
        return {"logits": embedding @ self.out, "embedding": embedding}


@pytest.fixture
def make_run(tmp_path):
    """Writes a run folder with a tiny artefact for a data set: `make_run(data, fault=0.0, **changes)`."""

    def make(data, *, fault=0.0, name="run", **changes):
        manifest = dataset.load(data).manifest
        run = str(tmp_path / name)
        folder = storage.join(run, artefact.FOLDER, artefact.MODEL)
        net = TinyNet(manifest.height, len(manifest.classes), fault)
        signature = tf.function(net.__call__).get_concrete_function(
            tf.TensorSpec([None, manifest.height, manifest.width, 1], tf.uint8, name="images")
        )
        tf.saved_model.save(net, folder, {"serving_default": signature})
        files = {
            storage.relative(entry.url, folder): storage.crc32c(storage.read_bytes(entry.url))
            for entry in storage.list_files(folder)
        }
        fields = {
            "net": "tiny",
            "parameters": 1234,
            "classes": manifest.classes,
            "height": manifest.height,
            "channels": manifest.channels,
            "width": manifest.width,
            "embedding": EMBEDDING,
            "step": 7,
            "data_digest": manifest.digest,
            "settings": {},
            "files": files,
            "images_per_second": 1.0,
            "boceto": "test",
            "data_options": {"line_width": 2.0, "margin": 1.0, "ink": "white"},
        }
        described = Artefact(**fields | changes)
        storage.write_bytes(storage.join(run, artefact.FOLDER, artefact.DESCRIPTION), described.to_json())
        return run

    return make
