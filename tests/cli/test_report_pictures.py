"""The pictures of a report say what happened, also of very many tasks and of long ways between boxes."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from toilfn.inspect.drawing import Drawing, Node
from toilfn.inspect.report import charts
from toilfn.inspect.report.attempts import Attempt
from toilfn.inspect.report.graph import graph
from toilfn.inspect.report.page import _table
from toilfn.inspect.view import State


def attempt(start, wall, cpu=0.0, wait=0.0, cores=1.0):
    return Attempt("ab" * 16, "work", 1, 1, "done", start, wall, cpu, wait, 0, 0, 0, 0, 0, "host", 1, cores, 0, 0, 0)


def area(levels):
    return sum(level * (until - moment) for (moment, level), (until, _) in itertools.pairwise(levels))


def test_many_short_tasks_are_as_much_as_they_are_and_no_comb():
    """A thousand tasks of 0.8 ms in 32 s are 0.025 cores on average, not one."""
    attempts = [attempt(1000.0 + i * 0.032, 0.0008, cpu=0.0008) for i in range(1000)]
    levels = charts._levels(attempts, lambda a: a.cpu / a.wall)
    assert area(levels) == pytest.approx(0.8, rel=1e-3)
    assert max(level for _, level in levels) < 0.06
    assert len(levels) <= 402


def test_few_tasks_are_drawn_as_they_were():
    levels = charts._levels([attempt(10.0, 5.0), attempt(12.0, 1.0), attempt(20.0, 0.0)], lambda a: a.cores_asked)
    assert levels == [(10.0, 1.0), (12.0, 2.0), (13.0, 1.0), (15.0, 0.0)]


def test_tasks_one_after_another_on_all_cores_are_a_plateau():
    attempts = [attempt(float(i), 1.0, cores=4.0) for i in range(1000)]
    levels = charts._levels(attempts, lambda a: a.cores_asked)
    assert {round(level, 6) for _, level in levels[:-1]} == {4.0}


def test_waiting_is_told_of_one_task_and_not_added_up():
    row = str(_table([attempt(0.0, 1.0, wait=wait) for wait in (1.0, 2.0, 90.0)], {"work": "#000"}))
    assert "usual wait" in row
    assert "<td>2.0s</td>" in row or "<td>2s</td>" in row
    assert "1m 30s" in row
    assert "1m 33s" not in row


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
def test_a_thousand_tasks_side_by_side_fit_on_a_page(has_source):
    leaves = [node(f"leaf-{i}", *(["source"] if has_source else [])) for i in range(1000)]
    nodes = [*([node("source")] if has_source else []), *leaves, node("sink", *(leaf.label for leaf in leaves))]
    drawing = Drawing({one.label: one for one in nodes})
    text = drawing.dot()
    assert all(f">leaf-{i}<" in text for i in range(1000))
    assert text.count("->") == 1 + has_source
    width = re.search(r'<svg width="(\d+)pt"', drawing.svg())
    assert int(width[1]) < 5000
