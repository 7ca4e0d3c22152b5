"""The pages of one run, as routes of Starlette. The dashboard and the server pass functions that find the run."""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from toilfn.cli.following import Following
from toilfn.errors import InputError, ToilfnError
from toilfn.inspect.view import State
from toilfn.model.records import Failure
from toilfn.pages import charts, report
from toilfn.pages.report import POLICY, asset, render
from toilfn.pages.run import PAGE, SORTS, Query, RunView, UnknownTaskError
from toilfn.pages.streams import file_answer, search, tail
from toilfn.stores import MissingObjectError
from toilfn.text import visible

__all__ = ["RunPages", "answering", "events", "html", "same_origin", "statics"]

_LOOK = 1.0
"""Seconds between two checks for changes of a run."""
_SILENCE = 15
"""The number of checks without a change after which a comment is sent, so that proxies keep the connection open."""
_LONGEST_TAIL = 64 << 10
"""The number of bytes at the end of a log that a page shows."""
_ASSETS = {
    "htmx.min.js": "text/javascript", "uPlot.iife.min.js": "text/javascript", "pages.js": "text/javascript",
    "uPlot.min.css": "text/css", "pages.css": "text/css", "LICENSES.txt": "text/plain",
}  # fmt: skip


def html(template: str, code: int = 200, **values: Any) -> Any:
    """Return a response with a rendered template."""
    from starlette.responses import HTMLResponse

    headers = {"content-security-policy": POLICY, "cache-control": "no-store"}
    return HTMLResponse(render(template, **values), code, headers)


def statics(base: str) -> list[Any]:
    """Return the routes for style sheets and scripts."""
    from starlette.responses import Response
    from starlette.routing import Route

    async def serve(request: Any) -> Any:
        name = request.path_params["name"]
        if name not in _ASSETS:
            return Response("file not found\n", 404, media_type="text/plain")
        headers = {"cache-control": "max-age=300"}
        return Response(await asyncio.to_thread(asset, name), headers=headers, media_type=_ASSETS[name])

    return [Route(f"{base}/static/{{name}}", serve)]


