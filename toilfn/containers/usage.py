"""The resources a container has used: control groups count them, since its processes are not the task's children."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["REPORT", "Usage", "counted"]

REPORT = """\
for name in memory.peak cpu.stat memory/memory.max_usage_in_bytes cpuacct/cpuacct.usage; do
  if [ -r /sys/fs/cgroup/$name ]; then
    while read -r line; do echo "$name $line"; done </sys/fs/cgroup/$name
  fi
done
"""
"""For the container's sh: prints what `counted` reads. Linux: Documentation/admin-guide/cgroup-v2, cgroup-v1."""


class Usage(NamedTuple):
    """The resources that all processes of a container have used."""

    cpu: float
    """Seconds."""
    memory: int
    """Peak bytes, with the files' pages that the kernel keeps for it."""


def counted(report: str) -> Usage | None:
    """Read what `REPORT` has printed; None where the kernel does not tell.

    A container that sees the machine's own group has no ``memory.peak``: what is there is not its own.
    """
    found = dict(line.rsplit(" ", 1) for line in report.splitlines())
    if {"memory.peak", "cpu.stat usage_usec"} <= found.keys():
        return Usage(int(found["cpu.stat usage_usec"]) / 1e6, int(found["memory.peak"]))
    first = ("memory/memory.max_usage_in_bytes", "cpuacct/cpuacct.usage")
    if set(first) <= found.keys():
        memory, nanoseconds = (int(found[name]) for name in first)
        return Usage(nanoseconds / 1e9, memory)
    return None
