"""The charts of a run: curves over time, as numbers that the browser draws, and pictures in SVG.

`timeline` shows when each worker was busy. `graph` shows one box for each kind of task, in columns from left to right.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import repeat
from typing import Any, NamedTuple

from toilfn.inspect.drawing import Drawing, Node
from toilfn.inspect.fold.columns import Levels, Timescale, Worker
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.view import State
from toilfn.pages.run import RunView
from toilfn.text import visible
from toilfn.units import format_duration

__all__ = ["Markup", "Window", "curves", "element", "graph", "timeline"]


class Markup(str):
    """A text that is HTML, and so is not escaped."""

    __slots__ = ()


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """Build an element.

    Parameters
    ----------
    tag : str
    *content : object
        Texts, which are escaped, or `Markup`, which is not.
    **attributes : object
        The attributes. In a name, an underscore stands for a hyphen, and an underscore at the end is removed:
        ``class_="box"``, ``stroke_width=2``.

    Examples
    --------
    >>> element("p", "1 < 2", element("b", "!"), class_="note")
    '<p class="note">1 &lt; 2<b>!</b></p>'
    """
    words = [f' {_name(name)}="{escape(visible(_text(value)))}"' for name, value in attributes.items()]
    inner = "".join(part if isinstance(part, Markup) else escape(visible(str(part))) for part in content)
    return Markup(f"<{tag}{''.join(words)}>{inner}</{tag}>")


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


_POINTS = 240
_WIDTH, _LEFT, _ROW = 1000.0, 190.0, 18.0
_MOST_ROWS = 32
_MOST_BARS = 1200
_TICKS = 6
COLORS = 8
"""The number of colors for kinds of tasks, which the style sheet defines as the classes ``k0``, ``k1``, ..."""


class Window(NamedTuple):
    """The part of a run that the timeline shows, in seconds since the run began."""

    start: float
    end: float

    @classmethod
    def read(cls, start: str, end: str, whole: float) -> Window:
        """Parse a window from a URL; return the window of the whole run if a value is missing or invalid."""
        try:
            window = cls(max(0.0, float(start or 0)), min(whole, float(end or whole)))
        except ValueError:
            return cls(0.0, whole)
        return window if window.end > window.start else cls(0.0, whole)

    @property
    def span(self) -> float:
        """The length of the window, in seconds."""
        return self.end - self.start


def whole(view: RunView) -> float:
    """Return how long the run has taken so far, in seconds."""
    with view.lock:
        view.refresh()
        scale = view.fold.measures.scale
        if scale is None:
            return 0.0
        until = time.time() if view.fold.since() else 0.0
        return max(until, scale.end) - scale.begin


def curves(view: RunView) -> dict[str, Any]:
    """Return curves of the numbers of tasks, the cores, the memory and the size of the store over time.

    The time of the run is divided into intervals. For each interval, a curve has a mean and a peak.

    Parameters
    ----------
    view : RunView
        The run.
    """
    with view.lock:
        fold = view.fold
        scale = fold.measures.scale
        if scale is None or scale.end <= scale.begin:
            return {}
        running = Levels()
        for kind in fold.kinds:
            if kind.running is not None:
                running = running.plus(kind.running)
        now = time.time()
        extra = fold.since()
        if extra:
            scale.reach(now)
            # `plus` has built a new level, which the scale does not update. So the tasks that are running now are added
            # to the curve, but not to the levels of the fold.
            running = _with_running(running, scale, extra, now)
        times, _ = scale.points(_POINTS)
        measures = fold.measures
        series = {
            "tasks": [("running", running, 1.0), ("queued", measures.queued, 1.0)],
            "cores": [("used", measures.cpu, 1.0), ("requested", measures.cores_asked, 1.0)],
            "memory": [("used", measures.memory, 2.0**-30), ("requested", measures.memory_asked, 2.0**-30)],
        }
        if peak := max(measures.stored.curve(scale.used, _POINTS).peaks):
            unit, factor = ("GiB", 2.0**-30) if peak >= 2**30 else ("MiB", 2.0**-20)
            series["store"] = [(f"stored, {unit}", measures.stored, factor)]
        charts = {
            name: {label: _series(level, scale, factor) for label, level, factor in levels}
            for name, levels in series.items()
        }
        return {"begin": round(scale.begin, 2), "times": [round(t, 3) for t in times], "charts": charts}


def _with_running(level: Levels, scale: Timescale, extra: Sequence[tuple[int, float]], now: float) -> Levels:
    more = Levels()
    more.take(scale.spans([given for _, given in extra], [now] * len(extra)).changes(repeat(1.0)))
    return level.plus(more)


def _series(level: Levels, scale: Timescale, factor: float) -> dict[str, list[float]]:
    curve = level.curve(scale.used, _POINTS)
    return {"means": [round(v * factor, 3) for v in curve.means], "peaks": [round(v * factor, 3) for v in curve.peaks]}


def timeline(view: RunView, window: Window, base: str | None = None) -> Markup:
    """Draw a row for each worker: how busy it was over time, and on top of that its longest attempts.

    Parameters
    ----------
    view : RunView
        The run.
    window : Window
        The part of the run to draw.
    base : str, optional
        The URL of the run, for links to tasks; without it, there are no links.
    """
    with view.lock:
        fold = view.fold
        scale = fold.measures.scale
        workers = sorted(fold.measures.workers.values(), key=lambda worker: (-worker.busy, worker.host))[:_MOST_ROWS]
        workers.sort(key=lambda worker: (worker.host, worker.process))
        if scale is None or not workers or window.span <= 0:
            return Markup("")
        rows = {(worker.host, worker.process): row for row, worker in enumerate(workers)}
        height = _ROW * len(rows)
        parts = [*_grid(window, height)]
        parts += [part for row, worker in enumerate(workers) for part in _row(worker, row, scale, window)]
        parts += _bars(fold, rows, scale.begin, window, base)
    return element(
        "svg", *parts, viewBox=f"0 0 {_WIDTH:.0f} {height + 22:.0f}", class_="timeline",
        role="img" if base is None else "group",
        aria_label="Attempts by worker over time",
    )  # fmt: skip


def _x(moment: float, window: Window) -> float:
    share = min(1.0, max(0.0, (moment - window.start) / window.span))
    return _LEFT + (_WIDTH - _LEFT - 30) * share


def _row(worker: Worker, row: int, scale: Timescale, window: Window) -> list[Markup]:
    used = scale.used
    curve = worker.levels.curve(used, used)
    first = int(window.start / scale.width)
    last = min(used, int(window.end / scale.width) + 1)
    step = max(1, -(-(last - first) // 400))
    bottom = _ROW * row + _ROW - 2
    path = [f"M{_x(first * scale.width, window):.1f},{bottom:.1f}"]
    for at in range(first, last, step):
        group = curve.means[at : min(last, at + step)]
        top = bottom - (_ROW - 4) * min(1.0, sum(group) / len(group))
        path.append(f"V{top:.1f}H{_x((at + step) * scale.width, window):.1f}")
    label = f"{_short(worker.host)} · {worker.process or 'others'}"
    counts = f"{worker.attempts} attempts, {worker.failed} of them failed"
    text = f"{worker.host}, process {worker.process}: {counts}, busy for {format_duration(round(worker.busy, 1))}"
    return [
        element("text", label, element("title", text), x=_LEFT - 10, y=_ROW * row + 13, text_anchor="end"),
        element("path", element("title", text), d="".join([*path, f"V{bottom:.1f}Z"]), class_="busy"),
    ]


def _short(host: str) -> str:
    return host if len(host) <= 18 else f"{host[:17]}…"


def _bars(fold: Fold, rows: dict[tuple[str, int], int], begin: float, window: Window, base: str | None) -> list[Markup]:
    """Draw the longest attempts in a window. Successful ones below a pixel are part of the row's busy time only."""
    kept = fold.attempts
    start, end = begin + window.start, begin + window.end
    least = window.span / (_WIDTH - _LEFT)
    shown = [n for n, (s, w, c) in enumerate(zip(kept.start, kept.wall, kept.cause, strict=True))
             if (w >= least or c) and s < end and s + w > start]  # fmt: skip
    shown.sort(key=lambda n: (not kept.cause[n], -kept.wall[n]))
    ids, bars = fold.ids() if base is not None else [], []
    for n in shown[:_MOST_BARS]:
        row = rows.get(fold.worker(kept.worker[n]))
        if row is None:
            continue
        x, until = _x(kept.start[n] - begin, window), _x(kept.start[n] + kept.wall[n] - begin, window)
        kind, cause = fold.kind_of(kept.task[n]), kept.causes[kept.cause[n]]
        title = element("title", f"{kind.name}: {format_duration(round(kept.wall[n], 2))}, {cause or 'done'}")
        bar = element("rect", title, x=x, y=_ROW * row + 2, width=max(until - x, 1.5), height=_ROW - 4, rx=2,
                      class_="failed" if cause else f"k{kind.number % COLORS}")  # fmt: skip
        bars.append(element("a", bar, href=f"{base}/task/{ids[kept.task[n]].hex()}") if base is not None else bar)
    return bars


