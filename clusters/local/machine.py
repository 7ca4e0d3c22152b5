"""The resources of this machine, or of the container in which this process runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["cores", "disk", "memory", "nvidia_devices"]

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def cores() -> float:
    """Return the number of cores this process may use: its CPU affinity, or the quota of its cgroups if lower."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min([float(count), *_cpu_quotas()])


def memory() -> int:
    """Return the memory of the machine in bytes, or the limit of this process's cgroups if that is less."""
    return min([psutil.virtual_memory().total, *_memory_limits()])


def disk() -> int:
    """Return the free disk space in bytes where workers put temporary files."""
    place = os.path.abspath(os.environ.get("TOILFN_WORK_DIR") or tempfile.gettempdir())
    while not os.path.exists(place):  # the first worker will create it
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


def nvidia_devices() -> list[str]:
    """Return the numbers or ids of the NVIDIA devices that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def _cpu_quotas() -> Iterator[float]:
    for group in _groups("cpu"):
        quota, period = [*_read(group / "cpu.max").split(), "", ""][:2]
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)


def _memory_limits() -> Iterator[int]:
    for group in _groups("memory"):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if limit.isdecimal():
            yield int(limit)


def _groups(controller: str) -> Iterator[Path]:
    """Iterate over the directories of this process's cgroup and its parents, for cgroups v1 and v2."""
    for line in _read(_MEMBERSHIP).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        tree = _ROOT / controllers if controllers else _ROOT
        path = tree / name.lstrip("/")
        yield path
        yield from (parent for parent in path.parents if parent.is_relative_to(tree))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