def same_origin(request: Any) -> bool:
    """Return whether a request was sent by a page of this server; all others must not change anything (CSRF)."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host", "")


def answering(make: Callable[[Any], Any], around: Callable[[Any], dict[str, Any]]) -> Callable[[Any], Any]:
    """Build the handler for a page. If a `ToilfnError` is raised, the response is a page with the error.

    Parameters
    ----------
    make : callable
        Takes a request, and returns the response. It is called in a thread, unless it is a coroutine function.
    around : callable
        Takes a request, and returns the values that every template needs.
    """

    async def handle(request: Any) -> Any:
        try:
            if asyncio.iscoroutinefunction(make):
                return await make(request)
            return await asyncio.to_thread(make, request)
        except ToilfnError as error:
            code = _code(error)
            return html("error.html", code, status=code, text=visible(str(error)), **around(request))

    return handle


class RunPages:
    """The pages of a run. The methods take a request and the run, and return a response.

    Parameters
    ----------
    find : callable
        Takes a request, and returns the run. It raises `ToilfnError` if the run does not exist.
    base : callable
        Takes a request, and returns the URL of the run's pages, without a slash at its end.
    static : str
        The URL of the style sheets and scripts.
    home : str
        The URL to which the link at the top of each page leads.
    kill : callable, optional
        Takes a request, and stops the run. Without this function, pages have no button for it.
    """

    def __init__(
        self, find: Callable[[Any], RunView], base: Callable[[Any], str], static: str, home: str,
        kill: Callable[[Any], None] | None = None,
    ) -> None:  # fmt: skip
        self._find = find
        self._base = base
        self._static = static
        self._home = home
        self._kill = kill

    def routes(self, path: str) -> list[Any]:
        """Return the routes below a path."""
        from starlette.routing import Route

        task = f"{path}/task/{{task}}"
        routes = [
            Route(path or "/", self._page(self.overview)),
            Route(f"{path}/part/run", self._page(self.part)),
            Route(f"{path}/tasks", self._page(self.tasks)),
            Route(f"{path}/details", self._page(self.details)),
            Route(f"{path}/details.json", self._page(self.details_json)),
            Route(task, self._page(self.task)),
            Route(f"{task}/log/{{attempt:int}}", self._page(self.log)),
            Route(f"{task}/live", self.live),
            Route(f"{path}/events", self.events),
        ]
        if self._kill:
            routes.append(Route(f"{path}/kill", self.kill, methods=["POST"]))
        return routes

    def _page(self, make: Callable[[Any, RunView], Any]) -> Callable[[Any], Any]:
        return answering(lambda request: make(request, self._find(request)), self._around)

    def _around(self, request: Any) -> dict[str, Any]:
        return {"base": self._base(request), "static": self._static, "home": self._home, "frozen": None, "site": None}

    def _shared(self, request: Any, view: RunView) -> dict[str, Any]:
        mark = self.mark(request, view)  # first, so that a change while the page is being rendered causes an event
        return {**self._around(request), "served": self.served(request), "mark": mark}

    def served(self, request: Any) -> Any:
        """Return the server's own record of the run, for subclasses of the server; None for the dashboard."""
        return None

    def mark(self, request: Any, view: RunView) -> str:
        """Return a text that changes whenever the contents of the pages change."""
        return view.mark()

    def _run(self, request: Any, view: RunView) -> dict[str, Any]:
        window = charts.Window.read(
            request.query_params.get("from", ""), request.query_params.get("to", ""), charts.whole(view)
        )
        return {**report.run(view, window, self._base(request)), "actions": self._kill is not None}

    def overview(self, request: Any, view: RunView) -> Any:
        """Return the page of the run."""
        return html("run.html", **self._shared(request, view), **self._run(request, view))

    def part(self, request: Any, view: RunView) -> Any:
        """Return the part of the run's page that changes while the run is running."""
        return html("parts/run.html", **self._shared(request, view), **self._run(request, view))

    def tasks(self, request: Any, view: RunView) -> Any:
        """Return the page with the table of tasks."""
        query = Query.read(request.query_params)
        rows, count = view.tasks(query)
        links = {}
        for sort in SORTS:
            falling = (sort == query.sort and not query.descending) or (sort != query.sort and sort in _FALLING)
            links[sort] = query._replace(sort=sort, descending=falling, page=1).fields()
        names = sorted(kind.name for kind, _ in view.kinds())
        return html("tasks.html", **self._shared(request, view), summary=view.summary(), query=query, rows=rows,
                    count=count, links=links, names=names, first=(query.page - 1) * PAGE,
                    pages=max(1, math.ceil(count / PAGE)))  # fmt: skip

    def task(self, request: Any, view: RunView) -> Any:
        """Return the page of a task."""
        row, found = view.task(request.path_params["task"])
        attempts, text = [], request.query_params.get("q", "")
        for attempt, record in found:
            log = io.BytesIO(b"".join(view.log(record)))
            trace = record.traceback or record.message if isinstance(record, Failure) else ""
            attempts.append((attempt, *tail(log, _LONGEST_TAIL), trace, search(log, text) if text else None))
        return html(
            "task.html", **self._shared(request, view), summary=view.summary(), row=row, attempts=attempts, text=text
        )

    def log(self, request: Any, view: RunView) -> Any:
        """Return the log of an attempt, or the range of it that the request asks for."""
        row, found = view.task(request.path_params["task"])
        number = request.path_params["attempt"]
        if not 0 < number <= len(found):
            raise UnknownTaskError(f"the task has no attempt {number}")
        record = found[number - 1][1]
        trace = [record.traceback.encode(errors="replace")] if isinstance(record, Failure) else []
        text, name = b"".join([*view.log(record), *trace]), f"{row.short_id}-{number}.log"
        return file_answer(io.BytesIO(text), name, request.headers, as_text=True, download=name)

    def details(self, request: Any, view: RunView) -> Any:
        """Return the page with settings, versions and hosts."""
        return self._details(request, view, [], [])

    def _details(
        self, request: Any, view: RunView, facts: list[tuple[str, Any]], texts: list[tuple[str, str]]
    ) -> Any:  # fmt: skip
        """Return the page with details; `facts` come before the others."""
        found = report.details(view)
        found["details"] = [*facts, *found["details"]]
        return html("details.html", **self._shared(request, view), **found, summary=view.summary(), texts=texts)

    def details_json(self, request: Any, view: RunView) -> Any:
        """Return the details as JSON."""
        from starlette.responses import Response

        return Response(json.dumps(report.as_json(view), indent=1, default=str), media_type="application/json")

    async def kill(self, request: Any) -> Any:
        """Stop the run, and redirect to its page."""
        from starlette.responses import PlainTextResponse, RedirectResponse

        assert self._kill is not None
        if not same_origin(request):
            return PlainTextResponse("this request was not sent by a page of this server\n", 403)
        await asyncio.to_thread(self._kill, request)
        return RedirectResponse(self._base(request) or "/", 303)

    async def events(self, request: Any) -> Any:
        """Send an event whenever the pages have changed.

        The id of an event is the mark of that state, so a client that connects again gets an event only if the pages
        have changed meanwhile.
        """
        view = await asyncio.to_thread(self._find, request)
        return events(request, lambda: self.mark(request, view))

    async def live(self, request: Any) -> Any:
        """Send the output of a task as events, until the task has ended."""
        view = await asyncio.to_thread(self._find, request)
        row, _ = await asyncio.to_thread(view.task, request.path_params["task"])
        return _stream(self._lines(request, view, row.id))

    async def _lines(self, request: Any, view: RunView, id: bytes) -> AsyncIterator[str]:
        texts: list[str] = []
        following = Following(view.store, id, texts.append)
        await asyncio.to_thread(following.__enter__)
        try:
            while not await request.is_disconnected():
                await asyncio.to_thread(following.look)
                if texts:
                    yield f"event: text\ndata: {json.dumps(visible(''.join(texts)))}\n\n"
                    texts.clear()
                row, _ = await asyncio.to_thread(view.task, id.hex())
                if row.state not in (State.RUNNING, State.QUEUED):
                    yield "event: over\ndata: 1\n\n"
                    return
                await asyncio.sleep(_LOOK)
        finally:
            await asyncio.to_thread(following.__exit__, None, None, None)


