"""A storage that fails where it is told to: an adapter around an adapter, for processes that a test starts.

What happens is a real signal, a real error of the port, or what the real adapter leaves when it dies in the middle.
"""

import contextlib
import dataclasses
import errno
import http.client
import io
import json
import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from boceto import storage
from boceto.stores import Unavailable
from boceto.stores import file as local

KILLS = ("kill-before", "kill-after", "truncated")
TERMS = ("term-before", "term-after")
ERRORS = ("full", "unavailable", "lost-answer")
KINDS = (*KILLS, *TERMS, *ERRORS)
_HEARD = 0.05  # seconds until a signal has surely been seen by the thread that listens


@dataclass(frozen=True)
class Fault:
    """kind: one of KINDS, or "refused". pattern: of the URL; operation: write, create, replace, delete, or "" for any.

    at: the first matching operation that fails, from 1; times: how many do. holding: what the bytes must contain (of
    create and replace). told: a file that is made when it happens.
    """

    kind: str
    pattern: str
    operation: str = ""
    at: int = 1
    times: int = 1
    holding: str = ""
    told: str = ""

    def to_json(self):
        return json.dumps(dataclasses.asdict(self))


class FaultyStore:
    """Goes through to `inner` but for the fault."""

    def __init__(self, inner, fault, process):
        self._inner = inner
        self._fault = fault
        self._process = process
        self._seen = 0
        self._lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    @contextlib.contextmanager
    def writing(self, url):
        with self._around("write", url) as truncated:
            if not truncated:
                with self._inner.writing(url) as file:
                    yield file
                return
            file = io.BytesIO()
            yield file
            self._truncate(url, file.getvalue())

    def create(self, url, data):
        with self._around("create", url, data) as truncated:
            return self._truncate(url, data) if truncated else self._inner.create(url, data)

    def replace(self, url, data, version):
        with self._around("replace", url, data) as truncated:
            return self._truncate(url, data) if truncated else self._inner.replace(url, data, version)

    def delete(self, url):
        with self._around("delete", url):
            self._inner.delete(url)

    @contextlib.contextmanager
    def _around(self, operation, url, data=b""):
        kind = self._fault.kind if self._is_due(operation, url, data) else ""
        if kind and self._fault.told:
            Path(self._fault.told).touch()
        if kind == "kill-before":
            _die()
        if kind == "term-before":
            ask_to_end(self._process)
        if kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if kind == "refused":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), url)
        if kind == "unavailable":
            raise Unavailable(f"{url}: no correct answer within 120 s (503); check the network")
        yield kind == "truncated"
        if kind == "kill-after":
            _die()
        if kind == "term-after":
            ask_to_end(self._process)
        if kind == "lost-answer":
            raise Unavailable(f"{url}: the answer was lost")

    def _is_due(self, operation, url, data):
        fault = self._fault
        if fault.operation not in ("", operation) or not re.search(fault.pattern, url):
            return False
        if fault.holding.encode() not in data:
            return False
        with self._lock:
            self._seen += 1
            return fault.at <= self._seen < fault.at + fault.times

    def _truncate(self, url, data):
        """Dies when half of the bytes are on their way, as the real adapter does it."""
        if storage.is_local(url):
            with local.Store().writing(url) as file:
                file.write(data[: len(data) // 2])
                file.flush()
                _die()

        send = http.client.HTTPConnection.send

        def half(connection, sent):
            if data in bytes(sent):
                send(connection, sent[: len(sent) - len(data) // 2])
                _die()
            send(connection, sent)

        http.client.HTTPConnection.send = half
        self._inner.create(url, data)
        raise AssertionError("it was sent whole")


def install(fault):
    """From now on, the storage of this process has the fault, and that of its workers, which ask it to end."""
    real, faulty, process = storage._store, {}, os.getpid()

    def store(url):
        inner = real(url)
        return faulty.setdefault(id(inner), FaultyStore(inner, fault, process))

    storage._store = store


def _die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def ask_to_end(process=None):
    os.kill(process or os.getpid(), signal.SIGTERM)
    time.sleep(_HEARD)
