"""`toilfn graph` draws the steps of CWL and WDL documents, without inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.wdl.running import Done, toilfn

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")

TOOL = {"class": "CommandLineTool", "baseCommand": "true", "inputs": {"x": "Any?"}, "outputs": {"y": "Any?"}}

INNER_CWL = {
    "class": "Workflow",
    "inputs": {"given": "Any?", "past": "Any?"},
    "outputs": {
        "sorted": {"type": "Any?", "outputSource": "sort/y"},
        "old": {"type": "Any?", "outputSource": "past"},
    },
    "steps": {
        "align": {"run": "tool.cwl", "in": {"x": "given"}, "out": ["y"]},
        "sort": {"run": "tool.cwl", "in": {"x": "align/y"}, "out": ["y"]},
        "note": {"run": "tool.cwl", "in": {}, "out": ["y"]},
    },
}

OUTER_CWL = {
    "class": "Workflow",
    "requirements": {
        f"{name}FeatureRequirement": {} for name in ("Subworkflow", "Scatter", "MultipleInput")
    },
    "inputs": {"reads": "Any[]"},
    "outputs": {},
    "steps": {
        "last": {"run": "tool.cwl", "in": {"x": {"source": ["each/sorted", "count/y"]}}, "out": ["y"]},
        "passed": {"run": "tool.cwl", "in": {"x": "each/old"}, "out": ["y"]},
        "count": {"run": "tool.cwl", "in": {"x": "reads"}, "out": ["y"]},
        "first": {"run": "tool.cwl", "in": {"x": "reads"}, "out": ["y"]},
        "each": {
            "run": "inner.cwl",
            "scatter": "given",
            "in": {"given": "reads", "past": "first/y"},
            "out": ["sorted", "old"],
        },
    },
}  # fmt: skip

INNER_WDL = """
version 1.1
task tool { input { Int? x } command {} output { Int y = 1 } }
workflow inner {
  input { Int given  Int past = 0 }
  call tool as align { input: x = given }
  call tool as sort { input: x = align.y }
  call tool as note
  output { Int sorted = sort.y }
}
"""

OUTER_WDL = """
version 1.1
import "inner.wdl" as lib
workflow outer {
  input { Array[Int] reads  Int more = length(reads) }
  call lib.tool as count { input: x = more }
  Int counted = count.y
  scatter (read in range(counted)) {
    call lib.inner as each { input: given = read, past = 1 }
    if (each.sorted > 1) {
      call lib.tool as check
    }
  }
  call lib.tool as last { input: x = length(each.sorted) }
  call lib.tool as end after last
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("tool", TOOL), ("inner", INNER_CWL), ("outer", OUTER_CWL)):
        (tmp_path / f"{name}.cwl").write_text(json.dumps({"cwlVersion": "v1.2", **content}))
    (tmp_path / "inner.wdl").write_text(INNER_WDL)
    (tmp_path / "outer.wdl").write_text(OUTER_WDL)
    return tmp_path


def edges(folder: Path, *words: str) -> set[tuple[str, str]]:
    """Return which steps lead to which, as the picture has it."""
    done = toilfn(["graph", *words, "--format", "dot"], folder)
    assert (done.status, done.stderr) == (0, "")
    lines = [line.strip(" ;").replace('"', "") for line in done.stdout.splitlines() if " -> " in line]
    return {tuple(line.split(" -> ")) for line in lines}  # type: ignore[misc]


def test_steps_of_inner_cwl_workflows_wait_for_those_of_outer_ones(folder: Path) -> None:
    each = "each (scatter)"
    assert edges(folder, "outer.cwl") == {
        ("first", f"{each}/align"),
        ("first", f"{each}/note"),
        (f"{each}/align", f"{each}/sort"),
        (f"{each}/sort", "last"),
        ("count", "last"),
        ("first", "passed"),
    }


def test_calls_of_inner_wdl_workflows_wait_for_those_of_outer_ones(folder: Path) -> None:
    each = "each (scatter)"
    assert edges(folder, "outer.wdl") == {
        ("count", f"{each}/align"),
        ("count", f"{each}/note"),
        (f"{each}/align", f"{each}/sort"),
        (f"{each}/sort", "check (if, scatter)"),
        ("count", "check (if, scatter)"),
        (f"{each}/sort", "last"),
        ("last", "end"),
    }


def test_more_than_fifty_steps_are_folded_by_tool(folder: Path) -> None:
    calls = "\n".join(f"  call tool as t{number}" for number in range(50))
    task = "task tool { command {} output { Int y = 1 } }\ntask sum { input { Int x } command {} }"
    (folder / "wide.wdl").write_text(
        f"version 1.1\n{task}\nworkflow wide {{\n{calls}\n  call sum {{ input: x = t0.y + t49.y }}\n}}\n"
    )
    folded = toilfn(["graph", "wide.wdl"], folder).stdout
    assert folded == "sum  waiting\n└── tool  50 tasks: 50 waiting\n"
    assert "t49  waiting" in toilfn(["graph", "wide.wdl", "--all"], folder).stdout


@needs_dot
@pytest.mark.parametrize("document", ["outer.cwl", "outer.wdl"])
@pytest.mark.parametrize(("name", "start"), [("g.svg", b"<?xml"), ("g.png", b"\x89PNG"), ("g.pdf", b"%PDF")])
def test_documents_become_pictures(folder: Path, document: str, name: str, start: bytes) -> None:
    assert toilfn(["graph", document, "-o", name], folder) == Done(0, "", "")
    assert (folder / name).read_bytes().startswith(start)


def test_one_tool_or_the_part_of_a_document_that_is_named_is_drawn(folder: Path) -> None:
    assert toilfn(["graph", "tool.cwl"], folder).stdout == "tool.cwl  waiting\n"
    assert toilfn(["graph", "inner.wdl", "--task", "tool"], folder).stdout == "tool  waiting\n"
    packed = [{"id": "outer", **OUTER_CWL}, {"id": "inner", **INNER_CWL}, {"id": "tool", **TOOL}]
    text = json.dumps({"cwlVersion": "v1.2", "$graph": packed})
    (folder / "packed.cwl").write_text(text.replace('"tool.cwl"', '"#tool"').replace('"inner.cwl"', '"#inner"'))
    assert edges(folder, "packed.cwl#inner") == {("align", "sort")}
    assert edges(folder, "packed.cwl", "--entrypoint", "inner") == {("align", "sort")}


def test_a_document_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "bad.cwl").write_text('{"cwlVersion": "v1.2", "class": "Workflow"}')
    (folder / "bad.wdl").write_text("version 1.1\nworkflow w { call nothing }\n")
    for name, message in (
        ("bad.cwl", "CWL document bad.cwl cannot be loaded"),
        ("bad.wdl", "bad.wdl:2:14"),
        ("none.cwl", "none.cwl cannot be loaded"),
        ("none.wdl", "WDL document not found: none.wdl"),
    ):
        done = toilfn(["graph", name], folder)
        assert done.status in (1, 2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_store_may_have_the_name_of_a_document(folder: Path) -> None:
    (folder / "run.wdl").mkdir()
    done = toilfn(["graph", "run.wdl"], folder)
    assert (done.status, "WDL document" in done.stderr) == (2, False)
