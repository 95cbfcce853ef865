"""The lease of a run, `RUN/lease.json`: the process that trains the run, or trained it last."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boceto import contract, storage
from boceto.checkpoint import MOST_SECONDS

NAME = "lease.json"
FORMAT = "boceto-lease"
VERSION = 2
LONGEST_TERM = 3600.0  # Seconds; a process that dies without a release keeps the run from others for so long.
UNREADABLE = "someone whose lease cannot be read"
_DEAD = (b"Z", b"X")
_BEGUN = 19  # proc_pid_stat(5): field 22, counted from the third.


@dataclass(frozen=True)
class Heartbeat:
    """The state of the run when the lease was renewed.

    seconds: wall time by activity. sessions: of the run so far, with the holder's. saved: the step of the newest
    checkpoint, 0 if there is none.
    """

    step: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    sessions: int = 0
    saved: int = 0

    def __post_init__(self) -> None:
        contract.within(0, contract.LARGEST, step=self.step, sessions=self.sessions, saved=self.saved)
        contract.within(0, MOST_SECONDS, **self.seconds)


@dataclass(frozen=True)
class Holder:
    """The content of `lease.json`.

    term: seconds without renewal after which the lease is over. machine: of the kernel and the process namespace, "" if
    unknown. begun: the start of the process, by that kernel's count. left: the checksum (crc32c) of each file that the
    trainer left when it released the lease, by its name in the run's folder.
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
    left: Mapping[str, str] = field(default_factory=dict)
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        contract.within(0, LONGEST_TERM, term=self.term)
        contract.within(0, contract.LARGEST, process=self.process, renewed=self.renewed)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def to_json(self) -> bytes:
        """Returns the bytes of `lease.json`, sealed."""
        return contract.sealed(dataclasses.asdict(self))

    @property
    def is_gone(self) -> bool:
        """Returns whether the holder is a process of this machine that has ended."""
        return self._is_ours and begun(self.process) != self.begun

    @property
    def is_here(self) -> bool:
        """Returns whether the holder is a process of this machine that still runs."""
        return self._is_ours and begun(self.process) == self.begun

    @property
    def _is_ours(self) -> bool:
        return bool(self.machine) and self.machine == machine()


def read(path: str) -> tuple[Holder | None, str]:
    """Returns the holder, None if it cannot be read, and the version of the file, "" if there is no lease."""
    try:
        data, version = storage.read_versioned(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    try:
        holder = contract.read(Holder, contract.parse_sealed(data, FORMAT, VERSION))
        contract.within(0, MOST_SECONDS / 2, seconds=sum(holder.heartbeat.seconds.values()))
    except ValueError:
        return None, version
    return holder, version


def machine() -> str:
    """Returns the name of this kernel's process namespace, different from all others; "" if it has none."""
    try:
        kernel = storage.read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()
        return f"{kernel}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def begun(process: int) -> str:
    """Returns the start of a process of this machine, in the kernel's ticks; "" if it does not run."""
    try:
        fields = storage.read_bytes(f"/proc/{process}/stat").rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in _DEAD else fields[_BEGUN].decode()
