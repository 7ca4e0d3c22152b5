"""The charts of a run: levels over time as numbers for the browser, and who worked when as SVG."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

from toilfn.inspect.fold.columns import Worker
from toilfn.inspect.fold.curves import Levels, Timescale
from toilfn.inspect.fold.run import Fold
from toilfn.pages.markup import Markup, element
from toilfn.pages.run import RunView
from toilfn.units import format_duration

__all__ = ["Window", "curves", "timeline"]

_POINTS = 240
_WIDTH, _LEFT, _ROW = 1000.0, 190.0, 18.0
_MOST_ROWS = 32
_MOST_BARS = 1200
_TICKS = 6
COLORS = 8
"""How many colors kinds have; the style sheet names them."""


class Window(NamedTuple):
    """A stretch of time, in seconds since the run began."""

    start: float
    end: float

    @classmethod
    def read(cls, start: str, end: str, whole: float) -> Window:
        """Read a window from a URL; one that cannot be read is the whole run."""
        try:
            window = cls(max(0.0, float(start or 0)), min(whole, float(end or whole)))
        except ValueError:
            return cls(0.0, whole)
        return window if window.end > window.start else cls(0.0, whole)

    @property
    def span(self) -> float:
        """Seconds."""
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
    """Return the levels over time: numbers of tasks, cores and memory, each with means and peaks.

    Parameters
    ----------
    view : RunView
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
            # `plus` made a level of its own, which the scale does not know: what runs is added to the copy only.
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
    """Draw a row for each worker: how busy it was, and on it the longest of its attempts.

    Parameters
    ----------
    view : RunView
    window : Window
        The stretch of time that is drawn.
    base : str
        The URL of the run, for links to tasks; None leaves the links out.
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
    """Draw the longest attempts in a window; of those that are shorter than a pixel, the row shows the sum."""
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
