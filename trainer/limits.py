"""How much memory a new process may take here. In a container its own limit counts, not what the host has.

Sources: proc_meminfo(5); the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from boceto import storage

PROC, CGROUPS = "/proc", "/sys/fs/cgroup"
_UNLIMITED = 1 << 60  # Version 1 says "no limit" with the largest number of whole pages.
_NVIDIA = ("--query-gpu=memory.free", "--format=csv,noheader,nounits")


class Memory(NamedTuple):
    """Bytes that may still be taken, and who says so."""

    free: int
    of: str


class _Names(NamedTuple):
    """What a version of cgroups calls its files, and in the last one the page cache that it would give up."""

    limit: str
    usage: str
    cache: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def memory(proc: str = PROC, cgroups: str = CGROUPS) -> Memory | None:
    """The tightest limit on this process: the machine's own, or one of the control groups that it is in.

    None where nothing says (no Linux).
    """
    return min([*_machine(proc), *_groups(proc, cgroups)], default=None)


def gpu_memory() -> list[int]:
    """Bytes free on each GPU, by NVIDIA's own tool; none where it is not at hand."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    done = subprocess.run([tool, *_NVIDIA], capture_output=True, text=True, check=False)  # noqa: S603 - found by which
    lines = done.stdout.split() if done.returncode == 0 else []
    return [int(line) << 20 for line in lines if line.isdecimal()]


def _machine(proc: str) -> Iterator[Memory]:
    for line in _lines(f"{proc}/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield Memory(int(value.split()[0]) * 1024, "this machine")


def _groups(proc: str, cgroups: str) -> Iterator[Memory]:
    for line in _lines(f"{proc}/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _up(cgroups, path, _V2)
        elif "memory" in controllers.split(","):
            yield from _up(f"{cgroups}/memory", path, _V1)


def _up(top: str, path: str, names: _Names) -> Iterator[Memory]:
    """The limits of a group and of all above it. Inside of a container the path may be the host's: what is not there
    is passed over.
    """
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    for depth in range(len(parts), -1, -1):
        folder = "/".join([top, *parts[:depth]])
        limit, usage = _number(f"{folder}/{names.limit}"), _number(f"{folder}/{names.usage}")
        if limit is not None and usage is not None and limit < _UNLIMITED:
            cache = dict(line.split() for line in _lines(f"{folder}/memory.stat")).get(names.cache, "0")
            yield Memory(max(0, limit - usage + int(cache)), f"the container's limit of {limit / 1e9:,.1f} GB")


def _number(path: str) -> int | None:
    """The number in a file; None where there is none, or no file."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _lines(path: str) -> list[str]:
    try:
        return storage.read_bytes(path).decode().splitlines()
    except OSError:
        return []
