"""Answers Prometheus: what a program tells (`boceto.telemetry`) at `http://host:port/metrics`."""

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

from boceto import __version__
from boceto.errors import EXIT_DONE, EXIT_FAULT, PASSING, BocetoError, SettingsError, Stopped
from boceto.telemetry import (
    BUILD,
    COUNTER,
    EXIT_CODE,
    GAUGE,
    HISTOGRAM,
    LINGER,
    METRICS,
    SAVE_BUCKETS,
    Metric,
    Telemetry,
    Wait,
)

LOOK = 0.2  # Seconds between looks at who has scraped.


class Prometheus(Telemetry):
    """Answers at `http://host:port/metrics` with a registry of its own."""

    def __init__(self, program: str, port: int) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector

        self._program, self._port = program, port
        self._server: Any = None
        self._registry = CollectorRegistry()
        self._families: dict[Metric, Any] = {}
        ProcessCollector(registry=self._registry)
        for metric in METRICS:  # What counts begins at 0, so that the first increase is one.
            if metric.kind != GAUGE and metric.program in {program, ""}:
                for values in itertools.product(*metric.labels.values()):
                    self._child(metric, dict(zip(metric.labels, values, strict=True)))
        self.set(BUILD, 1, program=program, version=__version__)
        self._told = False

    def serve(self) -> None:
        """Starts the server."""
        from prometheus_client import make_wsgi_app

        from boceto.metrics_server import MetricsServer

        try:
            self._server = MetricsServer(self._port, make_wsgi_app(self._registry))
        except OSError as error:
            if error.errno in PASSING:
                raise
            raise SettingsError(
                f"{self._program}.metrics_port = {self._port}: {error.strerror}; use another port, or 0"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._told = True
        self._child(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._told = True
        if math.isnan(value):
            return
        self._child(metric, labels).set(value)

    def observe(self, metric: Metric, value: float) -> None:
        """Counts a value into a histogram."""
        self._child(metric, {}).observe(value)

    def text(self) -> bytes:
        """The last values."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def end(self, code: int, seconds: float | None, wait: Wait) -> None:
        """Waits until all clients that scraped before have scraped again; where none has, for two scrapes: a rate
        needs two.
        """
        if not self._told or not self._server:
            return
        self.set(EXIT_CODE, code)
        before, ended = frozenset(self._server.scraped), time.monotonic()
        if seconds is None:
            seconds = LINGER if before else 0.0
        since = ended
        for _ in range(1 if before else 2):
            while not self._scraped(before, since):
                if time.monotonic() >= ended + seconds or wait(LOOK):
                    return
            since = time.monotonic()

    def _scraped(self, before: frozenset[str], since: float) -> bool:
        """Whether some client has scraped since then, and of those before all."""
        clients = {client for client, when in self._server.scraped.copy().items() if when > since}
        return bool(clients) and clients >= before

    def close(self) -> None:
        """Ends the server and frees its port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _child(self, metric: Metric, labels: dict[str, str]) -> Any:
        family = self._families.get(metric) or self._families.setdefault(metric, self._family(metric))
        return family.labels(**labels) if metric.labels else family

    def _family(self, metric: Metric) -> Any:
        from prometheus_client import Counter, Gauge, Histogram

        words = (metric.name, metric.help, tuple(metric.labels))
        if metric.kind == HISTOGRAM:
            return Histogram(*words, buckets=SAVE_BUCKETS, registry=self._registry)
        return (Counter if metric.kind == COUNTER else Gauge)(*words, registry=self._registry)


@contextlib.contextmanager
def serving(program: str, port: int, linger: float | None, wait: Wait = time.sleep) -> Iterator[Telemetry]:
    """The telemetry of `program`; it answers from its `serve` on, until the block has ended and was scraped once more.

    It lingers for at most `linger` seconds, also where the block fails: only what was asked to stop, and what never
    began, ends at once. linger: None waits LINGER seconds, and only where somebody has scraped before. port: 0 tells
    nobody. wait: waits some seconds, and returns true where the program is asked to stop.
    """
    telemetry = Prometheus(program, port) if port else Telemetry()
    try:
        yield telemetry
    except (Stopped, SettingsError):
        raise
    except (BocetoError, OSError, MemoryError) as error:
        _end(telemetry, getattr(error, "exit_code", EXIT_FAULT), linger, wait)
        raise
    else:
        _end(telemetry, EXIT_DONE, linger, wait)
    finally:
        telemetry.close()


def _end(telemetry: Telemetry, code: int, seconds: float | None, wait: Wait) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # Nothing is left to be stopped.
        telemetry.end(code, seconds, wait)
