"""The pages of the server: the list of runs, the pages of a run, the login form, and the state of the server.

The pages of a run are those of its job store, with additional data from the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from toilfn import __version__
from toilfn.errors import InputError
from toilfn.pages.routes import RunPages, answering, events, html, statics
from toilfn.pages.run import RunView
from toilfn.pages.streams import file_answer, search, tail
from toilfn.server import answers
from toilfn.server.access import COOKIE, LIFETIME, DeniedError, Principal
from toilfn.server.answers import open_stream
from toilfn.server.app import PAGES, Service
from toilfn.server.drafts import draft_routes
from toilfn.server.fields import pairs_of
from toilfn.server.forms import fields_of, user_of
from toilfn.server.index import Filter, Summary
from toilfn.server.records import Notes, Run, State
from toilfn.stores import MissingObjectError

__all__ = ["Output", "Query", "Served", "ServedRun", "labels_of", "site_routes"]

_TAIL = 64 << 10
"""Maximum number of bytes of a stream to show on a page."""
_SHORT_TAIL = 4 << 10
_LONGEST_LABEL = 200
_STREAMS = ("stderr", "stdout")


class Output(NamedTuple):
    """One output of a run on a page: a link to a file, or a text."""

    name: str
    url: str
    text: str
    size: int | None


class Served(NamedTuple):
    """The server's data about a run, for the templates."""

    id: str
    url: str
    """The URL of the run's page."""
    state: str
    is_final: bool
    name: str
    kind: str
    owner: str
    submitted: float
    tags: dict[str, str]
    labels: dict[str, str]
    archived: bool
    reason: str
    notes: list[str]
    """The server's messages about the end of the run."""
    exit_code: int | None
    stderr: str
    """The end of the command's output, if the run has failed or has no tasks yet."""
    outputs: list[Output]


class ServedRun(RunPages):
    """The pages of the runs of a server.

    Parameters
    ----------
    service : Service
    around : callable
        Returns the values that every template needs.
    """

    def __init__(self, service: Service, around: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__(
            lambda request: service.view(self._asked(request)),
            lambda request: f"{PAGES}/runs/{request.path_params['run_id']}", f"{PAGES}/static", PAGES,
        )  # fmt: skip
        self._service = service
        self._site = around

    def _asked(self, request: Any) -> Run:
        return self._service.run(request.path_params["run_id"], user_of(request))

    def _around(self, request: Any) -> dict[str, Any]:
        return {**self._site(request), "base": self._base(request)}

    def routes(self, path: str) -> list[Any]:
        """Return the routes below a path."""
        from starlette.routing import Route

        streams = [Route(f"{path}/{name}", self._stream(name)) for name in _STREAMS]
        return [*super().routes(path), *streams, Route(f"{path}/logs", self._page(self.logs))]

    def mark(self, request: Any, view: RunView) -> str:
        """Return a text that changes whenever the pages change."""
        run = self._asked(request)
        return f"{self._service.state(run).value}-{run.notes().archived:d}-{super().mark(request, view)}"

    def served(self, request: Any) -> Served:
        """Return the server's data about the run."""
        run = self._asked(request)
        state, request_, notes = self._service.state(run), run.request, run.notes()
        ended = run.read("exit") or {} if state.is_final else {}
        is_failed = state in (State.EXECUTOR_ERROR, State.SYSTEM_ERROR)
        return Served(
            run.id, f"{PAGES}/runs/{run.id}", state.value, state.is_final, request_["document"].rpartition("/")[2],
            request_["kind"], request_["owner"], request_["submitted"], request_["request"]["tags"], notes.labels,
            notes.archived, ended.get("reason", "") if is_failed else "", list(ended.get("notes") or []),
            ended.get("exit_code"), self._tail(run) if is_failed or state is State.INITIALIZING else "",
            list(self._outputs(run)) if state is State.COMPLETE else [],
        )  # fmt: skip

    def _tail(self, run: Run) -> str:
        file = open_stream(run, "stderr")
        if file is None:
            return ""
        with file:
            return tail(file, _SHORT_TAIL)[0]

    def _outputs(self, run: Run) -> Iterator[Output]:
        found = (run.read("outputs") or {}).get("outputs") or {}
        base = f"{self._service.prefix}/runs/{quote(run.id)}/outputs/"
        shown = answers.shown(found, run.outputs_folder, base)
        for name, value in shown.items():
            yield from _listed(str(name), value, base)

    def details(self, request: Any, view: RunView) -> Any:
        """Respond with the page of inputs, outputs, settings and versions."""
        run = self._asked(request)
        started, asked = run.read("started") or {}, run.request["request"]
        facts = [
            ("run", run.id), ("document", asked["workflow_url"]),
            ("type", f"{asked['workflow_type']} {asked['workflow_type_version']}"), ("exit status", _exit_status(run)),
            ("command", " ".join(started.get("command", ()))),
        ]  # fmt: skip
        found = (run.read("outputs") or {}).get("outputs")
        blocks = [("Inputs", run.request["params"]), ("Options", asked["workflow_engine_parameters"]),
                  ("Outputs", found)]  # fmt: skip
        texts = [(name, json.dumps(value, indent=2, ensure_ascii=False)) for name, value in blocks if value]
        return self._details(request, view, [each for each in facts if each[1]], texts)

    def logs(self, request: Any, view: RunView) -> Any:
        """Respond with the output of the run's command, or with those of its lines that contain a text."""
        run, text = self._asked(request), request.query_params.get("q", "")
        streams = [(name, *self._shown(run, name, text)) for name in _STREAMS]
        return html("logs.html", **self._shared(request, view), summary=view.summary(), streams=streams, text=text)

    def _shown(self, run: Run, name: str, text: str) -> tuple[str, bool, Any]:
        file = open_stream(run, name)
        if file is None:
            return "", False, None
        with file:
            return *tail(file, _TAIL), search(file, text) if text else None

    def _stream(self, name: str) -> Callable[[Any], Any]:
        async def handle(request: Any) -> Any:
            from starlette.responses import PlainTextResponse

            run = self._asked(request)
            file = await asyncio.to_thread(partial(open_stream, run, name))
            if file is None:
                return PlainTextResponse("")
            return file_answer(file, name, request.headers, as_text=True, download=f"{run.id}-{name}.txt")

        return handle


def _exit_status(run: Run) -> str:
    code = (run.read("exit") or {}).get("exit_code")
    return "" if code is None else str(code)


def _listed(name: str, value: Any, base: str) -> Iterator[Output]:
    """Yield each file in a value as an output of its own; a value without files is one text."""
    if isinstance(value, dict) and value.get("class") == "File":
        url = str(value.get("location", ""))
        size = value.get("size")
        yield Output(name, url if url.startswith(base) else "", str(value.get("basename") or url), size)
        for each in value.get("secondaryFiles", []):
            yield from _listed(name, each, base)
    elif isinstance(value, dict) and value.get("class") == "Directory":
        for each in value.get("listing", []):
            yield from _listed(f"{name}/{value.get('basename', '')}", each, base)
    elif isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value):
        for number, each in enumerate(value, 1):
            yield from _listed(f"{name} {number}", each, base)
    elif isinstance(value, str) and value.startswith(base):
        yield Output(name, value, value.rpartition("/")[2], None)
    else:
        yield Output(name, "", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), None)


