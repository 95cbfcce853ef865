"""Leave-one-out mAP: time and memory, against its one matrix product and against two libraries.

    python benchmarks/retrieval.py [--drawings 5000] [--dimensions 1024] [--per-class 50] [--repeats 5]

The libraries are used where they can be imported: scikit-learn, torch with torchmetrics. All sides must come to the
same mAP, within what rounding does to the order of near equals.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable

from eval_jobs import environment

environment.prepare()  # As the program does, for all sides. NumPy must come after it.
# ruff: noqa: E402 - as said

import numpy as np
from numpy.typing import NDArray

from boceto.console import table
from eval_jobs import metrics, retrieval
from eval_jobs.means import Bootstrap

Embeddings = NDArray[np.float32]
Labels = NDArray[np.int32]
DATA = ("trained", "random")
SAME = 1e-4  # The libraries rank by float32 distances, rounding and all.


def embeddings(kind: str, drawings: int, dimensions: int, per_class: int) -> tuple[Embeddings, Labels]:
    """float32[N, D], int32[N]: "trained" has classes that a net tells apart, after its ReLU; "random" has none."""
    random = np.random.default_rng(0)
    labels = (np.arange(drawings) // per_class).astype(np.int32)
    noise = random.standard_normal((drawings, dimensions), np.float32)
    if kind == "random":
        return noise, labels
    centres = np.abs(random.standard_normal((labels[-1] + 1, dimensions), np.float32))
    return np.maximum(0, 0.5 * centres[labels] + noise), labels


def boceto_map(rows: Embeddings, labels: Labels) -> float:
    """Boceto's own, without the intervals."""
    metric = metrics.find()["mean_average_precision"]
    state = metric.empty(int(labels[-1]) + 1)
    for part in retrieval.rankings(rows, labels):
        state = metric.add(state, part)
    return float(metric.value(state, Bootstrap(1))["value"])


def matrix_product(rows: Embeddings, _: Labels) -> float:
    """`E @ E.T` as numpy does it: by symmetry, half the work."""
    return float((rows @ rows.T)[0, 0])


def full_product(rows: Embeddings, _: Labels) -> float:
    """The product with a copy: numpy cannot see the symmetry."""
    return float((rows @ rows.copy().T)[0, 0])


def scikit_map(rows: Embeddings, labels: Labels) -> float:
    """scikit-learn: a matrix of distances and one `average_precision_score` a query."""
    from sklearn.metrics import average_precision_score, pairwise_distances

    distances = pairwise_distances(rows)
    found = []
    for query, row in enumerate(distances):
        others = np.arange(len(rows)) != query
        found.append(average_precision_score(labels[others] == labels[query], -row[others]))
    return float(np.mean(found))


def torchmetrics_map(rows: Embeddings, labels: Labels) -> float:
    """torchmetrics: a matrix of distances and `RetrievalMAP` over all pairs."""
    import torch
    from torchmetrics.retrieval import RetrievalMAP

    known, classes = torch.from_numpy(rows), torch.from_numpy(labels)
    distances = torch.cdist(known, known)
    others = ~torch.eye(len(rows), dtype=torch.bool)
    queries = torch.arange(len(rows)).repeat_interleave(len(rows) - 1)
    relevant = (classes[:, None] == classes[None, :])[others]
    # It counts no hit whose score is not above 0.
    return float(RetrievalMAP()(distances.max() + 1 - distances[others], relevant, indexes=queries))


def best_time(work: Callable[[Embeddings, Labels], float], rows: Embeddings, labels: Labels, repeats: int) -> float:
    """Seconds of the fastest of some repeats."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work(rows, labels)
        times.append(time.perf_counter() - begin)
    return min(times)


def compare(kind: str, options: argparse.Namespace) -> list[list[str]]:
    """A row a contestant: seconds, times Boceto's, mAP."""
    rows, labels = embeddings(kind, options.drawings, options.dimensions, options.per_class)
    score = boceto_map(rows, labels)  # Compiles.
    ours, product, full = [], [], []
    for _ in range(options.repeats):  # In turn, so that a slow spell of the machine meets all.
        product.append(best_time(matrix_product, rows, labels, 1))
        full.append(best_time(full_product, rows, labels, 1))
        ours.append(best_time(boceto_map, rows, labels, 1))
    own = min(ours)
    lines = [
        [f"{kind}: boceto", f"{own:.3f}", "1.00", f"{score:.6f}"],
        [f"{kind}: E @ E.T", f"{min(product):.3f}", f"{min(product) / own:.2f}", ""],
        [f"{kind}: E @ copy.T", f"{min(full):.3f}", f"{min(full) / own:.2f}", ""],
    ]
    for name, rival in (("scikit-learn", scikit_map), ("torchmetrics", torchmetrics_map)):
        try:
            begin = time.perf_counter()
            theirs = rival(rows, labels)
            seconds = time.perf_counter() - begin
        except ModuleNotFoundError as error:
            lines.append([f"{kind}: {name}", f"no module {error.name!r}", "", ""])
            continue
        assert abs(theirs - score) < SAME, (name, theirs, score)
        lines.append([f"{kind}: {name}", f"{seconds:.3f}", f"{seconds / own:.1f}", f"{theirs:.6f}"])
    print(f"{kind}: boceto takes {own / min(product):.2f} of E @ E.T, {own / min(full):.2f} of E @ copy.T")
    return lines


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=DATA, default=DATA)
    options = parser.parse_args()
    print(f"{options.drawings} x {options.dimensions}, {options.per_class} a class, {os.cpu_count()} threads")
    rows = [line for kind in options.kinds for line in compare(kind, options)]
    print(table(["", "seconds", "times boceto's", "mAP"], rows))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
