from types import ModuleType

import numpy as np
import pytest

from boceto import lookup
from boceto.errors import SettingsError
from eval_jobs import metrics
from eval_jobs.means import Bootstrap, Mean
from eval_jobs.model import Predictions
from eval_jobs.retrieval import Rankings, rankings

BOOTSTRAP = Bootstrap(20, seed=3)
CLASSES = 7
METRICS = metrics.find()


def predictions(random, count):
    logits = random.integers(0, 4, (count, CLASSES)).astype(np.float32)
    embedding = random.random((count, 3), np.float32)
    return Predictions(random.integers(0, CLASSES, count).astype(np.int32), logits, embedding)


def ranked(random, count):
    relevant = random.integers(1, 5, count)
    ranks = [np.sort(random.permutation(40)[:many]) + 1 for many in relevant]
    return Rankings(random.integers(0, CLASSES, count).astype(np.int32), relevant, np.concatenate([*ranks, []]))


MAKERS = {Predictions: predictions, Rankings: ranked}


def value(metric, *batches):
    state = metric.empty(CLASSES)
    for batch in batches:
        state = metric.add(state, batch)
    return metric.value(state, BOOTSTRAP)


@pytest.mark.parametrize("name", METRICS)
def test_the_value_of_a_merger_is_the_value_of_everything(name):
    metric = METRICS[name]
    random = np.random.default_rng(1)
    parts = [MAKERS[metric.reads](random, count) for count in (9, 1, 30, 17, 100)]
    states = [metric.add(metric.empty(CLASSES), part) for part in parts]
    everything = value(metric, *parts)
    left = metric.merge(metric.merge(metric.merge(states[0], states[1]), states[2]), metric.merge(*states[3:]))
    right = metric.merge(states[4], metric.merge(metric.empty(CLASSES), metric.merge(states[3], states[2])))
    right = metric.merge(right, metric.merge(states[1], states[0]))
    assert metric.value(left, BOOTSTRAP) == metric.value(right, BOOTSTRAP) == everything


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is_and_bears_emptiness(name):
    assert len(METRICS[name].definition) > 20
    value(METRICS[name])


def test_the_registry_knows_what_reads_what():
    assert set(metrics.reading(Predictions)) >= {"accuracy", "top_5", "confusion"}
    assert "mean_average_precision" in metrics.reading(Rankings)


def test_accuracy_top_5_and_confusion_by_hand():
    logits = np.array(
        [[3, 1, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 5, 0], [5, 9, 0, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0, 0]], np.float32
    )
    batch = Predictions(np.array([0, 4, 0, 0], np.int32), logits, np.zeros((4, 2), np.float32))
    accuracy = value(METRICS["accuracy"], batch)
    assert accuracy["value"] == 1 / 4  # The tie in the last row is a miss.
    assert accuracy["per_class"][0]["value"] == 1 / 3
    assert accuracy["per_class"][1] == {"value": None, "low": None, "high": None, "drawings": 0}
    assert value(METRICS["top_5"], batch)["value"] == 3 / 4  # 5 ties with another 5: rank 6.
    confusion = np.array(value(METRICS["confusion"], batch))
    assert confusion[0].tolist() == [1, 2, 0, 0, 0, 0, 0]
    assert confusion[4, 0] == 1
    assert confusion.sum() == 4


def test_average_precision_and_precision_by_hand():
    # Two queries: hits at ranks 1 and 4 of a class, at rank 2 of another.
    batch = Rankings(np.array([0, 1], np.int32), np.array([2, 1]), np.array([1, 4, 2]))
    scores = value(METRICS["mean_average_precision"], batch)
    assert [scores["per_class"][label]["value"] for label in (0, 1)] == [(1 / 1 + 2 / 4) / 2, 1 / 2]
    assert scores["value"] == (0.75 + 0.5) / 2
    assert value(METRICS["precision_at_1"], batch)["value"] == 1 / 2
    assert value(METRICS["precision_at_5"], batch)["value"] == pytest.approx((2 / 5 + 1 / 5) / 2)
    assert value(METRICS["precision_at_10"], batch)["value"] == pytest.approx((2 / 10 + 1 / 10) / 2)


def test_a_class_of_one_yields_no_query():
    embeddings = np.array([[0.0], [1.0], [0.5]], np.float32)
    scores = value(METRICS["mean_average_precision"], *rankings(embeddings, np.array([0, 0, 1])))
    assert scores["value"] == 1 / 2
    assert scores["per_class"][1]["value"] is None


@pytest.mark.parametrize("accuracy_of_confusion", range(3))
def test_confusion_and_accuracy_agree(accuracy_of_confusion):
    batch = predictions(np.random.default_rng(accuracy_of_confusion), 200)
    confusion = np.array(value(METRICS["confusion"], batch))
    assert np.trace(confusion) / 200 == value(METRICS["accuracy"], batch)["value"]


def test_a_file_without_a_metric_is_named(monkeypatch):
    monkeypatch.setattr(lookup, "modules", lambda _: {"brier": ModuleType("brier")})
    with pytest.raises(SettingsError, match=r"eval_jobs/metrics/brier\.py: it has no METRIC"):
        metrics.find()


class _Short(Mean):
    def value(self, state, bootstrap):
        return {"value": 1.0, "per_class": [1.0]}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (Mean(Predictions, lambda batch: np.full(len(batch.labels), np.nan), ""), "not JSON compliant"),
        (Mean(Predictions, lambda _: np.ones(3), ""), "IndexError"),
        (Mean(Predictions, lambda batch: np.ones((len(batch.labels), 2)), ""), "ValueError"),
        (_Short(Predictions, lambda batch: batch.labels, ""), "per_class has 1 entries for 7 classes"),
    ],
)
def test_a_metric_that_fails_is_named(metric, said):
    chosen = {"brier": metric}
    with pytest.raises(SettingsError, match=rf"eval_jobs/metrics/brier\.py: .*{said}"):
        states = metrics.add(chosen, {"brier": metric.empty(CLASSES)}, predictions(np.random.default_rng(0), 9))
        metrics.values(chosen, states, BOOTSTRAP, CLASSES)
