"""The lease of a run: `RUN/lease.json` keeps two trainers from writing one run.

Its holder renews it a few times in its term, each time only if it is unchanged. Another trainer takes it over when it
was released, when its holder was a process of this machine that is gone, or when it has not been renewed for a whole
term by its own watch: no two machines' clocks are ever compared. The time accounts of the run ride on it.
"""

import contextlib
import dataclasses
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from boceto import run as runs
from boceto import storage
from boceto.errors import BocetoError, Stopped
from boceto.lease import NAME, UNREADABLE, Heartbeat, Holder, begun, machine, read
from trainer.stop import Stop

RENEWALS = 4  # In one term.
_LOOKS = 20


class Held(BocetoError):  # noqa: N818 - it says what is so
    """Another trainer holds the run: a fault, worth another try."""


class Lease:
    """Held by this process; renewed in a thread until it is released."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it holds, and what it tells
        self,
        path: str,
        holder: Holder,
        version: str,
        before: Heartbeat,
        heartbeat: Callable[[], Heartbeat],
        stop: Stop,
    ) -> None:
        self.before = before
        self.lost: Holder | None = None  # The holder before, where it has not given the lease back.
        self.heartbeat = heartbeat
        self._path = path
        self._run = storage.parent(path)
        self._holder = holder
        self._version = version
        self._stop = stop
        self._lock = threading.Lock()
        self._renewed = time.monotonic()
        self._lost = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Makes sure that the lease is still held, for what only its holder may do.

        Raises:
            Stopped: it was taken over.
        """
        with self._lock:
            if not self._lost and time.monotonic() - self._renewed > self._holder.term / 2:
                self._renew(released=False)
            if self._lost:
                raise Stopped(f"{self._lost}; nothing more is written here")

    def release(self) -> None:
        """Gives it back; nothing happens where it was lost."""
        self._over.set()
        self._thread.join()
        with self._lock, contextlib.suppress(OSError, BocetoError):
            if not self._lost:
                self._renew(released=True)

    def _keep(self) -> None:
        while not self._over.wait(self._holder.term / RENEWALS):
            # What does not answer now may answer later: the lease is lost only to somebody.
            with self._lock, contextlib.suppress(OSError, BocetoError):
                self._renew(released=False)
            if self._lost:
                self._stop.request()
                return

    def _renew(self, *, released: bool) -> None:
        holder = dataclasses.replace(self._holder, renewed=time.time(), released=released, heartbeat=self.heartbeat())
        if released:
            with contextlib.suppress(OSError, BocetoError):  # Who inspects the run will know less.
                holder = dataclasses.replace(holder, left=runs.left(self._run))
        started = time.monotonic()
        try:
            self._version = storage.replace_bytes(self._path, holder.to_json(), self._version)
        except storage.Changed:
            if not self._renew_again(holder):
                return
        self._renewed = started

    def _renew_again(self, holder: Holder) -> bool:
        """Whether the lease is ours all the same: another version of it, or none, was found than we had left there."""
        other, version = read(self._path)
        if not version:  # Somebody has removed the file, which makes nobody else the holder.
            with contextlib.suppress(FileExistsError):
                self._version = storage.create_bytes(self._path, holder.to_json())
                return True
            other, version = read(self._path)
        if not other or other.token != self._holder.token:
            self._lost = f"the lease of the run was taken over by {other or UNREADABLE}"
            return False
        # An earlier renewal of ours had come through although its answer said otherwise, or none came.
        self._version = storage.replace_bytes(self._path, holder.to_json(), version)
        return True


@contextlib.contextmanager
def held(
    run: str, term: float, stop: Stop, say: Callable[[str], None], seconds: Callable[[], Mapping[str, float]]
) -> Iterator[Lease]:
    """The lease of `run`, held while the block runs. seconds: of this session so far, by activity.

    Raises:
        Held: another trainer holds it.
        Stopped: it was asked to stop while it waited to see.
    """
    path = storage.join(run, NAME)
    me = _me(term)
    version, other = _take(path, me, stop, say, seconds)
    before = _end_of(other)
    lease = Lease(path, me, version, before, lambda: _since(before, seconds()), stop)
    if other and not other.released:
        lease.lost = other
    try:
        yield lease
    finally:
        lease.release()


def _take(
    path: str, me: Holder, stop: Stop, say: Callable[[str], None], seconds: Callable[[], Mapping[str, float]]
) -> tuple[str, Holder | None]:
    """-> (the version of our lease, the holder before)."""
    seen, since = "", 0.0
    while True:
        other, version = read(path)
        with contextlib.suppress(FileExistsError, storage.Changed):  # Someone was faster: look again.
            if not version:
                return storage.create_bytes(path, _alive(me, Heartbeat(), seconds()).to_json()), None
            term = other.term if other else me.term
            waited = time.monotonic() - since if seen == version else 0.0
            if (other and (other.released or other.is_gone)) or waited > term:
                return storage.replace_bytes(path, _alive(me, _end_of(other), seconds()).to_json(), version), other
            if (other and other.is_here) or (seen and seen != version):
                raise Held(f"{path}: {other or UNREADABLE} is training this run; wait for it, or give another --run")
            if not seen:
                say(f"{other or UNREADABLE} held this run's lease; it is ours if it is not renewed within {term:g} s")
                seen, since = version, time.monotonic()
        if stop.wait(me.term / _LOOKS):
            stop.check()


def _alive(holder: Holder, before: Heartbeat, seconds: Mapping[str, float]) -> Holder:
    return dataclasses.replace(holder, heartbeat=_since(before, seconds))


def _end_of(holder: Holder | None) -> Heartbeat:
    """The last heartbeat of a holder. One that was killed lived on for half of the time between two, on average."""
    if not holder:
        return Heartbeat()
    last = holder.heartbeat
    if holder.released:
        return last
    unheard = {"lost": last.seconds.get("lost", 0.0) + holder.term / RENEWALS / 2}
    return dataclasses.replace(last, seconds={**last.seconds, **unheard})


def _since(before: Heartbeat, seconds: Mapping[str, float]) -> Heartbeat:
    """The heartbeat of a session that has not restored anything yet."""
    every = {*before.seconds, *seconds}
    spent = {name: before.seconds.get(name, 0.0) + seconds.get(name, 0.0) for name in every}
    return dataclasses.replace(before, seconds=spent, sessions=before.sessions + 1)


def _me(term: float) -> Holder:
    process = os.getpid()
    return Holder(
        secrets.token_hex(8), socket.gethostname(), machine(), process, begun(process), term, time.time(),
        released=False, heartbeat=Heartbeat(),
    )  # fmt: skip
