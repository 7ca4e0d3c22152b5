"""What the machine or the container gives."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from toilfn.clusters.local import machine


@pytest.fixture
def control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups, of which this process is in /job/step."""
    membership = tmp_path / "membership"
    membership.write_text("7:memory:/job/step\n3:cpu,cpuacct:/job/step\n0::/job/step\n")
    monkeypatch.setattr(machine, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MEMBERSHIP", membership)
    return tmp_path / "cgroup"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_without_limits_the_capacity_is_that_of_the_machine(control_groups: Path) -> None:
    assert machine.memory() == psutil.virtual_memory().total
    assert machine.cores() == len(os.sched_getaffinity(0))
    assert machine.disk() > 0


@pytest.mark.parametrize(
    ("file", "text", "cores"),
    [
        ("job/step/cpu.max", "50000 100000", 0.5),
        ("job/cpu.max", "25000 100000", 0.25),
        ("cpu.max", "max 100000", None),
        ("cpu,cpuacct/job/cpu.cfs_quota_us", "60000", 0.6),
        ("cpu,cpuacct/job/cpu.cfs_quota_us", "-1", None),
        ("other/cpu.max", "10000 100000", None),
    ],
)
def test_quotas_of_both_versions_count(control_groups: Path, file: str, text: str, cores: float | None) -> None:
    write(control_groups / file, text)
    write(control_groups / "cpu,cpuacct/job/cpu.cfs_period_us", "100000")
    assert machine.cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("file", "text", "memory"),
    [
        ("job/step/memory.max", "1000", 1000),
        ("job/memory.max", "2000", 2000),
        ("memory.max", "max", None),
        ("memory/job/memory.limit_in_bytes", "3000", 3000),
        ("memory/job/memory.limit_in_bytes", "9223372036854771712", None),
    ],
)
def test_memory_limits_of_both_versions_count(control_groups: Path, file: str, text: str, memory: int | None) -> None:
    write(control_groups / file, text)
    assert machine.memory() == (memory or psutil.virtual_memory().total)


def test_devices_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-abc")
    assert machine.nvidia_devices() == ["0", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.nvidia_devices() == []


@pytest.mark.parametrize(
    ("program", "devices"),
    [
        ("echo 'GPU 0: Tesla T4 (UUID: GPU-1)'; echo '  MIG 1g'; echo 'GPU 1: Tesla T4 (UUID: GPU-2)'", ["0", "1"]),
        ("echo 'no driver' >&2; exit 9", []),
    ],
)
def test_devices_are_counted_by_nvidias_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, devices: list[str]
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{program}\n")
    command.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.nvidia_devices() == devices
