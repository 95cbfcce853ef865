"""The memory that a process may take, and that it has taken. In a container, the limit of the container counts.

Sources: proc_meminfo(5) and proc_pid_status(5); the kernel's Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from boceto import storage

PROC, CGROUPS = "/proc", "/sys/fs/cgroup"
_GB = 10**9
_UNLIMITED = 1 << 60  # Version 1 says "no limit" with the largest number of whole pages.
_NVIDIA = ("--query-gpu=memory.free", "--format=csv,noheader,nounits")
# The files of the limit and of the usage; in memory.stat, the name of the page cache that the group would give up.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


class Memory(NamedTuple):
    """free: bytes that may still be taken. of: the owner of the limit, in words."""

    free: int
    of: str


def memory(proc: str = PROC, cgroups: str = CGROUPS) -> Memory | None:
    """Returns the tightest limit on this process: of the machine, or of a control group that the process is in.

    Returns None where there is no such information (no Linux).
    """
    machine = _table(f"{proc}/meminfo").get("MemAvailable:")
    found = [Memory(int(machine) * 1024, "this machine")] if machine else []
    return min([*found, *_groups(proc, cgroups)], default=None)


def peak(process: int) -> int:
    """Returns the highest resident memory of a process so far, in bytes; 0 where it is unknown (no Linux)."""
    return int(_table(f"{PROC}/{process}/status").get("VmHWM:", "0")) * 1024


def gpu_memory() -> list[int]:
    """Returns the bytes free on each GPU, as nvidia-smi reports them; an empty list without that tool."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    done = subprocess.run([tool, *_NVIDIA], capture_output=True, text=True, check=False)  # noqa: S603 - found by which
    lines = done.stdout.split() if done.returncode == 0 else []
    return [int(line) << 20 for line in lines if line.isdecimal()]


def size(count: int) -> str:
    """Returns a number of bytes in words, as "1.5 GB"."""
    return f"{count / _GB:,.1f} GB" if count >= _GB else f"{count / 1e6:,.1f} MB"


def _groups(proc: str, cgroups: str) -> Iterator[Memory]:
    """The limits of the groups of the process and of all groups above them.

    In a container the path may be the host's, so folders that do not exist are passed over.
    """
    for line in _lines(f"{proc}/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, (limit_file, usage_file, cache_name) = (f"{cgroups}/memory", _V1) if controllers else (cgroups, _V2)
        group = PurePosixPath("/", *(part for part in path.split("/") if part != ".."))
        for folder in (f"{top}{each}" for each in (group, *group.parents)):
            limit, usage = (_number(f"{folder}/{name}") for name in (limit_file, usage_file))
            if limit is not None and usage is not None and limit < _UNLIMITED:
                cache = int(_table(f"{folder}/memory.stat").get(cache_name, "0"))
                yield Memory(max(0, limit - usage + cache), f"the container's limit of {limit / _GB:,.1f} GB")


def _number(path: str) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _table(path: str) -> dict[str, str]:
    """The first two words of each line."""
    return dict(words[:2] for words in map(str.split, _lines(path)) if len(words) > 1)


def _lines(path: str) -> list[str]:
    try:
        return storage.read_bytes(path).decode().splitlines()
    except OSError:
        return []
