"""The Prometheus metrics of all programs. The only place where their names are written.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows.
"""

import contextlib
from collections.abc import Iterator, Mapping

from boceto.errors import SettingsError

STEP_ACTIVITIES = ("waiting", "computing", "saving")
# Where all wall time of a run goes, over its sessions; `lost` is that of steps which had to be done again.
ACTIVITIES = ("starting", "restoring", "computing", "waiting", "validating", "saving", "lost")


class Telemetry:
    """What the trainer tells of itself. This one tells nobody."""

    def info(self, labels: Mapping[str, str]) -> None:
        """What the run is."""

    def steps(self, steps: int, images: int, seconds: Mapping[str, float]) -> None:
        """Steps done, the images in them, and the seconds spent on each of STEP_ACTIVITIES."""

    def scores(self, split: str, loss: float, accuracy: float) -> None:
        """The loss and the accuracy (0..1) over a split."""

    def state(self, epoch: float, learning_rate: float) -> None:
        """The position in the data, in epochs, and the learning rate."""

    def wall_time(self, seconds: Mapping[str, float]) -> None:
        """The seconds of each of ACTIVITIES over all sessions of the run."""

    def saved(self, *, well: bool) -> None:
        """A save has ended, well or not."""

    def close(self) -> None:
        """Ends it."""


class Prometheus(Telemetry):
    """Answers at `http://host:port/metrics` with a registry of its own."""

    def __init__(self, port: int) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Info, start_http_server

        self.registry = registry = CollectorRegistry()
        self._info = Info("boceto_train_run", "What is trained", registry=registry)
        self._steps = Counter("boceto_train_steps_total", "Steps done by this process", registry=registry)
        self._images = Counter("boceto_train_images_total", "Images trained on by this process", registry=registry)
        self._seconds = Counter(
            "boceto_train_seconds_total", "Seconds of the loop, by activity", ["activity"], registry=registry
        )
        for activity in STEP_ACTIVITIES:
            self._seconds.labels(activity)
        self._wall_time = Gauge(
            "boceto_train_run_seconds", "Wall time of the run over all its sessions", ["activity"], registry=registry
        )
        self._goodput = Gauge(
            "boceto_train_goodput_ratio", "Share of computing in the run's wall time, 0..1", registry=registry
        )
        self._saves = Counter(
            "boceto_train_saves_total", "Saves of this process, by result", ["result"], registry=registry
        )
        for result in ("saved", "failed"):
            self._saves.labels(result)
        self._loss = Gauge("boceto_train_loss", "Mean cross entropy in nats", ["split"], registry=registry)
        self._accuracy = Gauge(
            "boceto_train_accuracy_ratio", "Share of right answers, 0..1", ["split"], registry=registry
        )
        self._rate = Gauge("boceto_train_learning_rate", "Learning rate of the last step", registry=registry)
        self._epoch = Gauge("boceto_train_epoch", "Position in the data, in epochs", registry=registry)
        try:
            self._server, self._thread = start_http_server(port, registry=registry)
        except OSError as error:
            raise SettingsError(f"train.metrics_port = {port}: {error.strerror}; use another port, or 0") from error

    def info(self, labels: Mapping[str, str]) -> None:
        """Sets the info metric."""
        self._info.info(dict(labels))

    def steps(self, steps: int, images: int, seconds: Mapping[str, float]) -> None:
        """Adds to the counters."""
        self._steps.inc(steps)
        self._images.inc(images)
        for activity, spent in seconds.items():
            self._seconds.labels(activity).inc(spent)

    def scores(self, split: str, loss: float, accuracy: float) -> None:
        """Sets the split's gauges."""
        self._loss.labels(split).set(loss)
        self._accuracy.labels(split).set(accuracy)

    def state(self, epoch: float, learning_rate: float) -> None:
        """Sets the gauges."""
        self._epoch.set(epoch)
        self._rate.set(learning_rate)

    def wall_time(self, seconds: Mapping[str, float]) -> None:
        """Sets the gauges."""
        for activity, spent in seconds.items():
            self._wall_time.labels(activity).set(spent)
        self._goodput.set(seconds["computing"] / max(1e-9, sum(seconds.values())))

    def saved(self, *, well: bool) -> None:
        """Adds to the counter."""
        self._saves.labels("saved" if well else "failed").inc()

    def close(self) -> None:
        """Ends the server and frees its port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving(port: int) -> Iterator[Telemetry]:
    """Answers Prometheus at `port` while the block runs; port 0 tells nobody.

    Raises:
        SettingsError: the port is taken or not allowed.
    """
    telemetry = Prometheus(port) if port else Telemetry()
    try:
        yield telemetry
    finally:
        telemetry.close()
