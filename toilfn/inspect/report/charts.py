"""The pictures of a report, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from toilfn.inspect.report.attempts import Attempt
from toilfn.inspect.report.html import Markup, element
from toilfn.units import format_duration

__all__ = ["colors", "level_chart", "timeline"]

_WIDTH = 1000.0
_LEFT = 150.0
_ROW = 18.0
_CHART = 110.0
_MOST_BARS = 4000
_MOST_ROWS = 64
_MOST_STEPS = 400
"""Of a line; more than that is a comb, and no eye can see how long each tooth lasts."""
_TICKS = 5
_PALETTE = ("#4c78a8", "#f2a541", "#54a24b", "#b279a2", "#72b7b2", "#9d755d", "#d4b106", "#7f8fa9")
_FAILED = "#d1495b"


def colors(attempts: Iterable[Attempt]) -> dict[str, str]:
    """Return each task's name a color, the same in all pictures."""
    names = dict.fromkeys(attempt.name for attempt in attempts)
    return {name: _PALETTE[index % len(_PALETTE)] for index, name in enumerate(names)}


def timeline(attempts: Sequence[Attempt], palette: dict[str, str]) -> Markup:
    """Draw a row for each worker, and on it a bar for each of its attempts.

    Parameters
    ----------
    attempts : sequence of Attempt
        Of more than some thousand, the longest are drawn.
    palette : dict
        Colors of names.
    """
    timed = [attempt for attempt in attempts if attempt.start]
    drawn = sorted(timed, key=lambda attempt: -attempt.wall)[:_MOST_BARS]
    workers = list(dict.fromkeys((a.host, a.worker) for a in sorted(drawn, key=lambda a: a.start)))[:_MOST_ROWS]
    rows = {worker: index for index, worker in enumerate(workers)}
    scale = _Scale(timed)
    height = _ROW * len(rows)
    labels = [
        element("text", f"{host} · {pid}", x=_LEFT - 10, y=_ROW * row + 13, text_anchor="end")
        for (host, pid), row in rows.items()
    ]
    bars = [_bar(a, rows[a.host, a.worker], scale, palette) for a in drawn if (a.host, a.worker) in rows]
    return _svg(height, [*scale.grid(height), *labels, *bars])


def _bar(attempt: Attempt, row: int, scale: _Scale, palette: dict[str, str]) -> Markup:
    failed = attempt.result != "done"
    text = f"{attempt.name} ({attempt.task[:12]}), {attempt.label}: {format_duration(attempt.wall)}"
    x, end = scale.x(attempt.start), scale.x(attempt.start + attempt.wall)
    return element(
        "rect", element("title", f"{text}, {attempt.result}"), x=x, y=_ROW * row + 2, width=max(end - x, 1.5),
        height=_ROW - 4, rx=2, fill=_FAILED if failed else palette[attempt.name],
    )  # fmt: skip


def level_chart(
    attempts: Sequence[Attempt],
    asked: Callable[[Attempt], float],
    used: Callable[[Attempt], float],
    write: Callable[[float], str],
) -> Markup:
    """Draw how much was held at each time, on average: as an outline what was asked for, filled what was used.

    Parameters
    ----------
    attempts : sequence of Attempt
    asked, used : callable
        Give an attempt's amounts.
    write : callable
        Gives an amount as text.
    """
    timed = [attempt for attempt in attempts if attempt.start]
    scale = _Scale(timed)
    lines = [_levels(timed, amount) for amount in (asked, used)]
    top = max((level for line in lines for _, level in line), default=0.0) or 1.0
    paths = [_path(line, scale, top) for line in lines]
    marks = [
        element("text", write(top), x=_LEFT - 10, y=12, text_anchor="end"),
        element("text", "0", x=_LEFT - 10, y=_CHART, text_anchor="end"),
        element("path", d=paths[1], class_="used"),
        element("path", d=paths[0], class_="asked"),
    ]
    return _svg(_CHART, [*scale.grid(_CHART), *marks])


def _levels(attempts: Iterable[Attempt], amount: Callable[[Attempt], float]) -> list[tuple[float, float]]:
    """Add up amounts over time: when the sum changes, and to what."""
    changes: dict[float, float] = {}
    for attempt in attempts:
        if attempt.wall:
            changes[attempt.start] = changes.get(attempt.start, 0.0) + amount(attempt)
            end = attempt.start + attempt.wall
            changes[end] = changes.get(end, 0.0) - amount(attempt)
    level, levels = 0.0, []
    for moment in sorted(changes):
        level += changes[moment]
        levels.append((moment, max(0.0, level)))
    return levels if len(levels) <= _MOST_STEPS else _averaged(levels)


def _averaged(levels: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Replace very many steps by the averages over stretches of equal length: the area stays what it is."""
    begin, end = levels[0][0], levels[-1][0]
    width = (end - begin) / _MOST_STEPS
    areas = [0.0] * _MOST_STEPS
    for (moment, level), (until, _) in pairwise(levels):
        first, last = ((time - begin) / width for time in (moment, until))
        for stretch in range(int(first), min(int(last), _MOST_STEPS - 1) + 1):
            areas[stretch] += level * (min(last, stretch + 1) - max(first, stretch))
    return [*((begin + stretch * width, area) for stretch, area in enumerate(areas)), (end, 0.0)]


def _path(levels: Sequence[tuple[float, float]], scale: _Scale, top: float) -> str:
    words = [f"M{_LEFT:.1f},{_CHART:.1f}"]
    for moment, level in levels:
        words.append(f"H{scale.x(moment):.1f}V{_CHART - (_CHART - 4) * level / top:.1f}")
    return "".join([*words, f"V{_CHART:.1f}Z"])


class _Scale:
    """Places moments on the x axis."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self.begin = min((attempt.start for attempt in attempts), default=0.0)
        self.span = max((a.start + a.wall - self.begin for a in attempts), default=0.0) or 1.0

    def x(self, moment: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 30) * (moment - self.begin) / self.span

    def grid(self, height: float) -> list[Markup]:
        parts = []
        for tick in range(_TICKS + 1):
            seconds = self.span * tick / _TICKS
            x = self.x(self.begin + seconds)
            parts.append(element("line", x1=x, x2=x, y1=0, y2=height, class_="grid"))
            text = format_duration(round(seconds, 1 if self.span < 100 else None))
            parts.append(element("text", text, x=x, y=height + 16, text_anchor="middle"))
        return parts


def _svg(height: float, parts: Iterable[Markup]) -> Markup:
    return element("svg", *parts, viewBox=f"0 0 {_WIDTH:.0f} {height + 22:.0f}", role="img")