def labels_of(text: str) -> dict[str, str]:
    """Parse labels, one in each line: ``NAME`` or ``NAME=VALUE``.

    Raises
    ------
    InputError
        If a name is missing, or a name or value is too long.
    """
    labels = pairs_of(text, "labels")
    for name, value in labels.items():
        if len(name) + len(value) > _LONGEST_LABEL:
            raise InputError(f"the label {name[:40]!r} is longer than {_LONGEST_LABEL} characters")
    return labels


_PAGE = 50
"""Number of runs on a page of the list."""
_STATES = [state.value for state in State]


class Query(NamedTuple):
    """Selects the runs of a list; the fields are the parameters of its URL."""

    q: str = ""
    state: str = ""
    kind: str = ""
    owner: str = ""
    archived: str = ""
    before: str = ""
    after: str = ""

    @classmethod
    def read(cls, given: Any) -> Query:
        """Parse the parameters of a URL.

        Raises
        ------
        InputError
            If the state is not a state of runs.
        """
        query = cls(**{name: given.get(name, "") for name in cls._fields})
        if query.state and query.state not in _STATES:
            raise InputError(f"state: {query.state!r} is not a state of runs")
        return query

    def url(self, **changes: str) -> str:
        """Return the URL of the first page of a list, with some parameters changed."""
        fields = self._replace(**{"before": "", "after": "", **changes})._asdict()
        words = urlencode({name: value for name, value in fields.items() if value})
        return f"{PAGES}?{words}" if words else PAGES

    def filter(self, principal: Principal) -> Filter:
        """Return the filter for the index, limited to the runs that the user may see."""
        owner = (self.owner or None) if principal.is_operator else principal.name
        return Filter(owner, self.state or None, self.kind or None, self.q or None, bool(self.archived))


