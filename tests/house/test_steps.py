"""A task is few calls away from `compute`: docs/decisions/019-the-house.md."""

from __future__ import annotations

from tests.house.steps import steps

MOST = 18


def test_a_tasks_function_is_reached_in_few_steps():
    found = steps()
    assert found[0] == "toilfn/api.py: compute"
    assert len(found) <= MOST, found
