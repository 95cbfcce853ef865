"""The Prometheus metrics of all programs. The only place where their names are written.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters, `_ratio` for shares from 0
to 1, `_info` for words. A label has few values: they are known beforehand, or a process has one of them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from boceto.settings import option

# The phases of a step.
STEP_ACTIVITIES = ("waiting", "computing", "saving")
# The activities of a run's wall time, over all its sessions. `lost` is the time of steps that were done again.
ACTIVITIES = ("starting", "restoring", "computing", "waiting", "validating", "saving", "lost")
SAVED = "saved"
SAVE_RESULTS = (SAVED, "disk_full", "storage", "damaged", "memory")
PROGRAMS = ("prepare", "train", "eval")

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True)
class Metric:
    """A metric. labels: the values of each label, or () if they are known later."""

    kind: str
    name: str
    help: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def program(self) -> str:
        """Returns the program that reports it, or "" if all programs do."""
        word = self.name.split("_")[1]
        return word if word in PROGRAMS else ""


def _counter(name: str, help: str, **labels: tuple[str, ...]) -> Metric:
    return Metric(COUNTER, name, help, labels)


def _gauge(name: str, help: str, **labels: tuple[str, ...]) -> Metric:
    return Metric(GAUGE, name, help, labels)


BUILD = _gauge("boceto_build_info", "1; what runs here", program=PROGRAMS, version=())
EXIT_CODE = _gauge("boceto_exit_code", "Exit code of a program that has ended by itself: 0 is done")

READ = _counter("boceto_prepare_drawings_read_total", "Drawings read from the input, good or bad")
REFUSED = _counter("boceto_prepare_drawings_refused_total", "Drawings refused", reason=())
WRITTEN = _counter("boceto_prepare_records_written_total", "Records in finished shards")
PARTS = _gauge("boceto_prepare_parts", "Parts of the input, by what became of them", state=("read", "planned"))
SHARDS = _gauge("boceto_prepare_shards", "Shards, by what became of them", state=("written", "planned"))
LEFT = _gauge("boceto_prepare_left_seconds", "Estimated time left")
PREPARED = _gauge("boceto_prepare_last_progress_timestamp_seconds", "When a file was last finished, Unix time")

RUN = _gauge("boceto_train_run_info", "1; what is trained", net=(), data=())
STEPS = _counter("boceto_train_steps_total", "Steps done by this process")
IMAGES = _counter("boceto_train_images_total", "Images trained on by this process")
SECONDS = _counter("boceto_train_seconds_total", "Time of this process's steps, by phase", activity=STEP_ACTIVITIES)
STEP = _gauge("boceto_train_step", "Steps of the run that are done, over all its sessions")
LAST_STEP = _gauge("boceto_train_last_step", "Steps of the run when it is finished")
TRAIN_LEFT = _gauge("boceto_train_left_seconds", "Estimated time left")
BEST_STEP = _gauge("boceto_train_best_step", "Step with the best validation so far")
EXPORTED_STEP = _gauge("boceto_train_exported_step", "Step that was exported; the run is finished then")
EPOCH = _gauge("boceto_train_epoch", "Position in the data, in epochs")
PROGRESSED = _gauge("boceto_train_last_progress_timestamp_seconds", "When a step was last done, Unix time")
LOSS = _gauge("boceto_train_loss", "Mean cross entropy in nats", split=("train", "validation"))
ACCURACY = _gauge("boceto_train_accuracy_ratio", "Share of correct answers", split=("train", "validation"))
RATE = _gauge("boceto_train_learning_rate", "Learning rate of the last step")
NORM = _gauge("boceto_train_gradient_norm", "Global norm of the last step's gradients, before clipping")
NOT_FINITE = _counter("boceto_train_not_finite_total", "Losses or weights that were not finite; the run ends at one")
REPLICAS = _gauge("boceto_train_replicas", "Replicas of the net in this process")
MEMORY = _gauge("boceto_train_device_memory_bytes", "Memory in use on a GPU", device=(), state=("current", "peak"))
SAVES = _counter("boceto_train_saves_total", "Saves of this process, by what became of them", result=SAVE_RESULTS)
FAILED_SAVES = _gauge("boceto_train_failed_saves", "Saves in a row that have failed until now", result=SAVE_RESULTS[1:])
SAVE_SECONDS = Metric(HISTOGRAM, "boceto_train_save_seconds", "Time from the copy of a state to its durable checkpoint")
CHECKPOINT = _gauge("boceto_train_checkpoint_timestamp_seconds", "When the newest checkpoint was durable, Unix time")
CHECKPOINT_STEP = _gauge("boceto_train_checkpoint_step", "Step of the newest checkpoint")
CHECKPOINT_BYTES = _gauge("boceto_train_checkpoint_bytes", "Size of the newest checkpoint's arrays")
STEPS_LOST = _counter("boceto_train_steps_lost_total", "Steps done after the newest checkpoint, and so done again")
SESSIONS = _gauge("boceto_train_sessions", "Sessions of the run so far: 1 and one a restart")
WALL_TIME = _gauge("boceto_train_run_seconds", "Wall time of the run over all its sessions", activity=ACTIVITIES)
GOODPUT = _gauge("boceto_train_goodput_ratio", "Share of computing in the run's wall time")

CLASSIFIED = _counter("boceto_eval_drawings_total", "Drawings classified", split=("train", "validation", "test"))
EVAL_ACCURACY = _gauge(
    "boceto_eval_accuracy_ratio",
    "Share of correct answers",
    split=("train", "validation", "test"),
    net=(),
    data=(),
)
MAP = _gauge("boceto_eval_map_ratio", "Retrieval mAP of the test split", distance=(), net=(), data=())

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
LINGER = 30.0  # Seconds: two scrape intervals.
SAVE_BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


Wait = Callable[[float], object]  # Waits some seconds; returns true if the program is asked to stop.


def port_option() -> Any:
    """Returns the setting `metrics_port` of a program."""
    return option(0, help="port of the Prometheus metrics; 0: off", at_least=0, at_most=65535)


def linger_option() -> Any:
    """Returns the setting `metrics_linger` of a program."""
    return option(
        None,
        help=f"seconds to serve the metrics after the end, until they are scraped; none: {LINGER:g} if they "
        "were scraped before, else 0",
        at_least=0,
        at_most=3600,
    )


def short(digest: str) -> str:
    """Returns a data set's digest as a label."""
    return digest[:12]


class Telemetry:
    """The metrics of a program. This class drops all values: the program has no metrics port."""

    def serve(self) -> None:
        """Starts the server. A program calls it after its forks.

        Raises:
            SettingsError: the port is taken or not allowed.
        """

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge. A gauge that was never set does not exist."""

    def observe(self, metric: Metric, value: float) -> None:
        """Counts a value into a histogram."""

    def now(self, metric: Metric) -> None:
        """Sets a gauge to the Unix time."""
        self.set(metric, time.time())

    def text(self) -> bytes:
        """Returns the last values in Prometheus's text format; empty if all values are dropped."""
        return b""

    def end(self, code: int, seconds: float | None, wait: Wait) -> None:
        """Sets the exit code, and waits at most `seconds` until it is scraped."""

    def close(self) -> None:
        """Stops the server."""
