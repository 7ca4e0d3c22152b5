"""The drawing of a graph, also of very many tasks and of long ways between boxes."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from toilfn.inspect.drawing import Drawing, Node
from toilfn.inspect.view import State
from toilfn.pages.charts import graph


def node(label, *needs):
    return Node(label, Counter({State.DONE: 1}), needs=dict.fromkeys(needs))


def boxes_and_edges(drawing):
    text = str(graph(drawing))
    boxes = [tuple(map(float, found)) for found in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', text)]
    edges = re.findall(r'<path d="([^"]+)"', text)
    return boxes, edges


def points(path):
    """Points along a path of curves and horizontal lines."""
    x = y = 0.0
    for letter, rest in re.findall(r"([MCH])([^MCH]*)", path):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", rest)]
        if letter == "M":
            x, y = numbers
        elif letter == "H":
            yield from ((x + (numbers[0] - x) * t / 20, y) for t in range(21))
            x = numbers[0]
        else:
            (x1, y1, x2, y2, x3, y3), steps = numbers, [t / 20 for t in range(21)]
            for t in steps:
                u = 1 - t
                yield (
                    u**3 * x + 3 * u * u * t * x1 + 3 * u * t * t * x2 + t**3 * x3,
                    u**3 * y + 3 * u * u * t * y1 + 3 * u * t * t * y2 + t**3 * y3,
                )
            x, y = x3, y3


def test_an_edge_that_skips_columns_is_not_hidden_by_a_box():
    nodes = [node("a"), node("b", "a"), node("c", "b"), node("d", "c", "a", "b"), node("e", "d", "a")]
    boxes, edges = boxes_and_edges(Drawing({one.label: one for one in nodes}))
    assert len(boxes) == 5
    assert len(edges) == 7
    hidden = [
        (box, point) for path in edges for point in points(path) for box in boxes
        if box[0] < point[0] < box[0] + 170 and box[1] < point[1] < box[1] + 46
    ]  # fmt: skip
    assert hidden == []


@pytest.mark.parametrize("has_source", [True, False])
def test_a_thousand_parallel_tasks_fit_on_a_page(has_source):
    leaves = [node(f"leaf-{i}", *(["source"] if has_source else [])) for i in range(1000)]
    nodes = [*([node("source")] if has_source else []), *leaves, node("sink", *(leaf.label for leaf in leaves))]
    drawing = Drawing({one.label: one for one in nodes})
    text = drawing.dot()
    assert all(f">leaf-{i}<" in text for i in range(1000))
    assert text.count("->") == 1 + has_source
    width = re.search(r'<svg width="(\d+)pt"', drawing.picture().decode())
    assert int(width[1]) < 5000
