"""The SavedModel as others see it: what of it may be trained, which pictures it takes, and what else can run it."""

import re

import numpy as np
import pytest
import tensorflow as tf

from boceto import artefact
from trainer import export, nets
from trainer.nets import Spec

SIZE = 32


@pytest.fixture(scope="module", params=["sknet", "skresnet"])
def exported(request, tmp_path_factory):
    """-> (the net, its folder as SavedModel); statistics and scales are what they are after training: any."""
    model = nets.build(request.param, Spec(5, SIZE, SIZE, 0.0625, 8))
    rng = np.random.default_rng(0)
    arrays = {}
    for variable in model.variables:
        values = (
            rng.uniform(0.5, 1.5, variable.shape) if "_bn/" in variable.path else rng.normal(0, 0.1, variable.shape)
        )
        arrays[variable.path] = values.astype(np.float32)
        variable.assign(arrays[variable.path])
    description = dict.fromkeys(("parameters", "height", "width", "channels", "embedding", "step"), 1)
    description |= dict.fromkeys(("net", "data_digest", "boceto"), "") | {"classes": [], "settings": {}}
    url = export.export(str(tmp_path_factory.mktemp("run")), model, arrays, description | {"images_per_second": 0.0})
    return model, f"{url}/{artefact.MODEL}"


def test_only_what_was_learned_may_be_learned_on(exported):
    model, folder = exported
    loaded = tf.saved_model.load(folder)
    trainable = sorted(variable.path for variable in model.trainable_variables)
    assert sorted(variable.name.partition(":")[0] for variable in loaded._variables if variable.trainable) == trainable
    fixed = {re.split("[/:]", variable.name)[-2] for variable in loaded._variables if not variable.trainable}
    assert fixed == {"moving_mean", "moving_variance"}


@pytest.mark.parametrize("shape", [(1, 28, 28, 1), (1, 32, 33, 1), (1, 64, 64, 1), (1, 32, 32, 3), (32, 32, 1)])
def test_pictures_of_another_size_are_refused_in_words(exported, shape):
    loaded = tf.saved_model.load(exported[1])
    for call in (lambda images: loaded.signatures["serving_default"](images=images), loaded.serve):
        with pytest.raises((tf.errors.InvalidArgumentError, TypeError, ValueError), match=r"32, ?32, ?1"):
            call(tf.zeros(shape, tf.uint8))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_tflite_gives_the_same_values(exported):
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 1), dtype=np.uint8)
    expected = tf.saved_model.load(exported[1]).signatures["serving_default"](images=tf.constant(images))
    lite = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_saved_model(exported[1]).convert())
    found = lite.get_signature_runner("serving_default")(images=images)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name].numpy(), atol=1e-5, rtol=0)
