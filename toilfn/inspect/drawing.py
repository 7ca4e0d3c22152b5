"""Draw the tasks of a workflow as text, in Graphviz's language, or as a picture."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from toilfn.errors import InputError
from toilfn.ids import TaskId
from toilfn.inspect.view import State, TaskInfo
from toilfn.text import visible

__all__ = ["Drawing", "Node", "Step", "as_tasks", "draw"]


class Step(NamedTuple):
    """A step of a document.

    Attributes
    ----------
    name : str
        Its name, after the names of the sub-workflows that contain it: ``align/sort``. A step that may run
        several times, or not at all, says so: ``sort (scatter)``.
    kind : str
        The name of the tool.
    needs : frozenset of str
        The names of the steps that run before it.
    """

    name: str
    kind: str
    needs: frozenset[str]


def as_tasks(steps: Iterable[Step], *, by_kind: bool) -> list[TaskInfo]:
    """Return steps as waiting tasks, named after their tools with `by_kind`, otherwise after the steps."""
    return [
        TaskInfo(_id(step.name), step.kind if by_kind else step.name, needs=tuple(map(_id, sorted(step.needs))))
        for step in steps
    ]


def _id(name: str) -> TaskId:
    return TaskId(name.encode())


_COLORS = {
    State.DONE: "#b7e1b0",
    State.FAILED: "#f4a7a0",
    State.RUNNING: "#f9e29c",
    State.QUEUED: "#fbf1cf",
    State.WAITING: "#e6e6e6",
}
_WIDEST = 40
"""The most nodes of a level that are drawn side by side, each with its own lines."""
_DEEPEST = 40
"""The most levels of a tree that are written: a reader cannot follow more lines."""


@dataclass(slots=True)
class Node:
    """One box: a task, or all tasks with the same name.

    Attributes
    ----------
    label : str
    states : Counter of State
        The number of its tasks in each state.
    needs, after, creates : dict
        Labels of other nodes, in the order in which they were found.
    """

    label: str
    states: Counter[State] = field(default_factory=Counter)
    needs: dict[str, None] = field(default_factory=dict)
    after: dict[str, None] = field(default_factory=dict)
    creates: dict[str, None] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The state of its tasks: ``"done"``, or ``"100 tasks: 98 done, 2 failed"``."""
        if self.states.total() == 1:
            return next(iter(self.states)).value
        counts = ", ".join(f"{self.states[state]} {state.value}" for state in State if self.states[state])
        return f"{self.states.total()} tasks: {counts}"

    @property
    def state(self) -> State:
        """The state that matters most for a reader."""
        return next(s for s in (State.FAILED, State.RUNNING, State.QUEUED, State.WAITING, State.DONE) if self.states[s])


