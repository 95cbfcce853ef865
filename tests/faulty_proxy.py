"""An HTTP proxy between a client and a server that does wrong on request; real sockets, a thread a connection.

    with FaultyProxy("http://127.0.0.1:4443") as proxy:
        rule = proxy.add(answer(503), method="POST", path="/upload/", count=2)
        ...                        # a client that speaks to proxy.url instead of the server
        assert rule.left == 0
        assert [request.method for request in proxy.log] == ["POST", "POST", "POST"]

A rule meets a request whose method is its own (None: any), whose path with its query holds `path` (a regular
expression), and which `when`, if given, accepts. Of the rules that meet it and have not met `count` requests yet, the
first added acts. What no rule meets is passed on as it is. The actions:

    answer(status)        answers by itself; the server hears nothing
    drop()                closes the connection before the server hears of it
    lose_answer()         the server does it, and the connection closes before the answer
    truncate(at)          the answer's body ends after `at` bytes, and the connection with it
    flip_answer(at)       the answer's byte `at` is another
    flip_request(at)      the request's byte `at`, counted from its end if negative, is another
    delay(seconds)        passed on after a while
    call(function)        calls function(request) before passing it on: to kill a process, or to change an object
"""

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


@dataclass
class Request:
    """What the client sent. path: with its query. status: what it was answered, None where it was not."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None = None
    fault: str | None = None


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Action:
    """before: changes the request, or answers it; None drops it. after: changes the answer; None drops it."""

    name: str
    before: Callable[[Request], Request | Answer | None] = lambda request: request
    after: Callable[[Answer], Answer | None] = lambda answer: answer
    send_at_most: int | None = None


def answer(status: int, body: bytes = b'{"error": {"message": "out of order"}}', **headers: str) -> Action:
    made = [("content-type", "application/json"), *((key.replace("_", "-"), value) for key, value in headers.items())]
    return Action(f"answer {status}", before=lambda _: Answer(status, made, body))


def drop() -> Action:
    return Action("drop", before=lambda _: None)


def lose_answer() -> Action:
    return Action("lose answer", after=lambda _: None)


def truncate(at: int) -> Action:
    return Action(f"truncate at {at}", send_at_most=at)


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x40
    return bytes(changed)


def flip_answer(at: int = 0) -> Action:
    return Action("flip answer", after=lambda it: Answer(it.status, it.headers, _flipped(it.body, at)))


def flip_request(at: int) -> Action:
    def before(request: Request) -> Request:
        request.body = _flipped(request.body, at)
        return request

    return Action("flip request", before=before)


def delay(seconds: float) -> Action:
    def before(request: Request) -> Request:
        time.sleep(seconds)
        return request

    return Action(f"delay {seconds}", before=before)


def call(function: Callable[[Request], object]) -> Action:
    def before(request: Request) -> Request:
        function(request)
        return request

    return Action("call", before=before)


@dataclass
class Rule:
    action: Action
    method: str | None = None
    path: str = ""
    left: int = 1
    when: Callable[[Request], bool] | None = None

    def meets(self, request: Request) -> bool:
        return (
            self.left > 0
            and self.method in {None, request.method}
            and re.search(self.path, request.path) is not None
            and (self.when is None or self.when(request))
        )


@dataclass
class FaultyProxy:
    """A context manager; `url` is where it listens. log: the requests so far, in order of arrival."""

    target: str
    log: list[Request] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def add(
        self,
        action: Action,
        *,
        method: str | None = None,
        path: str = "",
        count: int = 1,
        when: Callable[[Request], bool] | None = None,
    ) -> Rule:
        rule = Rule(action, method, path, count, when)
        with self._lock:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forgets the rules and the log."""
        with self._lock:
            self.rules.clear()
            self.log.clear()

    def action_for(self, request: Request) -> Action:
        with self._lock:
            self.log.append(request)
            rule = next((rule for rule in self.rules if rule.meets(request)), None)
            if rule is None:
                return Action("none")
            rule.left -= 1
            request.fault = rule.action.name
            return rule.action


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request, client_address) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no news."""

    def hang_up(self) -> None:
        """Ends the connections that clients keep open, and with them their threads."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyProxy

    def _serve(self) -> None:
        request = Request(
            self.command, self.path, {key.lower(): self.headers[key] for key in self.headers}, self._body()
        )
        action = self.owner.action_for(request)
        outcome = action.before(request)
        if isinstance(outcome, Request):
            outcome = action.after(self._forward(outcome))
        if outcome is None:
            self.close_connection = True
            return
        request.status = outcome.status
        self._send(outcome, action.send_at_most)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815 - the base class calls them so

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.owner.target).netloc, timeout=60)
        try:
            headers = {key: value for key, value in request.headers.items() if key not in _HOP_BY_HOP}
            connection.request(request.method, request.path, request.body or None, headers)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def _send(self, outcome: Answer, at_most: int | None) -> None:
        self.send_response_only(outcome.status)
        for key, value in outcome.headers:
            if key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("content-length", str(len(outcome.body)))
        self.end_headers()
        self.wfile.write(outcome.body if at_most is None else outcome.body[:at_most])
        if at_most is not None and at_most < len(outcome.body):
            self.wfile.flush()
            self.close_connection = True
