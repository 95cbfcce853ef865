import numpy as np
import pytest

from eval_jobs.means import FEW, Bootstrap, resampled_means


def many(count):
    return np.random.default_rng(0).random(count)


def test_an_interval_is_a_function_of_the_values_and_the_seed_alone():
    values = many(300)
    first = Bootstrap(200, seed=4).interval(values, 1)
    assert Bootstrap(200, seed=4).interval(np.random.default_rng(9).permutation(values), 1) == first
    assert Bootstrap(200, seed=5).interval(values, 1) != first
    assert Bootstrap(200, seed=4).interval(values, 2) != first


@pytest.mark.parametrize("values", [many(400), (many(400) < 0.3).astype(float)], ids=["many values", "few values"])
def test_an_interval_is_as_wide_as_theory_says(values):
    low, high = Bootstrap(4000).interval(values, 0)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_equal_values_have_no_width():
    assert Bootstrap(10).interval(np.full(5, 0.25), 0) == (0.25, 0.25)
    assert Bootstrap(10).interval(np.array([1.0]), 0) == (1.0, 1.0)


@pytest.mark.parametrize("count", [FEW - 1, FEW + 1])
def test_as_many_resamples_as_asked_for(monkeypatch, count):
    monkeypatch.setattr("eval_jobs.means.CHUNK", 3 * count)
    means = resampled_means(many(count), 10, np.random.default_rng(0))
    assert means.shape == (10,)
    assert len(set(means)) == 10
