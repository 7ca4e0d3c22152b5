"""Puts a report together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from toilfn.inspect.drawing import draw
from toilfn.inspect.report.attempts import Attempt, attempts_of
from toilfn.inspect.report.charts import colors, level_chart, timeline
from toilfn.inspect.report.graph import graph
from toilfn.inspect.report.html import Markup, element
from toilfn.inspect.view import State, TaskInfo, View
from toilfn.model.records import BlobRef, Failure
from toilfn.stores import Store
from toilfn.units import format_duration, format_size

__all__ = ["page"]

_MOST_FAILURES = 50

_STYLE = Markup("""
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #24292f; background: #f5f6f8; margin: 0 }
main { max-width: 1080px; margin: 0 auto; padding: 24px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 17px; margin: 0 0 12px }
section { background: #fff; border: 1px solid #e3e6ea; border-radius: 8px; padding: 18px 22px; margin: 18px 0;
  overflow-x: auto }
.note { color: #6b7480; font-size: 13px } .cards { display: flex; gap: 14px; flex-wrap: wrap; margin: 18px 0 }
.card { background: #fff; border: 1px solid #e3e6ea; border-radius: 8px; padding: 10px 18px; min-width: 110px }
.card b { display: block; font-size: 21px } .card.failed b { color: #d1495b }
table { border-collapse: collapse; width: 100% } td, th { text-align: right; padding: 4px 10px;
  border-bottom: 1px solid #eceef1 } td:first-child, th:first-child { text-align: left }
th { font-weight: 600; color: #6b7480; font-size: 13px } svg { max-width: 100%; height: auto; display: block }
svg text { font-size: 11px; fill: #6b7480 } svg text.name { font-size: 13px; fill: #24292f; font-weight: 600 }
.grid { stroke: #e8eaee } .used { fill: #9dbbdc } .asked { fill: none; stroke: #4c78a8 }
.edge { fill: none; stroke: #98a2ae; stroke-width: 1.3 } .edge.order { stroke-dasharray: 4 4 }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px }
pre { background: #f5f6f8; padding: 12px; border-radius: 6px; overflow-x: auto; font-size: 12.5px; margin: 8px 0 }
details { margin: 8px 0 } summary { cursor: pointer } summary b { color: #d1495b }
""")


def page(store: Store, view: View, state: str) -> str:
    """Build a report's HTML, which needs nothing from elsewhere.

    Parameters
    ----------
    store : Store
    view : View
        Of that store.
    state : str
        How the newest run is, in one word.
    """
    attempts = list(attempts_of(store, view))
    title = f"{view.run.workflow if view.run else 'Nothing was run'}: {state}"
    head = element("head", Markup('<meta charset="utf-8">'), element("title", title), element("style", _STYLE))
    body = element(
        "main", *_header(store, view, state), _cards(view.current(), attempts), *_sections(store, view, attempts)
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}<body>{body}</body></html>\n'


def _header(store: Store, view: View, state: str) -> list[Markup]:
    run = view.run
    if run is None:
        return [element("h1", "Nothing was run in this store yet")]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.time))
    note = f"run {run.number}, started {when}: {state} · {store.url}"
    return [element("h1", run.workflow.rpartition("/")[2]), element("div", note, class_="note")]


def _cards(tasks: Sequence[TaskInfo], attempts: Sequence[Attempt]) -> Markup:
    counts = Counter(task.state for task in tasks)
    begin = min((attempt.start for attempt in attempts if attempt.start), default=0.0)
    span = max((attempt.start + attempt.wall - begin for attempt in attempts if attempt.start), default=0.0)
    cards = [_card(str(counts[s]), s.value, "failed" if s is State.FAILED else "") for s in State if counts[s]]
    return element(
        "div",
        *cards,
        _card(format_duration(round(span, 1)), "first start to last end"),
        _card(format_duration(round(sum(attempt.cpu for attempt in attempts), 1)), "processor time"),
        _card(format_size(max((attempt.memory for attempt in attempts), default=0)), "most memory"),
        class_="cards",
    )


def _card(value: str, label: str, kind: str = "") -> Markup:
    return element("div", element("b", value), label, class_=f"card {kind}".strip())


def _sections(store: Store, view: View, attempts: Sequence[Attempt]) -> Iterable[Markup]:
    palette, tasks = colors(attempts), view.current()
    failed = [task for task in tasks if task.state is State.FAILED]
    if failed:
        yield _section("Failures", *_failures(store, view, failed, attempts))
    yield _section("Graph", graph(draw(tasks)), note="Tasks of one name are one box. Dashed lines: order, or creation.")
    if attempts:
        yield _section("Attempts by worker", timeline(attempts, palette), note="Red: failed. Point at a bar for more.")
        cores = level_chart(attempts, lambda a: a.cores_asked, _cores_used, lambda value: f"{value:.3g} cores")
        yield _section("Cores", cores, note="Line: asked for. Filled: used, on average over each attempt.")
        memory = level_chart(attempts, lambda a: a.memory_asked, lambda a: a.memory, lambda v: format_size(round(v)))
        yield _section("Memory", memory, note="Line: asked for. Filled: the peaks of the attempts at work.")
        yield _section("Tasks", _table(attempts, palette))


def _cores_used(attempt: Attempt) -> float:
    return attempt.cpu / attempt.wall if attempt.wall else 0.0


def _section(title: str, *content: Markup, note: str = "") -> Markup:
    return element("section", element("h2", title), *content, *([element("div", note, class_="note")] if note else []))


def _table(attempts: Iterable[Attempt], palette: Mapping[str, str]) -> Markup:
    headings = ("task", "done", "failed", "time", "longest", "processor", "usual wait", "longest wait", "most memory",
                "read", "written")  # fmt: skip
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.name, []).append(attempt)
    rows = [_row(name, group, palette[name]) for name, group in groups.items()]
    return element("table", element("tr", *(element("th", text) for text in headings)), *rows)


def _row(name: str, group: Sequence[Attempt], color: str) -> Markup:
    done = sum(attempt.result == "done" for attempt in group)
    walls = [attempt.wall for attempt in group]
    waits = [attempt.wait for attempt in group]
    times = [sum(walls), max(walls), sum(a.cpu for a in group), median(waits), max(waits)]
    sizes = [max(a.memory for a in group), sum(a.read for a in group), sum(a.written for a in group)]
    swatch = element("span", class_="swatch", style=f"background:{color}")
    durations = (format_duration(round(seconds, 2)) for seconds in times)
    cells = [str(done), str(len(group) - done), *durations, *map(format_size, sizes)]
    return element("tr", element("td", swatch, name), *(element("td", cell) for cell in cells))


def _failures(store: Store, view: View, failed: Sequence[TaskInfo], attempts: Iterable[Attempt]) -> Iterable[Markup]:
    labels = {(attempt.task, attempt.number): attempt.label for attempt in attempts}
    for task in failed[:_MOST_FAILURES]:
        texts = [
            _failure_text(store, attempt, label)
            for attempt in view.attempts(task.id)
            if isinstance(attempt, Failure) and (label := labels.get((task.id.hex(), attempt.attempt)))
        ]
        summary = element("summary", element("b", task.label), f": {task.error}")
        yield element("details", summary, *(element("pre", text) for text in texts), open="open")
    if len(failed) > _MOST_FAILURES:
        yield element("div", f"... and {len(failed) - _MOST_FAILURES} more: toilfn status --failed", class_="note")


def _failure_text(store: Store, failure: Failure, label: str) -> str:
    log = store.get_blob(failure.log) if isinstance(failure.log, BlobRef) else failure.log
    parts = [f"{label}: {failure.message}", log.decode(errors="replace"), failure.traceback]
    return "\n".join(part.rstrip() for part in parts if part.strip())
