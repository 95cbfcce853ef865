"""How much of a bare step's speed is left with everything around it: order, reading, prefetching, logs, measuring.

The bare step is a tf.function under the same strategy, with Keras's own Adam, on one batch in memory: what a first
script would be. The trainer's side is its own parts as `boceto train` puts them together. Both run in turns in one
process; a round is a few steps of each, and the ratio is the median of the rounds' own ratios: a machine that others
use drifts.

    python benchmarks/train_step.py --data DATA --batch-size 256 --steps 50

Reading (or, with --augment stroke, drawing anew) is measured alone too, with one thread.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from boceto import dataset
from boceto.console import quiet, table
from trainer import environment, losses

environment.prepare()
with quiet():
    import keras
    import tensorflow as tf

    from trainer import devices, nets, redraw, state
    from trainer.batches import StepRange, TrainingSet, prefetch, step_ranges
    from trainer.meter import GoodputTimer, Meter
    from trainer.nets import Spec
    from trainer.saver import TrainState
    from trainer.settings import Settings
    from trainer.steps import Placed, Steps

Round = Callable[[int], None]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a data set")
    parser.add_argument("--nets", default="sknet,skresnet", help="nets, with commas")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of the conv channels")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each side, in turns; the first is not counted")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--augment", default="none", choices=("none", "stroke"))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--deterministic", action="store_true", help="bit-exact operations, on both sides")
    return parser.parse_args()


def bare(strategy: Any, model: Any, images: np.ndarray, labels: np.ndarray) -> Round:
    """Steps of a plain loop on one batch that stays on its devices."""
    with strategy.scope():
        optimizer = keras.optimizers.Adam(1e-3)
        optimizer.build(model.trainable_variables)
    rows = len(images) // strategy.num_replicas_in_sync

    def place(array: np.ndarray) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[context.replica_id_in_sync_group * rows :][:rows])
        )

    def replica(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)["logits"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            scaled = loss / strategy.num_replicas_in_sync
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        return strategy.reduce("MEAN", strategy.run(replica, (images, labels)), axis=None)

    placed = place(images), place(labels)

    def run(count: int) -> None:
        for _ in range(count):
            loss = step(*placed)
        loss.numpy()

    return run


class Ours:
    """Steps of the trainer over the data set, as its loop does them."""

    def __init__(self, strategy: Any, model: Any, training_set: TrainingSet, settings: Settings) -> None:
        learned = state.create(strategy, model, settings)
        loss = losses.find(settings.loss, "", Spec(model.output["logits"].shape[1]))
        self._steps = Steps(learned, model, settings, loss, xla=devices.gpus())
        self.timer = GoodputTimer()
        endless = step_ranges(0, 1 << 40, 1)
        self._batches = prefetch(endless, self._read, settings.readers, lambda: self.timer.spending("waiting"))
        self._training_set = training_set
        self._meter = Meter(training_set, TrainState(learned), self.timer)

    def _read(self, call: StepRange) -> tuple[Placed, Sequence[bytes]]:
        batches = self._training_set.read(call)
        return self._steps.place(batches), batches.digests

    def run(self, count: int) -> None:
        """Does `count` steps."""
        for _ in range(count):
            call, (batch, digests) = next(self._batches)
            self._meter.add(call, self._steps.train(batch, call.first, [1e-3]), digests)
        self._meter.settle()


def seconds(run: Round, steps: int) -> float:
    """Of one round."""
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


def measure(name: str, training_set: TrainingSet, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one net."""
    manifest = training_set.split.manifest
    strategy = devices.strategy(0)
    settings = Settings(
        data=args.data,
        run="",
        batch_size=args.batch_size,
        precision=args.precision,
        readers=args.readers,
        groups=strategy.num_replicas_in_sync,
    )
    spec = Spec(
        len(manifest.classes),
        manifest.height,
        manifest.width,
        args.width,
        precision=args.precision,
        image_channels=manifest.channels,
    )
    first = training_set.read(StepRange(0, 1))
    with strategy.scope():
        models = [nets.build(name, spec) for _ in range(2)]
    plain = bare(strategy, models[0], first.images[0], first.labels[0])
    ours = Ours(strategy, models[1], training_set, settings)
    for run in (plain, ours.run):
        run(args.steps)  # Compiles.
    waited = ours.timer.seconds()["waiting"]

    def read(count: int) -> None:
        for step in range(count):
            training_set.read(StepRange(step, step + 1))

    times = [tuple(seconds(run, args.steps) for run in (plain, ours.run, read)) for _ in range(args.rounds)]
    sides = [statistics.median(side) for side in zip(*times, strict=True)]
    images = args.batch_size * args.steps
    return {
        "net": name,
        "bare_images_per_second": images / sides[0],
        "images_per_second": images / sides[1],
        "read_images_per_second": images / sides[2],
        "ratio": statistics.median(other / own for other, own, _ in times),
        "read_ratio": statistics.median(own / alone for _, own, alone in times),
        "waiting": (ours.timer.seconds()["waiting"] - waited) / sum(own for _, own, _ in times),
    }


def main() -> int:
    """Prints a table to standard error and one line of JSON to standard output."""
    args = arguments()
    if args.deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(0)
    split = dataset.load(args.data).split("train")
    redrawer = redraw.Redrawer(split, 1.0) if args.augment == "stroke" else None
    training_set = TrainingSet(split, None, 0, args.batch_size, redrawer=redrawer)
    results = [measure(name, training_set, args) for name in args.nets.split(",")]
    rows = [
        (
            result["net"],
            f"{result['bare_images_per_second']:.2f}",
            f"{result['images_per_second']:.2f}",
            f"{result['ratio']:.3f}",
            f"{result['waiting']:.2%}",
            f"{result['read_images_per_second']:.0f}",
            f"{result['read_ratio']:.1f}",
        )
        for result in results
    ]
    heads = ("net", "bare images/s", "images/s", "ratio", "waiting", "read images/s", "of images/s")
    print(table(heads, rows), file=sys.stderr)
    print(json.dumps({"benchmark": "train_step", **vars(args), "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
