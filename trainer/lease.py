"""The lease of a run: `RUN/lease.json` keeps two trainers from writing one run.

The holder renews the lease a few times in a term, each time only if it is unchanged. Another trainer takes the lease
over when it was released, when its holder was a process of this machine that has ended, or when it has not been renewed
for a whole term by the other trainer's own clock: the clocks of two machines are never compared. The wall time of the
run by activity stands in it too.
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
_LOOKS = 20  # In one term, of a trainer that waits for the lease.


class Held(BocetoError):  # noqa: N818 - the name of a state
    """Another trainer holds the run: a fault, worth another try."""


class Lease:
    """A lease that this process holds. A thread renews it until it is released.

    before: the last heartbeat of the sessions before. killed: the holder before, if it did not release the lease.
    heartbeat: returns the heartbeat of a renewal; until it is set, of the `seconds` of this session by activity.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the file, its content, and its thread
        self,
        path: str,
        holder: Holder,
        version: str,
        other: Holder | None,
        seconds: Callable[[], Mapping[str, float]],
        stop: Stop,
    ) -> None:
        self.before = _last_heartbeat(other)
        self.killed = other if other and not other.released else None
        self.heartbeat: Callable[[], Heartbeat] = lambda: _since(self.before, seconds())
        self._path = path
        self._holder = holder
        self._version = version
        self._stop = stop
        self._lock = threading.Lock()
        self._renewed = time.monotonic()
        self._lost = ""  # Why the lease is lost.
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Makes sure that the lease is still held, before a write that only its holder may do.

        Raises:
            Stopped: another trainer has taken it over.
        """
        with self._lock:
            if not self._lost and time.monotonic() - self._renewed > self._holder.term / 2:
                self._renew(released=False)
            if self._lost:
                raise Stopped(f"{self._lost}; nothing more is written here")

    def release(self) -> None:
        """Releases the lease; nothing happens where it was lost."""
        self._over.set()
        self._thread.join()
        with self._lock, contextlib.suppress(OSError, BocetoError):
            if not self._lost:
                self._renew(released=True)

    def _keep(self) -> None:
        while not self._over.wait(self._holder.term / RENEWALS):
            # A storage that does not answer now may answer later: only another trainer takes the lease.
            with self._lock, contextlib.suppress(OSError, BocetoError):
                self._renew(released=False)
            if self._lost:
                self._stop.request()
                return

    def _renew(self, *, released: bool) -> None:
        holder = dataclasses.replace(self._holder, renewed=time.time(), released=released, heartbeat=self.heartbeat())
        if released:
            with contextlib.suppress(OSError, BocetoError):  # `boceto inspect` then checks less.
                holder = dataclasses.replace(holder, left=runs.left(storage.parent(self._path)))
        started = time.monotonic()
        try:
            self._version = storage.replace_bytes(self._path, holder.to_json(), self._version)
        except storage.Changed:
            if not self._renew_again(holder):
                return
        self._renewed = started

    def _renew_again(self, holder: Holder) -> bool:
        """Renews a lease that is not as this process left it; returns False where another trainer holds it."""
        other, version = read(self._path)
        if not version:  # Somebody has removed the file: no other trainer is the holder.
            with contextlib.suppress(FileExistsError):
                self._version = storage.create_bytes(self._path, holder.to_json())
                return True
            other, version = read(self._path)
        if not other or other.token != self._holder.token:
            self._lost = f"the lease of the run was taken over by {other or UNREADABLE}"
            return False
        # An earlier renewal of ours was written, although its answer was lost.
        self._version = storage.replace_bytes(self._path, holder.to_json(), version)
        return True


@contextlib.contextmanager
def held(
    run: str, term: float, stop: Stop, report: Callable[[str], None], seconds: Callable[[], Mapping[str, float]]
) -> Iterator[Lease]:
    """Holds the lease of `run` while the block runs. seconds: of this session so far, by activity.

    Raises:
        Held: another trainer holds it.
        Stopped: a stop was requested before it was known whether the lease is free.
    """
    path, process = storage.join(run, NAME), os.getpid()
    holder = Holder(
        secrets.token_hex(8), socket.gethostname(), machine(), process, begun(process), term, time.time(),
        released=False, heartbeat=Heartbeat(),
    )  # fmt: skip
    version, other = _take(path, holder, stop, report, seconds)
    lease = Lease(path, holder, version, other, seconds, stop)
    try:
        yield lease
    finally:
        lease.release()


def _take(
    path: str, holder: Holder, stop: Stop, report: Callable[[str], None], seconds: Callable[[], Mapping[str, float]]
) -> tuple[str, Holder | None]:
    """Takes the lease when it is free -> (the version of our lease, the holder before)."""
    seen, since = "", 0.0
    while True:
        other, version = read(path)
        first = dataclasses.replace(holder, heartbeat=_since(_last_heartbeat(other), seconds())).to_json()
        with contextlib.suppress(FileExistsError, storage.Changed):  # Another trainer was faster: look again.
            if not version:
                return storage.create_bytes(path, first), None
            term = other.term if other else holder.term
            waited = time.monotonic() - since if seen == version else 0.0
            if (other and (other.released or other.is_gone)) or waited > term:
                return storage.replace_bytes(path, first, version), other
            if (other and other.is_here) or (seen and seen != version):
                raise Held(f"{path}: {other or UNREADABLE} is training this run; wait for it, or give another --run")
            if not seen:
                name = other or UNREADABLE
                report(f"{name} held this run's lease; it is ours if it is not renewed within {term:g} s")
                seen, since = version, time.monotonic()
        if stop.wait(holder.term / _LOOKS):
            stop.check()


def _last_heartbeat(holder: Holder | None) -> Heartbeat:
    """The last heartbeat of a holder. A killed one lived on, on average, for half of the time between two renewals."""
    if not holder or holder.released:
        return holder.heartbeat if holder else Heartbeat()
    seconds = holder.heartbeat.seconds
    lost = seconds.get("lost", 0.0) + holder.term / RENEWALS / 2
    return dataclasses.replace(holder.heartbeat, seconds={**seconds, "lost": lost})


def _since(before: Heartbeat, seconds: Mapping[str, float]) -> Heartbeat:
    """The heartbeat of a session that has not restored anything yet."""
    every = {*before.seconds, *seconds}
    spent = {name: before.seconds.get(name, 0.0) + seconds.get(name, 0.0) for name in every}
    return dataclasses.replace(before, seconds=spent, sessions=before.sessions + 1)
