"""The server behind a metrics port, which nobody can hold up."""

import socket
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

MOST = 32  # Connections at a time; a Prometheus has one.
PATIENCE = 10.0  # Seconds until a silent one is closed: a Prometheus waits as long for the answer.


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """A request is no news either."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A thread a connection, and no more of them than MOST: what comes then is closed unheard."""

    daemon_threads = True

    def __init__(self, port: int, app: Any) -> None:
        self._open: set[Any] = set()
        super().__init__(("", port), _Handler)
        self.set_app(app)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base class gives it
        """Whether there is room; one thread accepts, and so asks."""
        if len(self._open) >= MOST:
            return False
        self._open.add(request)
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who gave up before the answer is no news."""

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Ends a connection."""
        self._open.discard(request)
        super().shutdown_request(request)
