import keras
import numpy as np
import pytest
import tensorflow as tf

from boceto.errors import SettingsError
from trainer import augment, devices, losses, nets, optimizers, state, steps
from trainer.batches import Batches
from trainer.loop import learning_rate
from trainer.nets import Spec
from trainer.settings import Settings


def settings(**values):
    return Settings(data="", run="", batch_size=8, **{"groups": 4, **values})


def batches(count=1, draws=0):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 16, 16, 1), np.uint8)
    labels = rng.integers(0, 3, (count, 8), np.int64)
    return Batches(images, labels, rng.random((count, 8, draws), np.float32))


def make(replicas, *, frozen=True, **values):
    wanted = settings(**values)
    strategy = devices.strategy(replicas)
    spec = Spec(3, 16, 16, 1 / 16, 8, wanted.dropout, wanted.precision)
    with strategy.scope():
        model = nets.build("small", spec)
        for layer in model.layers:
            if frozen and isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    loss = losses.find(wanted.loss, wanted.loss_options, spec)
    learned = state.create(strategy, model, wanted, loss.weights)
    return learned, steps.Steps(learned, model, wanted, loss, xla=False)


def run(replicas, *, count=4, per_call=1, frozen=True, **values):
    """(float32[count, 3] losses, correct answers and gradients' norms, arrays) after `count` steps."""
    learned, step = make(replicas, frozen=frozen, **values)
    data = batches(count, augment.parameters(settings(**values)))
    parts = []
    for first in range(0, count, per_call):
        part = Batches(*(array[first : first + per_call] for array in data))
        parts.append(step.train(step.place(part), first, [1e-2] * per_call).numpy())
    return np.concatenate(parts), learned.arrays()


RECIPE = {"dropout": 0.4, "flip": True, "rotation": 20.0, "shift": 0.1, "scale": 0.2, "clip_norm": 1.0, "ema": 0.9}


MIXES = {"erase": 0.5, "mixup": 0.4, "cutmix": 1.0}


@pytest.mark.parametrize(
    "recipe", [{}, RECIPE | MIXES | {"weight_decay": 0.01, "loss_options": "label_smoothing = 0.1"}]
)
def test_a_step_has_the_same_bits_on_any_number_of_replicas(recipe):
    one = run(1, frozen=False, **recipe)
    for replicas in (2, 4):
        many = run(replicas, frozen=False, **recipe)
        assert (many[0] == one[0]).all()
        for name, array in one[1].items():
            assert (many[1][name] == array).all(), name


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_norm_is_that_of_the_gradients_before_clipping(clip):
    learned, step = make(1, optimizer="sgd", momentum=0.0, clip_norm=clip)
    before = learned.arrays()
    norm = step.train(step.place(batches()), 0, [1e-3]).numpy()[0, 2]
    after = learned.arrays()
    moved = [after[name] - before[name] for name in before if name.startswith("weights/")]
    # Plain SGD moves each weight by the learning rate times its gradient.
    seen = np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for part in moved)) / 1e-3
    assert norm > 0.02
    assert seen == pytest.approx(clip or norm, rel=1e-2)


def test_replicas_agree_on_every_variable():
    learned, step = make(2, frozen=False, ema=0.9)
    step.train(step.place(batches()), 0, [1e-2])
    for group in learned.groups.values():
        for first, second in zip(learned.local(0, group), learned.local(1, group), strict=True):
            assert (first.numpy() == second.numpy()).all()


def test_a_replica_is_updated_on_its_own_device():
    learned, step = make(2, clip_norm=1.0)
    placed = step.place(batches())
    graph = step._train.get_concrete_function(*placed, tf.constant(0, tf.int64), tf.constant([1e-2])).graph
    nodes = [node for function in graph.as_graph_def().library.function for node in function.node_def]
    own = [each.device for each in learned.local(0, learned.weights)[:1] + learned.local(1, learned.weights)[:1]]
    for operation in ("L2Loss", "ResourceApplyAdam"):  # The norm of the gradients, and the update itself.
        devices = {node.device for node in nodes if node.op == operation and node.device}
        assert devices == set(own), operation
        assert all(node.device for node in nodes if node.op == operation), operation


def test_several_steps_a_call_change_nothing():
    one = run(1, frozen=False, dropout=0.4)
    many = run(1, per_call=4, frozen=False, dropout=0.4)
    assert (many[0] == one[0]).all()
    assert all((many[1][name] == array).all() for name, array in one[1].items())


def test_xla_and_determinism_exclude_each_other():
    choices = [("auto", "auto"), ("on", "auto"), ("auto", "on"), ("off", "off")]
    assert [devices.modes(*choice, gpu=True) for choice in choices] == [
        (True, False),
        (True, False),
        (False, True),
        (False, False),
    ]
    assert [devices.modes(*choice, gpu=False) for choice in choices] == [
        (False, True),
        (True, False),
        (False, True),
        (False, False),
    ]
    with pytest.raises(SettingsError, match="exclude each other"):
        devices.modes("on", "on", gpu=True)


