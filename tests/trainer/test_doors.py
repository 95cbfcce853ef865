"""Nets, losses and layers of other people go through the trainer without a change to it."""

import dataclasses
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from boceto.errors import SettingsError
from trainer import devices, export, layers, losses, nets, state, steps
from trainer.batches import Batches
from trainer.nets import Spec
from trainer.settings import Settings

SPEC = Spec(3, 16, 16, 1 / 16, 8, 0.3, seed=5)
# Layers without names, weights that are no kernels, random layers, and a counter.
NET = """
    import keras

    class Counted(keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), dtype="int32", trainable=False, name="calls")

        def call(self, x):
            self.calls.assign(self.calls + 1)
            return x

    def build(spec):
        images = keras.Input((spec.height, spec.width, 1), dtype="uint8")
        x = keras.layers.Rescaling(1 / 255)(images)
        x = keras.layers.DepthwiseConv2D(3, depth_multiplier=4)(x)
        x = keras.layers.BatchNormalization(momentum=0.8)(x)
        x = Counted()(keras.layers.SpatialDropout2D(0.2)(x))
        x = keras.layers.Reshape((-1, 4))(keras.layers.AveragePooling2D(3)(x))
        x = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x))
        x = keras.layers.Dense(spec.embedding, kernel_regularizer="l2")(keras.layers.GlobalAveragePooling1D()(x))
        kept = [keras.layers.Dropout(spec.dropout)(x) for _ in range(2)]
        return keras.Model(images, {"logits": keras.layers.Dense(spec.classes)(kept[0] + kept[1]), "embedding": x})
    """
# Centre loss (Wen et al., 2016), whose centres are learned.
LOSS = """
    import dataclasses
    import numpy as np
    import tensorflow as tf
    from boceto.settings import option

    @dataclasses.dataclass(frozen=True)
    class Options:
        share: float = option(0.1, help="share of the distance to the centre", at_least=0)

    def weights(spec, options):
        return {"centres": np.ones((spec.classes, spec.embedding), np.float32)}

    def loss(outputs, labels, weights, options):
        cross = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs["logits"])
        apart = outputs["embedding"] - tf.gather(weights["centres"], labels)
        return cross + options.share * tf.reduce_sum(apart**2, axis=1)
    """


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    for package, name, text in ((nets, "attentive", NET), (losses, "centres", LOSS)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        (folder / "_shared.py").write_text("")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


def make(replicas, name="attentive", spec=SPEC, groups=4):
    wanted = Settings("", "", batch_size=8, groups=groups, loss="centres", loss_options="share=0.2", ema=0.9, seed=5)
    strategy = devices.strategy(replicas)
    with strategy.scope():
        model = nets.build(name, spec)
    size = model.output["embedding"].shape[-1]
    loss = losses.find(wanted.loss, wanted.loss_options, dataclasses.replace(spec, embedding=size))
    learned = state.create(strategy, model, wanted, loss.weights)
    return model, learned, steps.Steps(learned, model, wanted, loss, xla=False)


def train(step, first, last, pixels=16):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 8, pixels, pixels, 1), np.uint8), rng.integers(0, 3, (6, 8), np.int64)
    for at in range(first, last):
        part = Batches(images[at : at + 1], labels[at : at + 1], np.zeros((1, 8, 0), np.float32))
        step.train(step.place(part), at, [1e-2])


def test_a_net_and_a_loss_of_other_layers_train_resume_and_export(tmp_path):
    _, whole, step = make(1)
    start = whole.arrays()
    train(step, 0, 4)
    end = whole.arrays()
    assert (end["weights/loss/centres"] != start["weights/loss/centres"]).any()
    assert end["statistics/counted/calls"] == 4
    assert not [name for name in end if "seed" in name]
    assert {name for name in end if name.startswith("statistics")} == {
        "statistics/counted/calls", "statistics/batch_normalization/moving_mean",
        "statistics/batch_normalization/moving_variance",
    }  # fmt: skip

    _, halved, step = make(2)
    train(step, 0, 2)
    model, resumed, step = make(1)
    resumed.restore(halved.arrays())
    train(step, 2, 4)
    for name, array in resumed.arrays().items():
        assert (array == end[name]).all(), name

    served = export.Served(model, state.export_weights(end))
    again = export.Served(nets.build("attentive", SPEC), state.export_weights(end))
    for one, other in zip(served.variables, again.variables, strict=True):
        assert (one.numpy() == other.numpy()).all(), one.name
    tf.saved_model.save(served, str(tmp_path / "model"), signatures={"serving_default": served.serve})
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 1), np.uint8)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    outputs = loaded.serve(tf.constant(images))
    for variable in model.variables:
        if not state.is_seed(variable):
            variable.assign(state.export_weights(end)[variable.path])
    assert outputs["logits"].numpy() == pytest.approx(model(images, training=False)["logits"].numpy(), abs=1e-5)


