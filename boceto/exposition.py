"""Answers Prometheus: the metrics of a program (`boceto.telemetry`) at `http://host:port/metrics`.

The server is ours (decision 25): a client that is silent or slow cannot hold it up, and the program's end waits for the
clients that have scraped.
"""

import contextlib
import itertools
import math
import socket
import threading
import time
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

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

LOOK = 0.2  # Seconds between looks at the clients that have scraped.
PATH = "/metrics"
MOST = 32  # Connections at a time; a Prometheus has one.
PATIENCE = 10.0  # Seconds from a connection's begin to its end: a Prometheus waits as long for the answer.


class _Handler(WSGIRequestHandler):
    server: "MetricsServer"

    def handle(self) -> None:
        """Answers, and notes the time whose values this client knows."""
        began = time.monotonic()
        super().handle()
        if getattr(self, "path", "").partition("?")[0] == PATH:
            self.server.scraped[self.client_address[0]] = began

    def log_message(self, format: str, *args: Any) -> None:
        """A request is not reported."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A thread a connection. A new connection is always heard: the oldest one ends where there are MOST."""

    daemon_threads = True
    request_queue_size = 128  # Else a burst of connections makes others wait for seconds.
    # One socket hears IPv4 and IPv6, where the system has both.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, app: Any) -> None:
        self._open: dict[Any, float] = {}  # The start of each connection, oldest first.
        self.scraped: dict[str, float] = {}  # By client, the start of the last scrape that was answered.
        super().__init__(("", port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Binds the port."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a connection."""
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Ends connections that take too long or are too many; runs after each new one, and twice a second."""
        connections = list(self._open.items())
        overdue = time.monotonic() - PATIENCE
        for place, (request, began) in enumerate(connections):
            if began <= overdue or place < len(connections) - MOST:
                self._open.pop(request, None)
                with contextlib.suppress(OSError):  # Its client has ended it.
                    request.shutdown(socket.SHUT_RDWR)  # Its thread wakes.

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up before the answer is not reported."""

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)


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
        """Returns the last values."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def end(self, code: int, seconds: float | None, wait: Wait) -> None:
        """Waits until all clients that scraped before have scraped again. If there are none, it waits for two scrapes:
        a rate needs two.
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
        """Returns whether a client has scraped since then, and all clients of before have."""
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
    """Yields the telemetry of `program`. It answers from its `serve` on, until the block has ended and was scraped.

    It lingers for at most `linger` seconds, also if the block fails. A program that was asked to stop, or never began,
    ends at once. linger: None is LINGER seconds if a client has scraped before, else 0. port: 0 is no server. wait:
    waits some seconds, and returns true if the program is asked to stop.
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
