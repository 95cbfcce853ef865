"""The server behind a metrics port, which nobody can hold up."""

import contextlib
import socket
import time
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

PATH = "/metrics"
MOST = 32  # Connections at a time; a Prometheus has one.
PATIENCE = 10.0  # Seconds from a connection's begin to its end: a Prometheus waits as long for the answer.


class _Handler(WSGIRequestHandler):
    server: "MetricsServer"
    _scrapes = False

    def parse_request(self) -> bool:
        """Whether the request is one; notes a client that scrapes."""
        well = super().parse_request()
        self._scrapes = well and self.path.partition("?")[0] == PATH
        if self._scrapes:
            self.server.scraped.setdefault(self.client_address[0], 0.0)
        return well

    def handle(self) -> None:
        """Answers, and notes for which moment this client knows the values."""
        super().handle()
        if self._scrapes:
            self.server.answered(self.request, self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """A request is not reported."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A thread a connection. A new connection is always heard: the oldest one ends where there are MOST."""

    daemon_threads = True
    request_queue_size = 128  # Else a burst of connections makes others wait for seconds.
    # One socket hears IPv4 and IPv6, where the system has both.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, app: Any) -> None:
        self._open: dict[Any, float] = {}  # When each connection began, oldest first.
        # Of each client that has scraped, when its last connection that was answered began, by `time.monotonic`.
        self.scraped: dict[str, float] = {}
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
        self._end_all_but(MOST)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Ends what takes too long; the loop calls this after each connection, and twice a second."""
        overdue = time.monotonic() - PATIENCE
        self._end_all_but(sum(began > overdue for began in list(self._open.values())))

    def answered(self, request: Any, client: str) -> None:
        """Notes that a client was answered, where its connection was not ended before."""
        if began := self._open.get(request):
            self.scraped[client] = began

    def _end_all_but(self, newest: int) -> None:
        """Wakes the threads of the older connections: their client is silent, or slow."""
        for request in list(self._open)[: max(0, len(self._open) - newest)]:
            self._open.pop(request, None)
            with contextlib.suppress(OSError):  # Its client has ended it.
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up before the answer is not reported."""

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)
