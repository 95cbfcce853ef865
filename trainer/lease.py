"""The lease of a run: `RUN/lease.json` keeps two trainers from writing one run.

Its holder renews it a few times in its term, each time only if it is unchanged. Another trainer takes it over when it
was released, when its holder was a process of this machine that is gone, or when it has not been renewed for a whole
term by its own watch: no two machines' clocks are ever compared. The time accounts of the run ride on it.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boceto import contract, storage
from boceto.errors import BocetoError, Stopped
from trainer.stop import Stop

NAME = "lease.json"
FORMAT = "boceto-lease"
VERSION = 1
RENEWALS = 4  # In one term.
_LOOKS = 20
_DEAD = (b"Z", b"X")
_BEGUN = 19  # proc_pid_stat(5): field 22, counted from the third.
_DAMAGED = "someone whose lease cannot be read"


@dataclass(frozen=True)
class Heartbeat:
    """Where the run stood when the lease was renewed: its step, and its seconds by activity."""

    step: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Holder:
    """What `lease.json` says. term: seconds without renewal after which it is over. machine: of the kernel and the
    process namespace, "" where there is none; begun: when the process began, by that kernel's count.
    """

    token: str
    host: str
    machine: str
    process: int
    begun: str
    term: float
    renewed: float
    released: bool
    heartbeat: Heartbeat
    format: str = FORMAT
    version: int = VERSION

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def to_json(self) -> bytes:
        """The bytes of `lease.json`."""
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()


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
        self.heartbeat = heartbeat
        self._path = path
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
        started = time.monotonic()
        try:
            self._version = storage.replace_bytes(self._path, holder.to_json(), self._version)
        except storage.Changed:
            self._lost = f"the lease of the run was taken over by {_read(self._path)[0] or _DAMAGED}"
            return
        self._renewed = started


@contextlib.contextmanager
def held(
    run: str, term: float, stop: Stop, say: Callable[[str], None], seconds: Callable[[], Mapping[str, float]]
) -> Iterator[Lease]:
    """The lease of `run`, held while the block runs. seconds: of this session so far, by activity.

    Raises:
        Stopped: another trainer holds it, or it was asked to stop while it waited to see.
    """
    path = storage.join(run, NAME)
    me = _me(term)
    version, before = _take(path, me, stop, say)
    lease = Lease(path, me, version, before, lambda: _since(before, seconds()), stop)
    try:
        yield lease
    finally:
        lease.release()


def _take(path: str, me: Holder, stop: Stop, say: Callable[[str], None]) -> tuple[str, Heartbeat]:
    """-> (the version of our lease, the last heartbeat of the holder before)."""
    seen, since = "", 0.0
    while True:
        other, version = _read(path)
        with contextlib.suppress(FileExistsError, storage.Changed):  # Someone was faster: look again.
            if not version:
                return storage.create_bytes(path, me.to_json()), Heartbeat()
            term = other.term if other else me.term
            waited = time.monotonic() - since if seen == version else 0.0
            if (other and (other.released or _is_gone(other))) or waited > term:
                before = other.heartbeat if other else Heartbeat()
                return storage.replace_bytes(path, dataclasses.replace(me, heartbeat=before).to_json(), version), before
            if other and (_is_here(other) or (seen and seen != version)):
                raise Stopped(f"{path}: {other} is training this run; wait for it, or give another --run")
            if not seen:
                say(f"{other or _DAMAGED} held this run's lease; it is ours if it is not renewed within {term:g} s")
                seen, since = version, time.monotonic()
        if stop.wait(me.term / _LOOKS):
            stop.check()


def _since(before: Heartbeat, seconds: Mapping[str, float]) -> Heartbeat:
    """The heartbeat of a session that has not restored anything yet."""
    every = {*before.seconds, *seconds}
    return Heartbeat(before.step, {name: before.seconds.get(name, 0.0) + seconds.get(name, 0.0) for name in every})


def _read(path: str) -> tuple[Holder | None, str]:
    """-> (the holder, or None where it cannot be read; its version, or "" where there is no lease)."""
    try:
        data, version = storage.read_versioned(path)
    except FileNotFoundError:
        return None, ""
    try:
        return contract.read(Holder, contract.parse(data, FORMAT, VERSION)), version
    except ValueError:
        return None, version


def _me(term: float) -> Holder:
    process = os.getpid()
    return Holder(
        secrets.token_hex(8), socket.gethostname(), _machine(), process, _begun(process), term, time.time(),
        released=False, heartbeat=Heartbeat(),
    )  # fmt: skip


def _machine() -> str:
    """What tells this kernel's process namespace from all others; "" where there is no such thing."""
    try:
        kernel = storage.read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()
        return f"{kernel}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _begun(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks; "" where there is none, or only its exit status."""
    try:
        fields = storage.read_bytes(f"/proc/{process}/stat").rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in _DEAD else fields[_BEGUN].decode()


def _is_ours(other: Holder) -> bool:
    return bool(other.machine) and other.machine == _machine()


def _is_gone(other: Holder) -> bool:
    return _is_ours(other) and _begun(other.process) != other.begun


def _is_here(other: Holder) -> bool:
    return _is_ours(other) and _begun(other.process) == other.begun