OURS = [name for name in nets.names() if name != "small"]


def small_spec(name):
    smallest = max(16, nets.smallest(name))
    return dataclasses.replace(SPEC, height=smallest, width=smallest, embedding=0)


@pytest.mark.parametrize("name", OURS)
def test_every_net_goes_on_with_the_same_bits(name):
    _, learned, step = make(1, name, small_spec(name), groups=1)
    train(step, 0, 1, small_spec(name).height)
    saved = {path: array.copy() for path, array in learned.arrays().items()}
    train(step, 1, 2, small_spec(name).height)
    end = {path: array.copy() for path, array in learned.arrays().items()}
    assert all(np.isfinite(array).all() for array in end.values())
    moved = [path for path in end if path.startswith("weights/") and (end[path] != saved[path]).any()]
    assert len(moved) > 1
    learned.restore(saved)
    train(step, 1, 2, small_spec(name).height)
    assert all((array == end[path]).all() for path, array in learned.arrays().items())


def test_two_builds_are_equal_and_layers_of_one_shape_differ():
    first, second = nets.build("attentive", SPEC), nets.build("attentive", SPEC)
    assert [variable.path for variable in first.variables] == [variable.path for variable in second.variables]
    of_weights = zip(first.weights, second.weights, strict=True)
    assert all((one.numpy() == other.numpy()).all() for one, other in of_weights)
    masks = steps.seeds(first, 5)
    assert len(set(masks.values())) == len(masks) == 4  # Three dropouts and one within the attention.
    assert masks == steps.seeds(second, 5)


def test_operations_are_counted_for_every_kind_of_layer_or_not_at_all():
    images = keras.Input((8, 8, 3))
    counted = keras.Model(images, keras.layers.DepthwiseConv2D(3)(images))
    assert layers.multiply_accumulates(counted) == 6 * 6 * 3 * 3 * 3
    grouped = keras.layers.Conv2D(6, 1, groups=3)(keras.layers.SeparableConv2D(6, 3)(images))
    counted = keras.Model(images, keras.layers.Dense(5)(keras.layers.ReLU()(grouped)))
    assert layers.multiply_accumulates(counted) == 6 * 6 * (3 * 9 + 3 * 6 + 2 * 6 + 6 * 5)
    assert layers.multiply_accumulates(nets.build("attentive", SPEC)) is None


def test_initial_values_are_seeded_however_a_layer_asks():
    def build():
        class Own(keras.layers.Layer):
            def build(self, shape):
                self.first = self.add_weight((3, 4), "glorot_uniform")
                self.second = self.add_weight((3, 4), initializer="glorot_uniform")

        layer = Own(name="own")
        layer.build((None, 3))
        return layer

    found = []
    for _ in range(2):
        with nets._seeded(1):
            found.append(build())
    assert (found[0].first.numpy() == found[1].first.numpy()).all()
    assert (found[0].first.numpy() != found[0].second.numpy()).any()


def test_a_file_that_others_share_is_no_choice_and_options_are_checked():
    assert "attentive" in nets.names()
    assert "_shared" not in nets.names()
    with pytest.raises(SettingsError, match="train.net = '_shared' is unknown"):
        nets.build("_shared", SPEC)
    for options, message in (("margin=1", "unknown setting train.loss_options.margin"), ("share", "has no value")):
        with pytest.raises(SettingsError, match=message):
            losses.find("centres", options, SPEC)
