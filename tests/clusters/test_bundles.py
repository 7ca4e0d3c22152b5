"""Many tiny tasks in few jobs of a batch system, with failures among them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import toilfn as toil
from tests.servers.fake.systems import system
from toilfn.clusters.pbs import TorqueCluster
from toilfn.config.settings import Settings
from toilfn.leader.cluster_context import policy

SMALL = {"memory": "400Mi", "disk": "1Mi"}
COUNT = 40


@pytest.fixture
def torque():
    yield from system("torque")


def mark(folder: str, name: str) -> int:
    with open(Path(folder) / name, "a") as file:
        file.write("x")
    return os.path.getsize(Path(folder) / name)


@toil.task(**SMALL)
def tiny(n, folder):
    attempt = mark(folder, str(n))
    if n == 17 and attempt == 1:
        raise ValueError("at first")
    if n == 23:
        os._exit(7)
    return n


@toil.task(**SMALL)
def total(values):
    return sum(values)


def compute(promise, tmp_path, **settings):
    cluster = TorqueCluster(poll_interval=0.2)
    return toil.compute(promise, store=tmp_path / "store", cluster=cluster, bundle="30s", retry_backoff=0.1, **settings)


def jobs(torque):
    return (torque.parent / "calls").read_text().split().count("qsub")


def test_a_failure_in_a_bundle_concerns_one_task_only(torque, tmp_path):
    """Four probes in one submission, a job for the rest, one for the task that is tried again, one for the sum."""
    numbers = [n for n in range(COUNT) if n != 23]
    assert compute(total([tiny(n, str(tmp_path)) for n in numbers]), tmp_path) == sum(numbers)
    assert {n: (tmp_path / str(n)).stat().st_size for n in numbers} == {n: 1 + (n == 17) for n in numbers}
    assert jobs(torque) <= 5


def test_a_task_that_ends_its_worker_is_found_among_the_others(torque, tmp_path):
    with pytest.raises(toil.FailedTasksError) as caught:
        compute(total([tiny(n, str(tmp_path)) for n in range(18, 28)]), tmp_path, retries=0)
    (failure,) = caught.value.failures
    assert f"tiny(23, '{tmp_path}')" in str(caught.value)
    assert failure.cause == "error"


@pytest.mark.parametrize(
    ("given", "is_queue", "expected"),
    [
        ({}, True, (120.0, 0.5, 16)),
        ({}, False, (0.05, 0.5, None)),
        ({"bundle": "30s", "gather": "3s"}, True, (30.0, 3.0, 4)),
        ({"bundle": "30s"}, False, (30.0, 0.5, None)),
        ({"bundle": 0, "gather": 0}, True, (0.0, 0.0, None)),
    ],
)
def test_settings_become_values_of_the_scheduler(given, is_queue, expected):
    chosen = policy(Settings.resolve(**given), 0.5, is_queue=is_queue)
    assert (chosen.target_seconds, chosen.gather, chosen.probes) == expected
