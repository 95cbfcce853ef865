"""The losses of the folder, against their definitions worked out with numpy."""

import numpy as np
import pytest
import tensorflow as tf

from boceto.errors import SettingsError
from trainer import losses
from trainer.nets import Spec

SPEC = Spec(3, embedding=4, seed=2)
RNG = np.random.default_rng(0)
LABELS = np.array([0, 2, 1, 1, 0, 2, 2])
OUTPUTS = {"logits": RNG.normal(size=(7, 3)), "embedding": RNG.normal(size=(7, 4)) + 0.5}
OUTPUTS = {name: value.astype(np.float32) for name, value in OUTPUTS.items()}
UNIT = OUTPUTS["embedding"] / np.linalg.norm(OUTPUTS["embedding"], axis=1, keepdims=True)


def softmax_loss(logits):
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), LABELS]


def contrastive():
    found = []
    for row, label in enumerate(LABELS):
        others = [other for other in range(len(LABELS)) if other != row]
        total = sum(np.exp(UNIT[row] @ UNIT[other] / 0.5) for other in others)
        same = [other for other in others if LABELS[other] == label]
        found.append(-np.mean([np.log(np.exp(UNIT[row] @ UNIT[other] / 0.5) / total) for other in same]))
    return np.array(found)


def centre(centres):
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return ((UNIT - centres[LABELS]) ** 2).sum(axis=1)


def arcface(directions):
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = UNIT @ directions.T
    angles = np.arccos(cosines[np.arange(len(LABELS)), LABELS])
    cosines[np.arange(len(LABELS)), LABELS] = np.cos(angles + 0.2)
    return softmax_loss(8 * cosines)


CASES = {
    "cross_entropy": ("", lambda: 0.0),
    "contrastive": ("share=2, temperature=0.5", lambda: 2 * contrastive()),
    "centre": ("share=0.25", lambda centres: 0.25 * centre(centres)),
    "arcface": ("share=0.5, margin=0.2, scale=8", lambda directions: 0.5 * arcface(directions)),
}


@pytest.mark.parametrize("name", losses.names())
def test_a_loss_is_its_definition(name):
    options, added = CASES[name]
    found = losses.find(name, options, SPEC)
    values = found.call(
        {key: tf.constant(value) for key, value in OUTPUTS.items()}, tf.constant(LABELS), dict(found.weights)
    )
    expected = softmax_loss(OUTPUTS["logits"]) + added(*found.weights.values())
    assert values.numpy() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", losses.names())
def test_gradients_are_finite_where_embeddings_are_zero_or_alone(name):
    found = losses.find(name, "", SPEC)
    embedding = tf.Variable(np.vstack([np.zeros((1, 4)), OUTPUTS["embedding"][:2]]).astype(np.float32))
    with tf.GradientTape() as tape:
        outputs = {"logits": tf.constant(OUTPUTS["logits"][:3]), "embedding": embedding}
        total = tf.reduce_sum(found.call(outputs, tf.constant([0, 1, 2]), dict(found.weights)))
    gradient = tape.gradient(total, embedding)
    assert np.isfinite(total.numpy())
    assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()


@pytest.mark.parametrize(
    ("result", "shape"), [("tf.constant(1.0)", r"float32\[\]"), ("outputs['logits']", r"float32\[2, 3\]")]
)
def test_a_loss_of_another_shape_is_refused(tmp_path, monkeypatch, result, shape):
    name = f"odd{len(result)}"
    (tmp_path / f"{name}.py").write_text(
        "import tensorflow as tf\n"
        "from trainer.losses.cross_entropy import Options\n"
        f"def loss(outputs, labels, weights, options):\n    return {result}\n"
    )
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    with pytest.raises(SettingsError, match=f"'{name}' gives {shape} for 2 records, and must give"):
        losses.find(name, "", SPEC)


def test_beyond_the_margin_the_angular_loss_still_rises():
    found = losses.find("arcface", "margin=0.5", Spec(2, embedding=2))
    directions = {"directions": np.eye(2, dtype=np.float32)}
    angles = np.linspace(0.1, 3.1, 30)
    embedding = np.stack([np.cos(angles), -np.sin(angles)], axis=1).astype(np.float32)
    outputs = {"logits": tf.zeros((30, 2)), "embedding": tf.constant(embedding)}
    one = {"directions": directions["directions"] * [[1], [0]]}
    values = found.call(outputs, tf.zeros(30, tf.int64), {key: value.astype(np.float32) for key, value in one.items()})
    assert (np.diff(values.numpy()) > 0).all()
