"""`compute` inside a task: a workflow of its own, on a temporary store of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import toilfn as toil
from toilfn.inspect.view import View
from toilfn.stores import open_store


@toil.task
def inner(x: int) -> int:
    return x + 1


@toil.task
def outer(x: int, **settings: Any) -> int:
    return 10 * toil.compute(inner(x), workers=1, **settings)


def test_a_workflow_inside_a_task_leaves_the_outer_one_alone(tmp_path: Path) -> None:
    assert toil.compute(outer(1), store=tmp_path / "store", workers=1, retries=0) == 20
    assert [task.name for task in View(open_store(tmp_path / "store")).tasks.values()] == ["outer"]


def test_it_may_have_a_store_of_its_own(tmp_path: Path) -> None:
    assert toil.compute(outer(1, store=str(tmp_path / "inner")), store=tmp_path / "outer", workers=1) == 20
    assert [task.name for task in View(open_store(tmp_path / "inner")).tasks.values()] == ["inner"]


def test_it_works_inline_too(tmp_path: Path) -> None:
    assert toil.compute(outer(1, cluster="inline"), store=tmp_path / "store", cluster="inline") == 20