class _Site:
    """The handlers of the pages that do not belong to a run."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def around(self, request: Any, at: str = "") -> dict[str, Any]:
        """Return the values that every template needs."""
        principal = user_of(request)
        site = {"user": principal, "at": at, "can_leave": bool(getattr(request.state, "session", ""))}
        return {"base": "", "static": f"{PAGES}/static", "home": PAGES, "frozen": None, "served": None, "site": site}

    def runs(self, request: Any) -> Any:
        """Respond with the list of runs."""
        principal, query, index = user_of(request), Query.read(request.query_params), self._service.index
        wanted = query.filter(principal)
        mark = index.mark(wanted.owner)
        rows = index.page(_PAGE + 1, query.before, after=query.after, wanted=wanted)
        has_more = len(rows) > _PAGE
        backwards = bool(query.after and not query.before)
        rows = (rows[1:] if backwards else rows[:_PAGE]) if has_more else rows
        links = _links(
            query, rows, has_older=has_more or backwards, has_newer=has_more if backwards else bool(query.before)
        )
        return html(
            "runs.html", **self.around(request, "runs"), query=query, rows=rows, mark=mark, links=links,
            counts=_counts(query, index.counts(wanted._replace(state=None))), states=_STATES,
            kinds=self._service.policy.kinds, unread=self._service.unread,
        )  # fmt: skip

    async def events(self, request: Any) -> Any:
        """Send an event whenever the list of runs changes."""
        principal = user_of(request)
        owner = None if principal.is_operator else principal.name
        return events(request, partial(self._service.index.mark, owner))

    def login(self, request: Any) -> Any:
        """Respond with the form in which the user enters a token."""
        wanted = _own_path(request.query_params.get("next", ""))
        return html("login.html", **self._before_login(), next=wanted, refused="")

    def _before_login(self) -> dict[str, Any]:
        return {"base": "", "static": f"{PAGES}/static", "home": PAGES, "frozen": None, "served": None, "site": None}

    async def log_in(self, request: Any) -> Any:
        """Open a session, and redirect to the page that the user had requested."""
        if request.method != "POST":
            return await asyncio.to_thread(self.login, request)
        from starlette.responses import RedirectResponse

        fields = await fields_of(request)
        wanted = _own_path(fields.get("next", ""))
        try:
            session = await asyncio.to_thread(self._service.access.log_in, fields.get("token", ""))
        except DeniedError as denied:
            return html("login.html", 401, **self._before_login(), next=wanted, refused=str(denied))
        answer = RedirectResponse(wanted, 303)
        is_secure = request.url.scheme == "https" or self._service.public_url.startswith("https:")
        answer.set_cookie(COOKIE, session, max_age=LIFETIME, secure=is_secure, httponly=True, samesite="strict")
        return answer

    async def log_out(self, request: Any) -> Any:
        """End the session, and redirect to the login form."""
        from starlette.responses import RedirectResponse

        if request.state.session:
            await asyncio.to_thread(self._service.access.log_out, request.state.session)
        answer = RedirectResponse(f"{PAGES}/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def missing(self, request: Any) -> Any:
        """Respond to a URL without a page.

        Raises
        ------
        MissingObjectError
            Always.
        """
        raise MissingObjectError(f"there is no page {request.url.path}")

    def health(self, request: Any) -> Any:
        """Respond with the state of the server."""
        service = self._service
        counts, disk = service.index.counts(), shutil.disk_usage(service.place.work)
        facts: list[tuple[str, Any]] = [
            ("leaders can be started", "yes" if service.launcher.is_alive else "no: its thread has stopped"),
            ("leaders that this server has started", f"{service.launcher.busy()} of at most {service.launch.limit}"),
            ("unread records", f"{service.unread:,}"),
        ]
        if user_of(request).is_operator:
            facts += [
                ("place of the records", service.place.url), ("files of the runs", service.place.work),
                ("process", os.getpid()), ("load of the machine", ", ".join(f"{each:.1f}" for each in os.getloadavg())),
            ]  # fmt: skip
        return html("health.html", **self.around(request, "health"), facts=facts, counts=counts, disk=disk,
                    is_well=service.launcher.is_alive, began=service.began, version=__version__)  # fmt: skip


def _links(query: Query, rows: list[Summary], *, has_older: bool, has_newer: bool) -> dict[str, str]:
    """Return the URLs of the previous and the next page. They name ids, so they stay valid when runs are added."""
    links = {"newer": query.url(after=rows[0].id), "older": query.url(before=rows[-1].id)} if rows else {}
    there = {"newer": has_newer, "older": has_older}
    return {name: url for name, url in links.items() if there[name]} | ({"first": query.url()} if has_newer else {})


def _counts(query: Query, counts: dict[str, int]) -> list[tuple[str, int, str]]:
    """Return the states with the number of runs in them, and the URL of their list."""
    return [(state, counts[state], query.url(state=state)) for state in _STATES if counts.get(state)]


def _own_path(text: str) -> str:
    """Return the path of a URL on this server; for any other URL, the path of the first page.

    Otherwise a link to the login form could redirect the user to another site.
    """
    is_own = (text == PAGES or text.startswith((f"{PAGES}/", f"{PAGES}?"))) and text.isprintable() and "\\" not in text
    return text if is_own else PAGES


class _Actions:
    """The handlers of the forms that change a run."""

    def __init__(self, service: Service, site: _Site) -> None:
        self._service = service
        self._site = site

    def _run(self, request: Any) -> Run:
        run = self._service.run(request.path_params["run_id"], user_of(request))
        request.state.audit = {"run": run.id}
        return run

    def changing(self, act: Callable[[Run, dict[str, str], Principal], str | None]) -> Callable[[Any], Any]:
        """Build the handler of a form, which calls `act` and redirects to the path that it returns, or to the run."""
        from starlette.responses import RedirectResponse

        async def handle(request: Any) -> Any:
            fields = await fields_of(request)

            def make() -> Any:
                run = self._run(request)
                url = act(run, fields, user_of(request))
                return RedirectResponse(url or f"{PAGES}/runs/{run.id}", 303)

            return await asyncio.to_thread(make)

        return answering(handle, self._site.around)

    def cancel(self, run: Run, fields: dict[str, str], principal: Principal) -> None:
        """Cancel a run."""
        self._service.cancel(run, principal)

    def label(self, run: Run, fields: dict[str, str], principal: Principal) -> None:
        """Replace the labels of a run."""
        self._service.annotate(run, run.notes()._replace(labels=labels_of(fields.get("labels", ""))))

    def archive(self, run: Run, fields: dict[str, str], principal: Principal) -> None:
        """Archive a run, or restore an archived run."""
        self._service.annotate(run, Notes(run.notes().labels, fields.get("archived") == "yes"))

    def delete(self, run: Run, fields: dict[str, str], principal: Principal) -> str:
        """Delete a run."""
        self._service.delete(run)
        return PAGES

    def ask(self, request: Any) -> Any:
        """Respond with a question whether to delete the run, and the space that this frees."""
        run = self._run(request)
        state = self._service.state(run)
        sizes = [(name, _size(run.folder / part)) for name, part in _PARTS]
        kept = [url for url in (run.request["outputs"],) if url]
        return html("delete.html", **self._site.around(request), run=run, name=run.request["document"],
                    state=state.value, is_final=state.is_final, sizes=sizes, total=sum(size for _, size in sizes),
                    kept=kept, store=run.request["store"])  # fmt: skip


_PARTS = (("uploaded files", "files"), ("outputs", "outputs"), ("job store", "store"), ("standard output", "stdout"),
          ("standard error", "stderr"))  # fmt: skip


def _size(path: os.PathLike[str]) -> int:
    """Return the disk space of a file or a folder; a file with several hard links counts once."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    if not os.path.isdir(path) and os.path.exists(path):
        return os.lstat(path).st_blocks * 512
    return sum(seen.values())


def site_routes(service: Service) -> list[Any]:
    """Return the routes of all pages, for `toilfn.server.app.make_app`."""
    from starlette.routing import Route

    site = _Site(service)
    actions = _Actions(service, site)
    run = f"{PAGES}/runs/{{run_id}}"

    def page(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return answering(make, site.around)

    def form(path: str, act: Callable[[Run, dict[str, str], Principal], str | None]) -> Any:
        return Route(path, actions.changing(act), methods=["POST"])

    return [
        *statics(PAGES),
        Route(PAGES, page(site.runs)),
        Route(f"{PAGES}/events", site.events),
        Route(f"{PAGES}/health", page(site.health)),
        Route(f"{PAGES}/login", site.log_in, methods=["GET", "POST"]),
        Route(f"{PAGES}/logout", site.log_out, methods=["POST"]),
        form(f"{run}/cancel", actions.cancel),
        form(f"{run}/labels", actions.label),
        form(f"{run}/archive", actions.archive),
        Route(f"{run}/delete", page(actions.ask)),
        form(f"{run}/delete", actions.delete),
        *draft_routes(service, site.around),
        *ServedRun(service, site.around).routes(run),
        Route(f"{PAGES}/{{path:path}}", page(site.missing)),
    ]
