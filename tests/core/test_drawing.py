"""Drawings of a workflow's tasks."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.story import epoch, function, half_done, id_of, outcome, run, task, tell
from toilfn.errors import InputError
from toilfn.inspect.drawing import draw
from toilfn.inspect.view import TaskInfo, View
from toilfn.model.records import Record


def tasks_of(path: Path, *records: Record) -> list[TaskInfo]:
    return View(tell(path / "store", *records)).current()


def test_a_tree_has_one_line_for_each_name(tmp_path: Path) -> None:
    assert draw(tasks_of(tmp_path, *half_done())).text() == """\
merge  waiting
├── sort_chunk  5 tasks: 1 running, 3 done, 1 failed
│   └── split  done
└── report (before it)  waiting
    └── split (before it)  done
"""  # fmt: skip


def test_every_task_can_have_a_line(tmp_path: Path) -> None:
    text = draw(tasks_of(tmp_path, *half_done()), every_task=lambda _: True).text()
    assert sum("sort_chunk" in line for line in text.splitlines()) == 5
    assert f"sort_chunk ({id_of('sort 3').hex()[:12]})  failed" in text


def test_expanded_scatters_are_not_repeated(tmp_path: Path) -> None:
    text = draw(tasks_of(
        tmp_path, epoch(), run("a"), *map(function, "abcd"),
        task("d", "d"), task("c", "c", ["d"]), task("b", "b", ["c"]), task("a", "a", ["c", "b"]),
    )).text()  # fmt: skip
    assert "c  waiting  (see above)" in text
    assert text.count("└── d") == 1


def recursive() -> list[Record]:
    """`grow` calls itself, and `leaf` calls `grow`: a circle of names."""
    inner, leaf = task("inner", "grow", ["leaf"], parent="root"), task("leaf", "leaf", parent="root")
    last = task("last", "grow", parent="leaf")
    return [
        epoch(), run("root"), function("grow"), function("leaf"), task("root", "grow"),
        outcome("root", [leaf, inner]), outcome("leaf", [last]),
    ]  # fmt: skip


def test_names_in_a_circle_are_all_drawn(tmp_path: Path) -> None:
    text = draw(tasks_of(tmp_path, *recursive())).text()
    assert "grow  3 tasks" in text
    assert "leaf" in text
    assert "(see above)" in text


def test_a_deep_graph_needs_no_recursion_and_little_room(tmp_path: Path) -> None:
    names = [f"t{n}" for n in range(3000)]
    chain = [task(names[0], "f"), *(task(b, "f", [a]) for a, b in pairwise(names))]
    text = draw(tasks_of(tmp_path, epoch(), run(names[-1]), function("f"), *chain), every_task=lambda _: True).text()
    assert all(id_of(name).hex()[:12] in text for name in names)
    assert text.count("(see below)") == text.count("\nf (") == 74
    assert len(text) < 500_000


def test_dot_tells_data_order_and_creation_apart(tmp_path: Path) -> None:
    text = draw(tasks_of(tmp_path, *half_done())).dot()
    assert '"split" -> "sort_chunk";' in text
    assert '"split" -> "report" [style=dashed];' in text
    assert '"grow" -> "leaf" [style=dotted];' in draw(tasks_of(tmp_path / "other", *recursive())).dot()


def test_names_are_quoted_for_dot() -> None:
    text = draw([TaskInfo(b"1" * 16, 'say "hi" \\ <b>')]).dot()
    assert '"say \\"hi\\" \\\\ <b>" [label="say \\"hi\\" \\\\ <b>\\nwaiting"' in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_understands_it(tmp_path: Path) -> None:
    svg = draw([*tasks_of(tmp_path, *half_done()), TaskInfo(b"1" * 16, 'say "hi" \\ <b>')]).picture().decode()
    assert "<svg" in svg
    assert "sort_chunk" in svg


def test_svg_without_graphviz_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="install graphviz"):
        draw([]).picture()
