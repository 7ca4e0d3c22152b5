"""The contents of the page of a run, for the templates: the same for a live page and for a report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, NamedTuple

from toilfn import __version__
from toilfn.inspect.fold.columns import Worker
from toilfn.inspect.fold.figures import total
from toilfn.pages import charts
from toilfn.pages.graph import graph
from toilfn.pages.run import RunView
from toilfn.units import format_duration, format_size

__all__ = ["as_json", "details", "run"]

_MOST_BOXES = 60
"""Kinds beyond which a graph is not drawn: it would be too wide to read."""


class Host(NamedTuple):
    """The workers of a host, added up. Times are in seconds."""

    name: str
    workers: int
    attempts: int
    failed: int
    busy: float
    cpu: float


def run(view: RunView, window: charts.Window, base: str | None) -> dict[str, Any]:
    """Return the values of the template of a run.

    Parameters
    ----------
    view : RunView
    window : Window
        The stretch of time that the timeline shows.
    base : str
        The URL of the run, for links; None in a report.
    """
    whole = charts.whole(view)
    drawing = view.drawing()
    return {
        "summary": view.summary(),
        "failures": view.failures(),
        "kinds": view.kinds(),
        "curves": charts.curves(view),
        "timeline": charts.timeline(view, window, base),
        "window": window,
        "zoomed": window.span < whole - 0.001 and window.end != whole,
        "zooms": _zooms(window, whole),
        "graph": graph(drawing) if 0 < len(drawing.nodes) <= _MOST_BOXES else "",
        "actions": False,
    }


def _zooms(window: charts.Window, whole: float) -> list[tuple[str, str, str]]:
    """Return the stretches of time that links beside the timeline lead to."""
    quarter, middle = window.span / 4, (window.start + window.end) / 2
    found = [("Zoom in", middle - quarter, middle + quarter)]
    if window.span < whole:
        found += [("Earlier", window.start - 2 * quarter, window.end - 2 * quarter),
                  ("Later", window.start + 2 * quarter, window.end + 2 * quarter),
                  ("Zoom out", middle - 4 * quarter, middle + 4 * quarter)]  # fmt: skip
    inside = ((label, max(0.0, start), min(whole, end)) for label, start, end in found)
    return [(label, f"{start:.3f}", f"{end:.3f}") for label, start, end in inside if end > start]


def details(view: RunView) -> dict[str, Any]:
    """Return settings, versions, what it cost, and the hosts."""
    with view.lock:
        view.refresh()
        fold = view.fold
        sums, newest = total(kind.usage for kind in fold.kinds), fold.run
        facts: list[tuple[str, Any]] = []
        if newest is not None:
            facts += [("workflow", newest.workflow), ("run of the store", newest.number), ("store", view.store.url)]
        if fold.epochs:
            leader = fold.epochs[-1]
            facts.append(("led by", f"process {leader.pid} on {leader.host}"))
        facts += [
            ("runs, leaders", f"{len(fold.runs)}, {len(fold.epochs)}"),
            ("attempts", f"{sums.attempts:,.0f}, of which {sums.failed:,.0f} failed"),
            ("cores", f"{format_duration(round(sums.cores_asked))} requested, {format_duration(round(sums.cpu))} used"),
            ("data", f"{format_size(round(sums.read))} read, {format_size(round(sums.written))} written"),
            ("requests to the store", f"{fold.requests + sums.requests:,.0f}"),
            ("toilfn here", __version__),
        ]
        if newest is not None:
            facts += [(f"setting {name}", value) for name, value in sorted(newest.settings.items())
                      if value not in (None, (), {}, "") and "option" not in name]  # fmt: skip
        return {"details": facts, "hosts": _hosts(fold.measures.workers.values())}


def _hosts(workers: Iterable[Worker]) -> list[Host]:
    hosts: dict[str, Host] = {}
    for worker in workers:
        before = hosts.get(worker.host, Host(worker.host, 0, 0, 0, 0.0, 0.0))
        hosts[worker.host] = Host(
            worker.host, before.workers + 1, before.attempts + worker.attempts, before.failed + worker.failed,
            before.busy + worker.busy, before.cpu + worker.cpu,
        )  # fmt: skip
    return sorted(hosts.values(), key=lambda host: -host.busy)


def as_json(view: RunView) -> dict[str, Any]:
    """Return the details for programs."""
    found, summary = details(view), view.summary()
    return {
        "name": PurePath(summary.workflow).name, "state": summary.state, "started": summary.started,
        "ended": summary.ended or None, "tasks": {state.value: count for state, count in summary.counts.items()},
        "details": dict(found["details"]), "hosts": [host._asdict() for host in found["hosts"]],
    }  # fmt: skip