def test_statistics_begin_as_plain_means():
    learned, step = make(1, frozen=False)
    step.train(step.place(batches()), 0, [0.0])
    images = tf.constant(batches().images[0])
    first = tf.nn.conv2d(tf.cast(images, tf.float32) / 255, learned.arrays()["weights/conv1_1/kernel"], 1, "SAME")
    found = learned.arrays()["statistics/conv1_1_bn/moving_mean"]
    assert found == pytest.approx(tf.reduce_mean(first, axis=[0, 1, 2]).numpy(), abs=1e-5)


def test_float16_skips_a_step_that_overflows_and_halves_the_scale():
    learned, step = make(1, precision="float16")
    for copy in learned.local(0, learned.scale)[:1]:
        copy.assign(2.0**127)
    before = learned.arrays()
    step.train(step.place(batches()), 0, [1e-2])
    after = learned.arrays()
    assert after["scale/value"] == 2.0**126
    assert all((before[name] == after[name]).all() for name in before if name.startswith(("weights", "m/", "v/")))
    for copy in learned.local(0, learned.scale)[:1]:
        copy.assign(8.0)
    step.train(step.place(batches()), 1, [1e-2])
    assert (learned.arrays()["weights/fc_2/kernel"] != before["weights/fc_2/kernel"]).any()


