"""The resources of this machine, or of the container in which this process runs, and the memory that processes use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["cores", "disk", "memory", "nvidia_devices", "used_memory"]

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


def used_memory(pid: int, limit: int) -> int:
    """Return the memory in use by a process and its descendants, in bytes.

    Parameters
    ----------
    pid : int
        The id of the process.
    limit : int
        The sum of the resident sizes is an upper bound: it counts shared pages once per process, and also pages of
        mapped files, such as large arrays of the store, which the system can reclaim. The exact size is expensive to
        determine, so that is done only if the sum exceeds this limit.

    Returns
    -------
    int
        0 if the process no longer exists.
    """
    processes = list(_with_descendants(pid))
    total = sum(map(_resident, processes))
    return total if total <= limit else sum(map(_own, processes))


def _with_descendants(pid: int) -> Iterator[psutil.Process]:
    stack = [pid]
    while stack:
        try:
            process = psutil.Process(stack.pop())
            stack += _children(process)
        except psutil.Error:
            continue
        yield process


def _children(process: psutil.Process) -> list[int]:
    """Return the ids of a process's children; on Linux, without examining all processes."""
    tasks = Path(f"/proc/{process.pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return [child.pid for child in process.children()]


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own(process: psutil.Process) -> int:
    """Return a process's share of the memory in use, without pages of files where the system reports those."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return _proportional(process)
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
    return sizes.get("Pss:", 0) - sizes.get("Pss_File:", 0)


def _proportional(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return _resident(process)
    return int(getattr(full, "pss", full.uss))
