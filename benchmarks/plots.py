"""Draw the plots of the performance page from the figures in figures.json: ``python benchmarks/plots.py``.

The figures are those of the tables in README.md. The scale is logarithmic, since the figures differ a hundredfold.
"""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "docs/images"

WIDTH, LEFT, RIGHT = 760, 210, 90
BAR, GAP, GROUP_GAP, TOP = 16, 3, 14, 46
COLORS = ["#3b6fb6", "#d08a2e", "#7a9a4e", "#9a6fb0", "#b5524f"]


def plot(figure: dict[str, Any]) -> str:
    """Return a plot as SVG: for each group, a bar for each tool."""
    groups: dict[str, dict[str, float]] = figure["groups"]
    tools = list(dict.fromkeys(tool for values in groups.values() for tool in values))
    numbers = [value for values in groups.values() for value in values.values()]
    low, high = 10 ** math.floor(math.log10(min(numbers))), max(numbers)
    parts, y = [], TOP
    for name, values in groups.items():
        middle = y + len(values) * (BAR + GAP) / 2
        parts.append(text(LEFT - 10, middle + 3, name, anchor="end"))
        for tool, value in values.items():
            width = (WIDTH - LEFT - RIGHT) * math.log(value / low) / math.log(high / low)
            color = COLORS[tools.index(tool)]
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color}"/>')
            parts.append(text(LEFT + width + 6, y + BAR - 4, f"{value:g}"))
            y += BAR + GAP
        y += GROUP_GAP
    for number, tool in enumerate(tools):
        x = LEFT + 150 * (number % 3)
        row = y + 22 * (number // 3)
        parts.append(f'<rect x="{x}" y="{row}" width="12" height="12" fill="{COLORS[number]}"/>')
        parts.append(text(x + 18, row + 11, tool))
    height = y + 22 * (1 + (len(tools) - 1) // 3) + 24
    parts.append(text(LEFT, height - 8, f"logarithmic scale; {figure['from']}", size=11))
    head = text(10, 24, figure["title"], size=15)
    body = "\n".join(f"  {part}" for part in [head, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(figure["title"])}">\n'
        f'  <rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12) -> str:
    """Return an element of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="{size}" text-anchor="{anchor}" '
        f'fill="#222">{escape(words)}</text>'
    )


def plots() -> dict[Path, str]:
    """Return the SVG of each plot, by the path of its file."""
    return {FOLDER / figure["file"]: plot(figure) for figure in json.loads((HERE / "figures.json").read_text())}


if __name__ == "__main__":
    for path, content in plots().items():
        path.write_text(content)
