import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boceto.errors import DataError, SettingsError
from eval_jobs import retrieval

_SPEC = importlib.util.spec_from_file_location("oracles", Path(__file__).with_name("oracles.py"))
oracles = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracles)


def found(embeddings, labels, distance="l2"):
    """The ranks of each query, in the order of the classes."""
    parts = list(retrieval.rankings(embeddings, labels, distance))
    return [list(one) for part in parts for one in np.split(part.ranks, part.starts[1:]) if len(one)]


def expected(embeddings, labels, distance="l2"):
    """The same by the oracle."""
    order = np.argsort(labels, kind="stable")
    rows = embeddings[order]
    if distance == "l2_normalised":
        norms = np.sqrt(np.cumsum(rows.astype(np.float64) ** 2, axis=1)[:, -1])
        rows = (rows / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
    between = oracles.distances(rows, cosine=distance == "cosine")
    return [list(one) for one in oracles.ranks(between, labels[order]) if len(one)]


@pytest.mark.parametrize("distance", retrieval.DISTANCES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), drawings=st.integers(1, 40), dimensions=st.integers(1, 9), classes=st.integers(1, 6))
def test_the_ranks_are_the_oracles_with_ties_and_duplicates(distance, seed, drawings, dimensions, classes):
    random = np.random.default_rng(seed)
    few = random.integers(0, 3, (drawings, dimensions)).astype(np.float32)
    smooth = np.maximum(0, random.standard_normal((drawings, dimensions))).astype(np.float32)
    labels = random.integers(0, classes, drawings)
    for embeddings in (few, smooth):
        assert found(embeddings, labels, distance) == expected(embeddings, labels, distance)


@pytest.mark.parametrize("distance", retrieval.DISTANCES)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
def test_the_ranks_are_exact_where_a_matrix_product_is_not(distance, scale):
    # Permutations of few vectors: squared norms are all the same, many distances tie or differ in the last bits.
    random = np.random.default_rng(5)
    few = (100 + random.standard_normal((6, 256))).astype(np.float32) * np.float32(scale)
    embeddings = np.concatenate([few, np.roll(few, 1, axis=1), few[:, ::-1], np.nextafter(few, np.float32(np.inf))])
    labels = random.integers(0, 4, len(embeddings))
    assert found(embeddings, labels, distance) == expected(embeddings, labels, distance)


def test_an_outlier_among_the_norms_changes_nothing():
    random = np.random.default_rng(6)
    embeddings = np.maximum(0, random.standard_normal((90, 20))).astype(np.float32)
    embeddings[17] *= 1e9
    labels = random.integers(0, 7, 90)
    assert found(embeddings, labels) == expected(embeddings, labels)


def test_a_collapsed_net_ranks_every_hit_last():
    assert found(np.zeros((6, 4), np.float32), np.array([0, 0, 0, 1, 1, 2])) == [[4, 5]] * 3 + [[5]] * 2


def test_blocks_and_groups_change_nothing(monkeypatch):
    random = np.random.default_rng(7)
    embeddings = random.integers(0, 4, (150, 8)).astype(np.float32)
    labels = random.integers(0, 9, 150)
    whole = found(embeddings, labels)
    monkeypatch.setattr(retrieval, "BLOCK", 16)
    monkeypatch.setattr(retrieval, "GROUP_ENTRIES", 20 * retrieval.kernels.BUCKETS)
    assert len(list(retrieval.rankings(embeddings, labels))) > 2
    assert found(embeddings, labels) == whole == expected(embeddings, labels)


def test_a_case_by_hand():
    # On a line: a at 0 and 3, b at 1 and 3 (as far as a's own), c alone.
    embeddings = np.array([[0], [3], [1], [3], [9]], np.float32)
    assert found(embeddings, np.array([0, 0, 1, 1, 2])) == [[3], [3], [3], [2]]


def test_no_query_at_all():
    assert found(np.eye(3, dtype=np.float32), np.arange(3)) == []
    assert found(np.empty((0, 4), np.float32), np.empty(0, int)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e16])
def test_what_is_not_finite_is_refused(value):
    embeddings = np.zeros((5, 3), np.float32)
    embeddings[2, 1] = value
    with pytest.raises(DataError, match=r"1 of 5 .* number 2"):
        found(embeddings, np.zeros(5, int))


def test_an_unknown_distance_is_refused_by_name():
    with pytest.raises(SettingsError, match="'l1' is unknown; the distances are l2, "):
        found(np.zeros((2, 2), np.float32), np.zeros(2, int), "l1")


def test_twenty_thousand_embeddings_stay_under_two_gigabytes():
    program = """
        from pathlib import Path
        import numpy as np
        from eval_jobs import retrieval
        random = np.random.default_rng(0)
        embeddings = random.standard_normal((20000, 1024), np.float32)
        labels = np.arange(20000) % 2  # The most relevant pairs that can be.
        part = next(retrieval.rankings(embeddings, labels))
        assert len(part.ranks) == part.relevant.sum() > 0
        # Not ru_maxrss, which begins with that of the process that started this one.
        print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True, timeout=300
    )
    assert int(done.stdout) * 1024 < 2e9
