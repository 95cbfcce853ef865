"""Leave-one-out mAP: time and memory, against its one matrix product and against two libraries.

    python benchmarks/retrieval.py [--drawings 5000] [--dimensions 1024] [--per-class 50] [--repeats 5] [--rounds 5]

The libraries are used where they can be imported: scikit-learn, torch with torchmetrics. All sides must come to the
same mAP, within what rounding does to the order of near equals. Boceto and the products run in turns; times are
medians, but of the libraries, which run once.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray

from boceto.console import table
from eval_jobs import metrics, retrieval
from eval_jobs.__main__ import ENVIRONMENT
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


CONTESTANTS: dict[str, Callable[[Embeddings, Labels], float]] = {
    "boceto": boceto_map,
    "E @ E.T": matrix_product,
    "E @ copy.T": full_product,
    "scikit-learn": scikit_map,
    "torchmetrics": torchmetrics_map,
}
PRODUCTS = ("E @ E.T", "E @ copy.T")
LIBRARIES = ("scikit-learn", "torchmetrics")


def measure(name: str, kind: str, options: argparse.Namespace) -> dict[str, float | str]:
    """The median of some repeats of one contestant: seconds, score, peak memory in MiB; or the module it lacks."""
    rows, labels = embeddings(kind, options.drawings, options.dimensions, options.per_class)
    work = CONTESTANTS[name]
    slow = name in LIBRARIES
    times = []
    try:
        score = 0.0 if slow else work(rows, labels)  # Compiles, and wakes the threads.
        for _ in range(1 if slow else options.repeats):
            begin = time.perf_counter()
            score = work(rows, labels)
            times.append(time.perf_counter() - begin)
    except ModuleNotFoundError as error:
        return {"missing": str(error.name)}
    return {
        "seconds": median(times),
        "score": score,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(name: str, kind: str) -> dict[str, float | str]:
    """`measure` in a process of its own: Boceto with its program's environment, all others with the libraries' own."""
    changes = ENVIRONMENT if name == "boceto" else {}
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--kinds", kind]
    done = subprocess.run(command, env=os.environ | changes, stdout=subprocess.PIPE, check=True)
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def in_turns(kind: str, rounds: int) -> dict[str, dict[str, float | str]]:
    """Each contestant's figures: the libraries' of one process, the others' the median of one process a round."""
    results = {name: apart(name, kind) for name in LIBRARIES}
    quick = [name for name in CONTESTANTS if name not in LIBRARIES]
    found = [{name: apart(name, kind) for name in quick} for _ in range(rounds)]
    for name in quick:
        seconds = median(float(one[name]["seconds"]) for one in found)
        results[name] = found[-1][name] | {"seconds": seconds}
    return {name: results[name] for name in CONTESTANTS}


def compare(kind: str, rounds: int) -> list[list[str]]:
    """A row a contestant: seconds, times Boceto's, mAP, peak memory."""
    results = in_turns(kind, rounds)
    own = results["boceto"]
    lines = []
    for name, found in results.items():
        if "missing" in found:
            lines.append([f"{kind}: {name}", f"no module {found['missing']!r}", "", "", ""])
            continue
        seconds, score = float(found["seconds"]), float(found["score"])
        assert name in PRODUCTS or abs(score - float(own["score"])) < SAME, (name, score, own)
        shown = "" if name in PRODUCTS else f"{score:.6f}"
        ratio = f"{seconds / float(own['seconds']):.2f}"
        lines.append([f"{kind}: {name}", f"{seconds:.3f}", ratio, shown, f"{found['memory']:.0f}"])
    return lines


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--only", choices=CONTESTANTS, help="measure one in this process, print JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.kinds[0], options)))
        return 0
    print(f"{options.drawings} x {options.dimensions}, {options.per_class} a class, {os.cpu_count()} threads")
    rows = [line for kind in options.kinds for line in compare(kind, options.rounds)]
    print(table(["", "seconds", "times boceto's", "mAP", "MiB"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
