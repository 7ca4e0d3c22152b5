"""A report's picture of the graph: one box for each name, in columns from left to right, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from toilfn.cli.drawing import Drawing, Node
from toilfn.report.html import Markup, element
from toilfn.view import State

__all__ = ["graph"]

_BOX_WIDTH, _BOX_HEIGHT = 170.0, 46.0
_GAP_X, _GAP_Y = 60.0, 18.0
_LONGEST = 22
_FILLS = {State.DONE: "#dff0d8", State.FAILED: "#f7d4d4", State.RUNNING: "#fdf0c4", State.WAITING: "#eef0f3"}
_STROKES = {State.DONE: "#7fb069", State.FAILED: "#d1495b", State.RUNNING: "#e0b73c", State.WAITING: "#aab2bd"}


def graph(drawing: Drawing) -> Markup:
    """Draw boxes and what leads from one to the other: solid lines for data, dashed for order or creation.

    Parameters
    ----------
    drawing : Drawing
    """
    places = _places(drawing.nodes)
    columns = max((column for column, _ in places.values()), default=0) + 1
    rows = max((row for _, row in places.values()), default=0) + 1
    parts = [*_edges(drawing.nodes, places), *(_box(node, *places[label]) for label, node in drawing.nodes.items())]
    width, height = columns * (_BOX_WIDTH + _GAP_X) - _GAP_X, rows * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y
    return element(
        "svg", *parts, viewBox=f"-4 -4 {width + 8:.0f} {height + 8:.0f}", width=width, height=height, role="img"
    )


def _edges_into(nodes: Mapping[str, Node]) -> dict[str, dict[str, str]]:
    """For each box, those that come before it, and how they are related to it."""
    into: dict[str, dict[str, str]] = {label: {} for label in nodes}
    for label, node in nodes.items():
        into[label].update(dict.fromkeys(node.after, "order"))
        into[label].update(dict.fromkeys(node.needs, "data"))
        for made in node.creates:
            into[made].setdefault(label, "order")
    return {label: {other: how for other, how in found.items() if other != label} for label, found in into.items()}


def _places(nodes: Mapping[str, Node]) -> dict[str, tuple[int, int]]:
    """Give each box its column, one beyond all that it comes from, and its row."""
    into = _edges_into(nodes)
    columns = dict.fromkeys(nodes, 0)
    for _ in nodes:  # names that lead to each other in a circle would move for ever
        moved = False
        for label, sources in into.items():
            column = max((columns[other] + 1 for other in sources), default=0)
            if columns[label] < column < len(nodes):
                columns[label], moved = column, True
        if not moved:
            break
    shown = {column: index for index, column in enumerate(sorted(set(columns.values())))}
    filled = dict.fromkeys(shown.values(), 0)
    places = {}
    for label, column in columns.items():
        place = shown[column]
        places[label] = (place, filled[place])
        filled[place] += 1
    return places


def _corner(column: int, row: int) -> tuple[float, float]:
    return column * (_BOX_WIDTH + _GAP_X), row * (_BOX_HEIGHT + _GAP_Y)


def _edges(nodes: Mapping[str, Node], places: Mapping[str, tuple[int, int]]) -> Iterator[Markup]:
    for label, sources in _edges_into(nodes).items():
        x2, y2 = _corner(*places[label])
        for other, how in sources.items():
            x1, y1 = _corner(*places[other])
            bend = _GAP_X / 2
            start, end = (x1 + _BOX_WIDTH, y1 + _BOX_HEIGHT / 2), (x2, y2 + _BOX_HEIGHT / 2)
            path = (
                f"M{start[0]:.0f},{start[1]:.0f}C{start[0] + bend:.0f},{start[1]:.0f}"
                f" {end[0] - bend:.0f},{end[1]:.0f} {end[0]:.0f},{end[1]:.0f}"
            )
            yield element("path", d=path, class_=f"edge {how}")


def _box(node: Node, column: int, row: int) -> Markup:
    x, y = _corner(column, row)
    name = node.label if len(node.label) <= _LONGEST else f"{node.label[: _LONGEST - 1]}…"
    return element(
        "g",
        element("title", f"{node.label}: {node.summary}"),
        element("rect", x=x, y=y, width=_BOX_WIDTH, height=_BOX_HEIGHT, rx=6, fill=_FILLS[node.state],
                stroke=_STROKES[node.state]),
        element("text", name, x=x + _BOX_WIDTH / 2, y=y + 19, text_anchor="middle", class_="name"),
        element("text", _short(node), x=x + _BOX_WIDTH / 2, y=y + 36, text_anchor="middle"),
    )  # fmt: skip


def _short(node: Node) -> str:
    counts = [f"{node.states[state]} {state.value}" for state in State if node.states[state]]
    return ", ".join(counts)
