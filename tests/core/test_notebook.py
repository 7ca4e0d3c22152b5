"""In a notebook, functions are redefined while the process continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import toilfn as toil


def cell(source: str, notebook: dict[str, Any]) -> None:
    exec(compile(source, "<cell>", "exec"), notebook)


def test_a_helper_that_was_redefined_runs_what_uses_it_again(tmp_path: Path) -> None:
    notebook: dict[str, Any] = {"toil": toil, "__name__": "__main__"}
    cell("def scale(x): return 2 * x", notebook)
    cell("@toil.task\ndef scaled(x): return scale(x)", notebook)

    def run() -> Any:
        return toil.compute(notebook["scaled"](5), store=tmp_path / "store", progress=False)

    assert run() == 10
    cell("def scale(x): return 3 * x", notebook)
    assert run() == 15