def test_an_evaluation_has_the_same_bits_on_any_number_of_replicas():
    found = [step.evaluate(step.place(batches())) for _, step in (make(1), make(2), make(4))]
    assert found[0][0].shape == (8,)
    assert set(found[0][1]) <= {0, 1}
    assert all((other[n] == found[0][n]).all() for other in found for n in (0, 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_keras_own(smoothing):
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1, 0])
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
    expected = keras_loss(np.eye(3, dtype=np.float32)[labels], logits)
    loss = losses.find("cross_entropy", f"label_smoothing={smoothing}", Spec(3))
    found = loss.call({"logits": tf.constant(logits)}, tf.constant(labels), loss.weights)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "decay", "theirs"),
    [
        ("adam", 0.0, lambda: keras.optimizers.Adam(0.1)),
        ("adamw", 0.1, lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1)),
        ("sgd", 0.0, lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_the_optimizers_are_keras_own(name, decay, theirs):
    start = np.float32([[1, -2, 3]])
    gradients = np.random.default_rng(0).normal(size=(5, 1, 3)).astype(np.float32)
    reference, optimizer = keras.Variable(start, name="kernel"), theirs()
    ours = tf.Variable(start)
    slots = [tf.Variable(tf.zeros((1, 3))) for _ in optimizers.SLOTS[name]]
    for step, gradient in enumerate(gradients):
        optimizer.apply([gradient], [reference])
        wanted = settings(optimizer=name, weight_decay=decay)
        optimizers.update(wanted, ours, "fc_1/kernel", slots, gradient, tf.constant(0.1), tf.constant(step))
    assert ours.numpy() == pytest.approx(reference.numpy(), rel=1e-5)


def test_weights_of_rank_2_or_more_decay_and_biases_do_not():
    ranks = {
        "fc_1/kernel": 2, "conv1_1/kernel": 4, "embedding/embeddings": 2, "loss/centres": 2,
        "fc_1/bias": 1, "attention/query/bias": 2, "conv1_1_bn/gamma": 1, "conv1_1_bn/beta": 1,
    }  # fmt: skip
    assert [name for name, rank in ranks.items() if optimizers.decays(name, rank)] == list(ranks)[:4]


def test_warm_up_and_cosine():
    wanted = settings(schedule="cosine", warmup_steps=4, learning_rate=1.0)
    rates = [learning_rate(wanted, 12, step) for step in range(13)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(settings(), 12, 11) == 1e-3


def test_augmentations_move_what_they_say():
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 1, 1] = 255  # Ink of the border would be drawn out to the border.

    def moved(draws, **values):
        found = augment.augmented(tf.constant(image), tf.constant([draws], tf.float32), settings(**values))
        return [tuple(at) for at in np.argwhere(found.numpy()[0, :, :, 0] == 255).tolist()]

    middle = [0.5] * 5
    assert moved(middle, flip=True) == [(1, 1)]
    assert moved([0.0, *middle[1:]], flip=True) == [(1, 3)]
    assert moved([0.0, *middle[1:]], rotation=90) == [(1, 1)]
    assert moved([0.5, 0.75, 0.5, 0.5, 0.5], rotation=180) == [(3, 1)]
    assert moved([0.5, 0.5, 1.0, 0.5, 0.5], shift=0.2) == [(1, 2)]
    assert moved([0.5, 0.5, 0.5, 1.0, 0.5], shift=0.4) == [(3, 1)]


def rows(draws, count=8):
    """float32[count, D]: parameters in the middle, but those of `draws`, by their number."""
    found = np.full((count, augment.MIX.stop), 0.5, np.float32)
    for number, values in draws.items():
        found[:, number] = values
    return tf.constant(found)


def test_erasing_takes_its_share_and_fills_with_the_paper():
    images = np.random.default_rng(0).integers(0, 255, (1000, 20, 30, 1), np.uint8)
    images[:, 0, 0] = 255
    draws = tf.constant(np.random.default_rng(1).random((1000, augment.ERASE.stop), np.float32))
    erased = augment.augmented(tf.constant(images), draws, settings(erase=0.3)).numpy()
    changed = (erased != images)[..., 0]
    assert (erased[changed] == 255).all()
    assert 0.25 < changed.any(axis=(1, 2)).mean() < 0.35
    areas = changed.sum(axis=(1, 2))[changed.any(axis=(1, 2))] / 600
    assert areas.max() < 0.45
    assert 0.1 < areas.mean() < 0.25
    for each in np.flatnonzero(changed.any(axis=(1, 2)))[:20]:  # A rectangle.
        high, wide = changed[each].any(axis=1), changed[each].any(axis=0)
        assert changed[each].sum() == high.sum() * wide.sum()


def test_mixup_is_a_weighted_mean_of_a_pair_and_its_labels():
    images = np.repeat(np.arange(0, 80, 10, dtype=np.uint8), 16 * 16).reshape(8, 16, 16, 1)
    labels = np.arange(8)
    # Quantiles of Beta(1, 1), the uniform distribution, are the numbers themselves.
    shares = np.float32([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    drawn = rows({11: 0.0, 12: shares})  # The other record is the next one.
    found = augment.mixed(tf.constant(images), tf.constant(labels), drawn, settings(mixup=1.0))
    after = np.roll(labels, -1)
    values = found.images.numpy()
    assert values[:, 0, 0, 0] == pytest.approx(10 * (shares * labels + (1 - shares) * after), abs=0.6)
    assert (values == values[:, :1, :1]).all()
    assert found.labels.numpy().tolist() == [0, 1, 2, 3, 5, 6, 7, 0]
    assert found.others.numpy().tolist() == [1, 2, 3, 4, 4, 5, 6, 7]
    assert found.shares.numpy() == pytest.approx(np.maximum(shares, 1 - shares), abs=1e-3)


def test_cutmix_puts_a_rectangle_of_the_other_record_in_and_weighs_by_its_area():
    images = np.repeat(np.arange(8, dtype=np.uint8), 16 * 16).reshape(8, 16, 16, 1)
    drawn = rows({11: 0.0, 12: 0.75})  # A quarter of the area: 8 x 8 pixels in the middle.
    found = augment.mixed(tf.constant(images), tf.constant(np.arange(8)), drawn, settings(cutmix=1.0))
    expected = images.copy()
    expected[:, 4:12, 4:12] = np.roll(images, -1, axis=0)[:, 4:12, 4:12]
    assert (found.images.numpy() == expected).all()
    assert found.shares.numpy() == pytest.approx(0.75)
    at_a_corner = augment.mixed(
        tf.constant(images),
        tf.constant(np.arange(8)),
        rows({11: 0.0, 12: 0.75, 13: 0.0, 14: 0.0}),
        settings(cutmix=1.0),
    )
    assert at_a_corner.shares.numpy() == pytest.approx(1 - 16 / 256)


def test_no_record_is_mixed_with_itself_and_all_others_come_up():
    images, labels = tf.zeros((8, 4, 4, 1), tf.uint8), tf.constant(np.arange(8))
    steps = set()
    for other in np.linspace(0, 1, 50, endpoint=False):
        found = augment.mixed(images, labels, rows({11: other, 12: 0.99}), settings(mixup=1.0))
        steps |= set(((found.others.numpy() - found.labels.numpy()) % 8).tolist())
    assert steps == set(range(1, 8))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha):
    uniform = tf.constant((np.arange(100_000) + 0.5) / 100_000, tf.float32)
    shares = augment._beta(uniform, alpha).numpy()
    assert shares.mean() == pytest.approx(0.5, abs=1e-3)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-2)  # The textbook's variance.


@pytest.mark.parametrize("loss", ["cross_entropy", "contrastive", "centre", "arcface"])
def test_the_loss_of_mixed_records_is_that_of_both_labels_by_their_shares(loss):
    learned, step = make(1, groups=1, loss=loss)
    data = batches()
    weights = [tf.convert_to_tensor(variable) for variable in learned.weights.values()]
    images, labels, others = tf.constant(data.images[0]), data.labels[0], (data.labels[0] + 1) % 3
    shares = np.linspace(0.5, 1, 8, dtype=np.float32)

    def found(labels, others=None, shares=None):
        records = augment.Mixed(images, tf.constant(labels), others, shares)
        return step._gradients(weights, step._untrained(tf.constant(0, tf.int64), 0), records, tf.constant(1.0))[
            2
        ].numpy()

    half = found(labels, tf.constant(others), tf.constant(np.full(8, 0.5, np.float32)))
    assert half[0] == pytest.approx((found(labels)[0] + found(others)[0]) / 2, rel=1e-4)
    assert half[1] == found(labels)[1]  # Correct is the first label.
    all_first = found(labels, tf.constant(others), tf.ones(8))
    assert all_first[0] == pytest.approx(found(labels)[0], rel=1e-5)
    assert found(labels, tf.constant(others), tf.constant(shares))[0] > 0
