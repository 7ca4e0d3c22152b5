"""``toilfn report STORE``: write the page of a run to one file.

The functions `run`, `details` and `render`, which collect and render the contents, also serve the live page.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any, NamedTuple

from toilfn import __version__
from toilfn.cli.common import add_store, add_store_options, open_named, output_file
from toilfn.errors import InputError
from toilfn.inspect.fold.columns import Detail, Worker, total
from toilfn.inspect.view import State
from toilfn.pages import charts
from toilfn.pages.charts import Markup, graph
from toilfn.pages.run import RunView
from toilfn.stores import Store
from toilfn.text import visible
from toilfn.units import format_duration, format_size

__all__ = ["POLICY", "as_json", "asset", "command", "configure", "details", "page", "render", "run"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of pages, which forbids inline scripts and anything from another origin."""


def render(template: str, **values: Any) -> str:
    """Render a template to HTML.

    Raises
    ------
    InputError
        If jinja2 is not installed.
    """
    return str(_environment().get_template(template).render(values))


def asset(name: str) -> str:
    """Return the content of a style sheet, script or other file of this package that pages use."""
    return resources.files("toilfn.pages").joinpath("static").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise InputError("pages need the package jinja2", hint="pip install 'toilfn[server]'") from None

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("toilfn.pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, finalize=_finalized,
    )  # fmt: skip
    environment.filters |= {
        "duration": _duration, "size": lambda value: format_size(round(value)), "when": _when, "ago": _ago,
        "number": lambda value: f"{value:,}", "json": lambda value: markupsafe.Markup(_json(value)),  # noqa: S704 - has no markup in it
        "raw": markupsafe.Markup, "log": _log,
    }  # fmt: skip
    environment.globals |= {"States": list(State), "now": time.time}
    return environment


def _finalized(value: Any) -> Any:
    """Escape control characters in a text, which may come from a task."""
    if isinstance(value, Markup) or hasattr(value, "__html__") or not isinstance(value, str):
        return value
    return visible(value)


def _log(text: str) -> str:
    """Return a log as a terminal would show it, without colors: of a progress bar, only its last state."""
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)", "", text)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _json(value: Any) -> str:
    """Return JSON that can be put into an HTML element, with escaped angle brackets."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _duration(seconds: float) -> str:
    if seconds >= 100:
        return format_duration(round(seconds))
    return format_duration(round(seconds, 1 if seconds >= 10 else 2))


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""


def _ago(moment: float) -> str:
    return f"{format_duration(max(0, round(time.time() - moment)))} ago" if moment else ""


_MOST_BOXES = 60
"""Maximum number of kinds of tasks in a graph; a larger graph is not drawn, since no one could read it."""


class HostTotals(NamedTuple):
    """The totals of all workers of a host. Times are in seconds."""

    name: str
    workers: int
    attempts: int
    failed: int
    busy: float
    cpu: float


def run(view: RunView, window: charts.Window, base: str | None) -> dict[str, Any]:
    """Return the values for the template of a run's page.

    Parameters
    ----------
    view : RunView
        The run.
    window : Window
        The part of the run that the timeline shows.
    base : str or None
        The URL of the run, for links; None for a report, which has no links.
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
    """Return the label, the start and the end of the window for each link beside the timeline."""
    quarter, middle = window.span / 4, (window.start + window.end) / 2
    found = [("Zoom in", middle - quarter, middle + quarter)]
    if window.span < whole:
        found += [("Earlier", window.start - 2 * quarter, window.end - 2 * quarter),
                  ("Later", window.start + 2 * quarter, window.end + 2 * quarter),
                  ("Zoom out", middle - 4 * quarter, middle + 4 * quarter)]  # fmt: skip
    inside = ((label, max(0.0, start), min(whole, end)) for label, start, end in found)
    return [(label, f"{start:.3f}", f"{end:.3f}") for label, start, end in inside if end > start]


def details(view: RunView) -> dict[str, Any]:
    """Return the settings, the versions, the resources used, and the hosts of a run."""
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


def _hosts(workers: Iterable[Worker]) -> list[HostTotals]:
    hosts: dict[str, HostTotals] = {}
    for worker in workers:
        before = hosts.get(worker.host, HostTotals(worker.host, 0, 0, 0, 0.0, 0.0))
        hosts[worker.host] = HostTotals(
            worker.host, before.workers + 1, before.attempts + worker.attempts, before.failed + worker.failed,
            before.busy + worker.busy, before.cpu + worker.cpu,
        )  # fmt: skip
    return sorted(hosts.values(), key=lambda host: -host.busy)


def as_json(view: RunView) -> dict[str, Any]:
    """Return the details as plain values, for JSON."""
    found, summary = details(view), view.summary()
    return {
        "name": PurePath(summary.workflow).name, "state": summary.state, "started": summary.started,
        "ended": summary.ended or None, "tasks": {state.value: count for state, count in summary.counts.items()},
        "details": dict(found["details"]), "hosts": [host._asdict() for host in found["hosts"]],
    }  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=output_file, default=Path("report.html"),
        help="file to write (default: report.html)",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Write a page with the graph, a timeline, the resources used, and the failed tasks."""
    options.output.write_text(page(open_named(options)), encoding="utf-8")
    print(f"wrote {options.output}")
    return 0


def page(store: Store) -> str:
    """Build the HTML of a report, with all its style sheets and scripts, so that it needs no other file.

    Parameters
    ----------
    store : Store
        The store of the run.
    """
    view = RunView(lambda: store, Detail.CURVES)
    view.refresh()
    window = charts.Window(0.0, charts.whole(view))
    style = asset("uPlot.min.css") + asset("pages.css")
    script = asset("uPlot.iife.min.js") + asset("pages.js")
    return render(
        "run.html", **run(view, window, None), **details(view), base="", static="", home="",
        site=None, served=None, frozen=SimpleNamespace(style=style, script=script.replace("</script", "<\\/script")),
    )  # fmt: skip
