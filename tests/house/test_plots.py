"""The plots of the performance page are those of the kept figures, which are in its tables."""

from __future__ import annotations

import json
import re
import runpy

from tests.house.rooms import ROOT


def test_the_plots_are_drawn_from_the_kept_figures() -> None:
    for path, content in runpy.run_path(str(ROOT / "benchmarks/plots.py"))["plots"]().items():
        assert path.read_text() == content, f"{path.name}: run python benchmarks/plots.py"


def test_the_kept_figures_are_those_of_the_tables() -> None:
    numbers = {float(text) for text in re.findall(r"\d+\.\d+", (ROOT / "benchmarks/README.md").read_text())}
    figures = json.loads((ROOT / "benchmarks/figures.json").read_text())
    shown = {value for figure in figures for values in figure["groups"].values() for value in values.values()}
    assert shown <= numbers
