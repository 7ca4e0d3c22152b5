"""The recorded failures of tasks that a cluster has ended."""

from __future__ import annotations

from typing import Any

import pytest

from toilfn.ids import Cause
from toilfn.leader.failures import Failures
from toilfn.resources import Resources


class Kept:
    def __init__(self) -> None:
        self.records: list[bytes] = []

    def add(self, record: bytes) -> None:
        self.records.append(record)


@pytest.mark.parametrize(
    ("cause", "said", "expected"),
    [
        (
            Cause.MEMORY,
            "OUT_OF_MEMORY",
            "OUT_OF_MEMORY; it requested 2 GiB of memory; request more with the option memory",
        ),
        (Cause.WALLTIME, "TIMEOUT", "TIMEOUT; its walltime is 1m 30s"),
        (
            Cause.MEMORY,
            "used 3 GiB of memory but requested 2 GiB",
            "used 3 GiB of memory but requested 2 GiB; request more with the option memory",
        ),
        (Cause.WALLTIME, "took longer than its walltime of 1m 30s", "took longer than its walltime of 1m 30s"),
        (Cause.ERROR, "exit status 1", "exit status 1"),
    ],
)
def test_the_failure_of_a_task_that_exceeded_a_limit_says_what_it_requested(
    cause: Cause, said: str, expected: str
) -> None:
    shape = Resources(memory=2 << 30, walltime=90.0)
    kept: Any = Kept()
    tally = Failures(kept, lambda _: None, lambda _: "", lambda _: shape)
    tally.describe_lost(bytes(16), cause, said, b"", 0.0)
    tally.give_up(bytes(16), cause)
    assert tally.final[bytes(16)].message == expected


def test_the_failure_for_memory_names_what_was_added_for_the_worker() -> None:
    kept: Any = Kept()
    tally = Failures(kept, lambda _: None, lambda _: "", lambda _: Resources(memory=2 << 30), 64 << 20)
    tally.describe_lost(bytes(16), Cause.MEMORY, "OUT_OF_MEMORY", b"", 0.0)
    tally.give_up(bytes(16), Cause.MEMORY)
    assert tally.final[bytes(16)].message == (
        "OUT_OF_MEMORY; it requested 2 GiB of memory, plus 64 MiB for its worker; request more with the option memory"
    )