@dataclass(slots=True)
class Drawing:
    """Nodes by their labels."""

    nodes: dict[str, Node]

    def text(self) -> str:
        """Write a tree: results first, with their needs below them; each node is unfolded once."""
        below = {label for node in self.nodes.values() for label, _ in _below(node) if label != node.label}
        tops = [label for label in self.nodes if label not in below]
        unfolded: set[str] = set()
        lines: list[str] = []
        for top in (*tops, *self.nodes):  # of nodes that lead to each other in a circle, none is a top
            further = [] if top in unfolded else [top]
            while further:
                lines += self._tree(further.pop(), unfolded, further)
        return "".join(f"{line}\n" for line in lines)

    def dot(self) -> str:
        """Write the graph in Graphviz's language; arrows point from a task to the tasks that need it.

        A level with very many nodes would be wider than any screen: its nodes are the cells of a table, and lines lead
        to the table as a whole.
        """
        lines = ["digraph workflow {", '  node [shape=box, style="rounded,filled", fontname="sans-serif"];']
        incoming = self._incoming()
        names = {label: _quoted(label) for label in self.nodes}
        for number, level in enumerate(_wide_levels(incoming)):
            lines.append(f"  level{number} [shape=plain, style=solid, label=<{self._table(level)}>];")
            names |= dict.fromkeys(level, f"level{number}")
        for label, node in self.nodes.items():
            if names[label] == _quoted(label):
                color = _COLORS[node.state]
                lines.append(f'  {names[label]} [label={_quoted(label, node.summary)}, fillcolor="{color}"];')
        edges = {
            (names[other], names[label], style): None for label in incoming for other, style in incoming[label].items()
        }
        lines += [f"  {start} -> {end}{f' [style={style}]' * bool(style)};" for start, end, style in edges]
        return "\n".join([*lines, "}", ""])

    def _table(self, level: Sequence[str]) -> str:
        cells = [
            f'<td bgcolor="{_COLORS[self.nodes[label].state]}">{escape(label)}<br/>{self.nodes[label].summary}</td>'
            for label in level
        ]
        columns = min(_WIDEST, math.ceil(math.sqrt(len(cells))))
        rows = ("".join(cells[start : start + columns]) for start in range(0, len(cells), columns))
        return f'<table border="0" cellborder="1" cellspacing="4">{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'

    def picture(self, format: str = "svg") -> bytes:
        """Let Graphviz draw the graph.

        Parameters
        ----------
        format : str
            ``"svg"``, ``"png"`` or ``"pdf"``.

        Raises
        ------
        InputError
            If its command ``dot`` is not installed, or fails.
        """
        program = shutil.which("dot")
        if program is None:
            raise InputError(
                f"Graphviz's command 'dot', which draws {format.upper()}, was not found",
                hint="install graphviz, or use --format text or dot",
            )
        command = [program, f"-T{format}"]
        done = subprocess.run(command, input=self.dot().encode(), capture_output=True, check=False)
        if done.returncode:
            raise InputError(
                f"Graphviz could not draw the graph: {done.stderr.decode(errors='replace').strip()}",
                hint="use --format text or dot",
            )
        return done.stdout

    def _incoming(self) -> dict[str, dict[str, str]]:
        """Return, for each node, the nodes that lead to it, and how each edge is drawn."""
        incoming: dict[str, dict[str, str]] = {label: {} for label in self.nodes}
        for node in self.nodes.values():
            for made in node.creates:
                incoming[made][node.label] = "dotted"
        for node in self.nodes.values():
            incoming[node.label] |= dict.fromkeys(node.after, "dashed") | dict.fromkeys(node.needs, "")
        return incoming

    def _tree(self, top: str, unfolded: set[str], further: list[str]) -> Iterator[str]:
        """Write a node and the nodes below it; those that are too deep go to `further`, and become separate trees.

        A stack takes the place of recursion, for graphs are deep.
        """
        stack = [(top, "", "", "")]
        while stack:
            label, relation, lead, indent = stack.pop()
            node = self.nodes[label]
            children = _below(node)
            deep = len(indent) >= 4 * _DEEPEST and bool(children) and label not in unfolded
            known = label in unfolded and bool(children)
            yield f"{lead}{label}{relation}  {node.summary}{'  (see above)' * known}{'  (see below)' * deep}"
            if deep:
                further.append(label)
            if deep or known:
                continue
            unfolded.add(label)
            for position, (other, how) in reversed(list(enumerate(children))):
                last = position == len(children) - 1
                stack.append((other, how, indent + ("└── " if last else "├── "), indent + ("    " if last else "│   ")))


def draw(tasks: Iterable[TaskInfo], *, every_task: Callable[[TaskInfo], bool] = lambda _: False) -> Drawing:
    """Build a drawing.

    Parameters
    ----------
    tasks : iterable of TaskInfo
        The tasks to draw; other tasks that they need are left out.
    every_task : callable
        Returns whether a task gets a node of its own. The others share one node for each name.
    """
    tasks = list(tasks)
    labels = {task.id: visible(task.label if every_task(task) else task.name, one_line=True) for task in tasks}
    nodes = {label: Node(label) for label in labels.values()}
    for task in tasks:
        node = nodes[labels[task.id]]
        node.states[task.state] += 1
        _join(node.needs, task.needs, labels)
        _join(node.after, task.after, labels)
        _join(node.creates, task.children, labels)
    return Drawing(nodes)


def _join(edges: dict[str, None], ids: Iterable[TaskId], labels: dict[TaskId, str]) -> None:
    edges.update((labels[id], None) for id in ids if id in labels)


def _below(node: Node) -> list[tuple[str, str]]:
    """List the nodes below a node of a tree, with the relation if it is not by data."""
    related = [(label, "") for label in node.needs]
    related += [(label, " (before it)") for label in node.after if label not in node.needs]
    return related + [(label, " (created by it)") for label in node.creates if label not in node.needs]


def _wide_levels(incoming: Mapping[str, Mapping[str, str]]) -> Iterator[list[str]]:
    """Return the levels of nodes, equally far from the beginning, that are too wide."""
    missing = {label: len(sources) for label, sources in incoming.items()}
    outgoing: dict[str, list[str]] = {label: [] for label in incoming}
    for label, sources in incoming.items():
        for other in sources:
            outgoing[other].append(label)
    level = [label for label, count in missing.items() if not count]
    while level:
        if len(level) > _WIDEST:
            yield level
        following = []
        for label in level:
            for other in outgoing[label]:
                missing[other] -= 1
                if not missing[other]:
                    following.append(other)
        level = following


def _quoted(*lines: str) -> str:
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'