def _grid(window: Window, height: float) -> list[Markup]:
    parts = []
    for tick in range(_TICKS + 1):
        moment = window.start + window.span * tick / _TICKS
        x = _x(moment, window)
        text = format_duration(round(moment, 1 if window.span < 100 else None))
        parts.append(element("line", x1=x, x2=x, y1=0, y2=height, class_="grid"))
        parts.append(element("text", text, x=x, y=height + 16, text_anchor="middle"))
    return parts


_BOX_WIDTH, _BOX_HEIGHT = 170.0, 46.0
_GAP_X, _GAP_Y = 60.0, 18.0
_LONGEST = 22


def graph(drawing: Drawing) -> Markup:
    """Draw the graph of the kinds of tasks: boxes, with solid lines for data, and dashed ones for order or creation.

    Parameters
    ----------
    drawing : Drawing
        The boxes and their relations.
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
        aria_label="The kinds of tasks and their dependencies",
    )


def _edges_into(nodes: Mapping[str, Node]) -> dict[str, dict[str, str]]:
    """Return, for each box, the boxes before it, each with the kind of the edge: "data" or "order"."""
    into: dict[str, dict[str, str]] = {label: {} for label in nodes}
    for label, node in nodes.items():
        into[label].update(dict.fromkeys(node.after, "order"))
        into[label].update(dict.fromkeys(node.needs, "data"))
        for made in node.creates:
            into[made].setdefault(label, "order")
    return {label: {other: how for other, how in found.items() if other != label} for label, found in into.items()}


def _columns(into: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Return the column of each box, which is to the right of all boxes before it."""
    columns = dict.fromkeys(into, 0)
    for _ in into:  # a limit, since boxes in a cycle would move to the right forever
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
    """Return the upper left corner of each box, and of its lanes, by label and column.

    If an edge of a box passes a column, it uses a lane of the box in that column. The key of a lane's corner is the
    number of its column; the key of the box's own corner is -1.
    """
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
        element("text", _box_label(node), x=x + _BOX_WIDTH / 2, y=y + 36, text_anchor="middle"),
        class_=f"box {node.state.value}",
    )  # fmt: skip


def _box_label(node: Node) -> str:
    counts = [f"{node.states[state]} {state.value}" for state in State if node.states[state]]
    return ", ".join(counts)