_FALLING = ("start", "duration", "cpu", "memory", "wait", "attempts")
"""Columns that the first click sorts in descending order."""


def _code(error: ToilfnError) -> int:
    if isinstance(error, (UnknownTaskError, MissingObjectError)):
        return 404
    return 400 if isinstance(error, InputError) else 500


def events(request: Any, mark: Callable[[], str]) -> Any:
    """Return a response with server-sent events: one whenever the result of `mark` changes, which is its id."""
    return _stream(_changes(request, mark))


async def _changes(request: Any, current_mark: Callable[[], str]) -> AsyncIterator[str]:
    known = request.headers.get("last-event-id") or request.query_params.get("after", "")
    known = known if known.isprintable() else ""
    yield f"retry: 2000\nid: {known}\n\n"
    silent = 0
    while not await request.is_disconnected():
        with suppress(ToilfnError):
            mark = await asyncio.to_thread(current_mark)
            silent += 1
            if mark != known:
                known, silent = mark, 0
                yield f"id: {mark}\nevent: news\ndata: {mark}\n\n"
            elif silent >= _SILENCE:
                silent = 0
                yield ": nothing new\n\n"
        await asyncio.sleep(_LOOK)


def _stream(events: AsyncIterator[str]) -> Any:
    from starlette.responses import StreamingResponse

    return StreamingResponse(events, headers={"cache-control": "no-store"}, media_type="text/event-stream")
