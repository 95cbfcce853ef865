import os

import pytest

from trainer import limits
from trainer.limits import Memory

MEMINFO = "MemTotal: 9000000 kB\nMemAvailable: 4000000 kB\n"
MACHINE = Memory(4_096_000_000, "this machine")
GROUP = "kubepods/pod1"


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def version_1(folder, limit, usage, cache):
    return {
        f"memory/{folder}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{folder}memory.usage_in_bytes": f"{usage}\n",
        f"memory/{folder}memory.stat": f"cache {cache}\ntotal_inactive_file {cache}\n",
    }


def version_2(folder, limit, usage, cache):
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{usage}\n",
        f"{folder}memory.stat": f"anon 7\ninactive_file {cache}\n",
    }


SELF = {"1": f"5:cpu,cpuacct:/\n4:memory:/{GROUP}\n0::/\n", "2": f"0::/{GROUP}\n", "inside": "0::/\n"}
LIMIT = "the container's limit of 2.0 GB"


@pytest.mark.parametrize(
    ("own", "files", "found"),
    [
        ("1", version_1(f"{GROUP}/", 2 * 10**9, 5 * 10**8, 10**8), Memory(1_600_000_000, LIMIT)),
        ("1", version_1("", 2 * 10**9, 5 * 10**8, 0), Memory(1_500_000_000, LIMIT)),  # The path is the host's.
        ("1", version_1(f"{GROUP}/", 9223372036854771712, 5 * 10**8, 0), MACHINE),
        ("2", version_2(f"{GROUP}/", "max", 5 * 10**8, 0), MACHINE),
        (
            "2",
            version_2(f"{GROUP}/", "max", 5 * 10**8, 0) | version_2("kubepods/", 2 * 10**9, 10**9, 0),
            Memory(10**9, LIMIT),
        ),
        ("inside", version_2("", 2 * 10**9, 3 * 10**9, 0), Memory(0, LIMIT)),
        ("inside", {}, MACHINE),
    ],
)
def test_the_tightest_limit_counts(tmp_path, own, files, found):
    write(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": SELF[own]})
    write(tmp_path / "cgroup", files)
    assert limits.memory(str(tmp_path / "proc"), str(tmp_path / "cgroup")) == found


def test_where_nothing_says_it_is_unknown(tmp_path):
    assert limits.memory(str(tmp_path), str(tmp_path)) is None


def test_this_machine_has_memory():
    found = limits.memory()
    assert found
    assert 0 < found.free < 1 << 50
    assert 1 << 20 < limits.peak(os.getpid()) < 1 << 50


@pytest.mark.parametrize(
    ("script", "found"), [("echo 81000; echo 40000", [81000 << 20, 40000 << 20]), ("echo no driver; exit 9", [])]
)
def test_the_free_memory_of_gpus(tmp_path, monkeypatch, script, found):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert limits.gpu_memory() == found
    tool.unlink()
    assert limits.gpu_memory() == []
