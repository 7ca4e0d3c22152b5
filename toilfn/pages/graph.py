"""A report's picture of the graph: one box for each name, in columns from left to right, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from toilfn.inspect.drawing import Drawing, Node
from toilfn.inspect.view import State
from toilfn.pages.markup import Markup, element

__all__ = ["graph"]

_BOX_WIDTH, _BOX_HEIGHT = 170.0, 46.0
_GAP_X, _GAP_Y = 60.0, 18.0
_LONGEST = 22


def graph(drawing: Drawing) -> Markup:
    """Draw boxes and what leads from one to the other: solid lines for data, dashed for order or creation.

    Parameters
    ----------
    drawing : Drawing
    """
    into = _edges_into(drawing.nodes)
    places = _places(into)
    parts = [*_edges(into, places), *(_box(node, *places[label][-1]) for label, node in drawing.nodes.items())]
    corners = [corner for stops in places.values() for corner in stops.values()]
    width = max((x for x, _ in corners), default=0.0) + _BOX_WIDTH
    height = max((y for _, y in corners), default=0.0) + _BOX_HEIGHT
    return element(
        "svg",
        *parts,
        viewBox=f"-4 -4 {width + 8:.0f} {height + 8:.0f}",
        width=width,
        height=height,
        role="img",
        aria_label="The kinds of tasks and how they lead to each other",
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


def _columns(into: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return each box its column, one beyond all that it comes from."""
    columns = dict.fromkeys(into, 0)
    for _ in into:  # names that lead to each other in a circle would move for ever
        moved = False
        for label, sources in into.items():
            column = max((columns[other] + 1 for other in sources), default=0)
            if columns[label] < column < len(into):
                columns[label], moved = column, True
        if not moved:
            break
    shown = {column: index for index, column in enumerate(sorted(set(columns.values())))}
    return {label: shown[column] for label, column in columns.items()}


def _places(into: Mapping[str, Mapping[str, str]]) -> dict[str, dict[int, tuple[float, float]]]:
    """Find the upper left corner of each box, under -1, and of its lane through each column that its edges skip."""
    columns = _columns(into)
    filled = dict.fromkeys(columns.values(), 0.0)
    places: dict[str, dict[int, tuple[float, float]]] = {}
    for label, column in columns.items():
        places[label] = {-1: (_left(column), filled[column])}
        filled[column] += _BOX_HEIGHT + _GAP_Y
    for label, sources in into.items():
        for other in sources:
            for skipped in range(columns[other] + 1, columns[label]):
                if skipped not in places[other]:
                    places[other][skipped] = _left(skipped), filled[skipped]
                    filled[skipped] += _GAP_Y
    return places


def _left(column: int) -> float:
    return column * (_BOX_WIDTH + _GAP_X)


def _edges(
    into: Mapping[str, Mapping[str, str]], places: Mapping[str, dict[int, tuple[float, float]]]
) -> Iterator[Markup]:
    middle = _BOX_HEIGHT / 2
    for label, sources in into.items():
        x2, y2 = places[label][-1]
        for other, how in sources.items():
            x1, y1 = places[other][-1]
            lanes = sorted(corner for column, corner in places[other].items() if column >= 0 and x1 < corner[0] < x2)
            path, end = f"M{x1 + _BOX_WIDTH:.0f},{y1 + middle:.0f}", (x1 + _BOX_WIDTH, y1 + middle)
            for x, y in lanes:
                path += f"{_curve(end, (x, y))}H{x + _BOX_WIDTH:.0f}"
                end = x + _BOX_WIDTH, y
            yield element("path", d=path + _curve(end, (x2, y2 + middle)), class_=f"edge {how}")


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    bend = _GAP_X / 2
    return f"C{start[0] + bend:.0f},{start[1]:.0f} {end[0] - bend:.0f},{end[1]:.0f} {end[0]:.0f},{end[1]:.0f}"


def _box(node: Node, x: float, y: float) -> Markup:
    name = node.label if len(node.label) <= _LONGEST else f"{node.label[: _LONGEST - 1]}…"
    return element(
        "g",
        element("title", f"{node.label}: {node.summary}"),
        element("rect", x=x, y=y, width=_BOX_WIDTH, height=_BOX_HEIGHT, rx=6),
        element("text", name, x=x + _BOX_WIDTH / 2, y=y + 19, text_anchor="middle", class_="name"),
        element("text", _short(node), x=x + _BOX_WIDTH / 2, y=y + 36, text_anchor="middle"),
        class_=f"box {node.state.value}",
    )  # fmt: skip


def _short(node: Node) -> str:
    counts = [f"{node.states[state]} {state.value}" for state in State if node.states[state]]
    return ", ".join(counts)
