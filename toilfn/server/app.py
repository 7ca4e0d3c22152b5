"""The routes of WES and their handlers. `Service` has the objects that handlers need; the pages add more routes."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from toilfn.errors import InputError, ToilfnError
from toilfn.pages.run import RunView
from toilfn.pages.streams import file_answer
from toilfn.server import answers
from toilfn.server.access import LOCAL, Access, Principal, Provider, Sessions, Tokens
from toilfn.server.answers import open_inside, open_stream
from toilfn.server.guard import Guard
from toilfn.server.index import Filter, Index, Summary
from toilfn.server.leaders import Launcher, LaunchSettings, LeaderJobs, LeaderProcesses, Leaders
from toilfn.server.metrics import Traffic
from toilfn.server.records import Notes, Place, Run, State, state_of
from toilfn.server.submission import Policy, request_of
from toilfn.server.tasks import Views, log_of, task_of, tasks_page
from toilfn.server.uploads import Form, read_form
from toilfn.stores import MissingObjectError

__all__ = ["PAGES", "Service", "make_app"]

PREFIX = "/ga4gh/wes/v1"
PAGES = "/ui"
"""The path of the pages for people."""
_PATIENCE = 10.0
"""Maximum number of seconds for which the start of the server, and requests for lists, wait for the index."""
_PAUSE = 0.05
"""Seconds between two checks whether the index has all runs of a page."""
_READ_AGAIN = 5
_RENEWED = 200
"""Number of large runs whose tasks are read again when the server starts with a new version of toilfn."""
_THREADS = 32

_log = logging.getLogger("toilfn.server")


@dataclass
class Service:
    """The objects that handle requests, and the settings of the service.

    Attributes
    ----------
    place : Place
    policy : Policy
    launch : LaunchSettings
    about : dict of str to str
        The operator's description of the service.
    prefix : str
        The path of the service, without a slash at its end.
    public_url : str
        The beginning of URLs in responses. Default: that of the request's URL.
    origins : tuple of str
        Origins of pages of other sites that may send requests.
    provider : Provider or None
        The provider whose JWTs are accepted.
    """

    place: Place
    policy: Policy = field(default_factory=Policy)
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    about: dict[str, str] = field(default_factory=dict)
    prefix: str = PREFIX
    public_url: str = ""
    origins: tuple[str, ...] = ()
    provider: Provider | None = None

    def __post_init__(self) -> None:
        self.access = Access(Tokens(self.place), Sessions(self.place), self.provider)
        self.index = Index(self.place.work / "index.sqlite")
        self.views = Views()
        self.traffic = Traffic()
        self.launcher = Launcher(self.place, self.index, self.launch, self._leaders())
        self.began = time.time()
        self.unread = 0
        self._is_complete = threading.Event()
        self._ending = threading.Event()
        self._reader = threading.Thread(target=self._read_records, name="toilfn-records", daemon=True)

    def _leaders(self) -> Leaders:
        launch = self.launch
        if launch.lead_on is None:
            return LeaderProcesses(self.place, launch.timeout, launch.variables)
        return LeaderJobs(self.place, launch.timeout, launch.variables, launch.lead_on, launch.shape)

    def start(self) -> None:
        """Start the threads that launch runs and update the index, and wait for the index, at most `_PATIENCE` s."""
        self._reader.start()
        self.launcher.start()
        self._is_complete.wait(_PATIENCE)

    def stop(self) -> None:
        """Stop the threads. Runs continue, since their leaders are separate processes."""
        self._ending.set()
        self.launcher.stop()
        self._reader.join()
        self.index.close()

    def _read_records(self) -> None:
        while not self._ending.is_set():
            try:
                for left in self.index.rebuild(self.place):
                    self.unread = left
                    if self._ending.is_set():
                        return
                self._is_complete.set()
                self._renew_folds()
                return
            except ToilfnError as error:  # the place is not reachable at present
                _log.warning("%s; will read the records again in %d s", error, _READ_AGAIN)
                self._ending.wait(_READ_AGAIN)

    def _renew_folds(self) -> None:
        """Replace the saved folds of the newest large runs if another version of toilfn saved them.

        Otherwise the first user who opens such a run's page would wait for this.
        """
        runs = (self.place.run(id) for id in self.index.ended())
        self.views.renew(islice((run for run in runs if run.fold_file.exists()), _RENEWED), self._ending)

    def list_runs(self, size: int, before: str, wanted: Filter) -> list[Summary]:
        """Return a page of runs, after waiting at most `_PATIENCE` seconds until the index has all of them."""
        end = time.monotonic() + _PATIENCE
        while (rows := self.index.whole_page(size, before, wanted=wanted)) is None and time.monotonic() < end:
            self._is_complete.wait(_PAUSE)
        return self.index.page(size, before, wanted=wanted) if rows is None else rows

    def run(self, id: str, principal: Principal) -> Run:
        """Return a run that a user may see.

        Raises
        ------
        MissingObjectError
            If the run does not exist, or the user may not see it.
        """
        run = self.place.run(id)
        if not principal.may_see(run.request["owner"]):
            raise MissingObjectError(f"there is no run {id!r}")
        return run

    def state(self, run: Run) -> State:
        """Return the current state of a run."""
        state = state_of(run.facts())
        self.index.note(run, state)
        return state

    def cancel(self, run: Run, principal: Principal) -> None:
        """Cancel a run in any state; a finished run does not change."""
        if not self.state(run).is_final and run.cancel(principal.name):
            self.state(run)
            self.launcher.wake()

    def view(self, run: Run) -> RunView:
        """Return the tasks of a run."""
        return self.views.of(run, is_final=self.state(run).is_final)

    def annotate(self, run: Run, notes: Notes) -> None:
        """Save the labels of a run, and whether it is archived."""
        run.set_notes(notes)
        self.index.annotate(run.id, notes)

    def delete(self, run: Run) -> None:
        """Remove a finished run with all its files.

        Raises
        ------
        InputError
            If the run has not finished.
        """
        if not self.state(run).is_final:
            raise InputError(f"run {run.id} has not finished", hint="cancel it first")
        self.launcher.delete(run)
        self.views.forget(run.id)

    def submit(self, run: Run, fields: dict[str, str], principal: Principal) -> None:
        """Check a form whose files are in the run's folder, and accept the run.

        Raises
        ------
        InputError
            If the workflow cannot be run. The message names the field.
        """
        request = request_of(fields, run.files, principal.name, run.id, self.policy)
        run.keep_files("files")
        self.place.submit(run, request)
        self.index.note(run, State.QUEUED)
        self.launcher.wake()


class _Routes:
    """The handlers of WES."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def info(self, request: Any) -> Any:
        counts = await asyncio.to_thread(self._service.index.counts)
        service = self._service
        return _json(answers.service_info(service.policy, counts, self._url(request), service.about))

    async def runs(self, request: Any) -> Any:
        return await (self.submit(request) if request.method == "POST" else self.list_runs(request))

    async def list_runs(self, request: Any) -> Any:
        principal = _principal(request)
        size = answers.page_size(request.query_params.get("page_size"))
        before = answers.read_token(request.query_params.get("page_token"))
        wanted = Filter(None if principal.is_operator else principal.name)

        rows = await asyncio.to_thread(self._service.list_runs, size + 1, before, wanted)
        more = answers.token(rows[size - 1].id) if len(rows) > size else ""
        runs = [answers.summary(row) for row in rows[:size]]
        return _json({**answers.listed(runs, "runs", more), "workflows": runs})

    async def submit(self, request: Any) -> Any:
        service, principal = self._service, _principal(request)
        run = service.place.run(service.place.new_id())
        try:
            run.files.mkdir(parents=True, mode=0o700)
            form = Form(request.headers.get("content-type", ""), run.files, service.policy.limits)
            await read_form(form, request.stream())
            await asyncio.to_thread(service.submit, run, form.fields, principal)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, run.folder, ignore_errors=True)
            raise
        request.state.audit = {"run": run.id}
        return _json({"run_id": run.id})

    async def run_log(self, request: Any) -> Any:
        url = self._url(request)

        def make() -> Any:
            run = self._run(request)
            return answers.run_log(run, self._service.state(run), f"{url}/runs/{run.id}")

        return _json(await asyncio.to_thread(make))

    async def status(self, request: Any) -> Any:
        def make() -> Any:
            run = self._run(request)
            return {"run_id": run.id, "state": self._service.state(run).value}

        return _json(await asyncio.to_thread(make))

    async def cancel(self, request: Any) -> Any:
        def act() -> Any:
            run = self._run(request)
            self._service.cancel(run, _principal(request))
            return {"run_id": run.id}

        return _json(await asyncio.to_thread(act))

    async def list_tasks(self, request: Any) -> Any:
        url = self._url(request)

        def make() -> Any:
            run = self._run(request)
            try:
                size = answers.page_size(request.query_params.get("page_size"))
                after = answers.read_number(request.query_params.get("page_token"))
            except InputError as error:  # for this request, the specification allows status 404, but not 400
                raise MissingObjectError(f"page not found: {error}") from None
            rows = tasks_page(self._service.view(run), size + 1, after)
            more = answers.token(rows[size - 1].number) if len(rows) > size else ""
            tasks = [answers.task_log(row, f"{url}/runs/{run.id}") for row in rows[:size]]
            return answers.listed(tasks, "task_logs", more)

        return _json(await asyncio.to_thread(make))

    async def task(self, request: Any) -> Any:
        url = self._url(request)

        def make() -> Any:
            run = self._run(request)
            row = task_of(self._service.view(run), _task_id(request))
            if row is None:
                raise MissingObjectError(f"there is no task {request.path_params['task_id']!r} in {run.id}")
            return answers.task_log(row, f"{url}/runs/{run.id}")

        return _json(await asyncio.to_thread(make))

    async def task_output(self, request: Any) -> Any:
        from starlette.responses import StreamingResponse

        def find() -> Any:
            run = self._run(request)
            view, id = self._service.view(run), _task_id(request)
            if task_of(view, id) is None:
                raise MissingObjectError(f"there is no task {request.path_params['task_id']!r} in {run.id}")
            return log_of(view, id)

        pieces = await asyncio.to_thread(find)
        return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")

    def stream(self, name: str) -> Callable[[Any], Any]:
        """Build the handler for the output of a run's command."""

        async def handle(request: Any) -> Any:
            file = await asyncio.to_thread(lambda: open_stream(self._run(request), name))
            return _json({}, b"") if file is None else file_answer(file, name, request.headers, as_text=True)

        return handle

    async def output(self, request: Any) -> Any:
        name = request.path_params["name"]

        def find() -> Any:
            run = self._run(request)
            file = open_inside(run.outputs_folder, name)
            if file is None:
                raise MissingObjectError(f"there is no output {name!r} of {run.id}")
            return file

        return file_answer(await asyncio.to_thread(find), name, request.headers)

    async def health(self, request: Any) -> Any:
        from starlette.responses import PlainTextResponse

        is_well = self._service.launcher.is_alive
        return PlainTextResponse("OK\n" if is_well else "the launcher has stopped\n", 200 if is_well else 500)

    async def root(self, request: Any) -> Any:
        from starlette.responses import RedirectResponse

        is_browser = "text/html" in request.headers.get("accept", "")
        return RedirectResponse(PAGES if is_browser else f"{self._service.prefix}/service-info", 302)

    def _run(self, request: Any) -> Run:
        return self._service.run(request.path_params["run_id"], _principal(request))

    def _url(self, request: Any) -> str:
        base = self._service.public_url or f"{request.url.scheme}://{request.url.netloc}"
        return f"{base.rstrip('/')}{self._service.prefix}"


def _principal(request: Any) -> Principal:
    principal: Principal = getattr(request.state, "principal", LOCAL)
    return principal


def _task_id(request: Any) -> bytes:
    try:
        return bytes.fromhex(request.path_params["task_id"])
    except ValueError:
        return b""


def _json(content: Any, body: bytes | None = None, status: int = 200) -> Any:
    from starlette.responses import Response

    kind = "application/json" if body is None else "text/plain; charset=utf-8"
    return Response(answers.json_bytes(content) if body is None else body, status, media_type=kind)


def make_app(service: Service, more_routes: Sequence[Any] = ()) -> Any:
    """Build the ASGI application.

    Parameters
    ----------
    service : Service
        The service, which is started and stopped with the application.
    more_routes : sequence of starlette.routing.BaseRoute
        Routes of other pages. Their handlers find the service in ``request.app.state.service``, and the user in
        ``request.state.principal``.
    """
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        # Handlers wait in threads for places, documents and logs. asyncio's default of six threads on two cores is not
        # enough for that.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "toilfn-request"))
        await asyncio.to_thread(service.start)
        yield
        await asyncio.to_thread(service.stop)

    async def refused(request: Any, error: Any) -> Any:
        return _json(answers.error(400, str(error)), status=400)

    async def missing(request: Any, error: Any) -> Any:
        return _json(answers.error(404, str(error)), status=404)

    async def other(request: Any, error: Any) -> Any:
        answer = _json(answers.error(error.status_code, str(error.detail)), status=error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    async def failed(request: Any, error: Any) -> Any:
        return _json(answers.error(500, "internal error; see the server's log"), status=500)

    from starlette.exceptions import HTTPException

    handlers: Any = {InputError: refused, MissingObjectError: missing, HTTPException: other, Exception: failed}
    app: Any = Starlette(routes=[*_routes(service), *more_routes], lifespan=lifespan, exception_handlers=handlers)
    app.state.service = service
    app.router.redirect_slashes = False
    public = frozenset({"/", f"{service.prefix}/service-info", "/engine/v1/status"})
    guarded: Any = Guard(app, service.access, public, frozenset(service.origins), PAGES, service.traffic)
    if service.origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=list(service.origins), allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )  # fmt: skip
    return guarded


def _routes(service: Service) -> list[Any]:
    from starlette.routing import Route

    do, base = _Routes(service), service.prefix
    run = base + "/runs/{run_id}"
    routes = [
        Route("/", do.root),
        Route("/engine/v1/status", do.health),
        Route(f"{base}/service-info", do.info),
        Route(f"{base}/runs", do.runs, methods=["GET", "POST"]),
        Route(run, do.run_log),
        Route(f"{run}/status", do.status),
        Route(f"{run}/cancel", do.cancel, methods=["POST"]),
        Route(f"{run}/tasks", do.list_tasks),
        Route(f"{run}/tasks/{{task_id}}", do.task),
        Route(f"{run}/tasks/{{task_id}}/log", do.task_output),
        Route(f"{run}/outputs/{{name:path}}", do.output),
    ]
    for name in ("stdout", "stderr"):
        routes.append(Route(f"{run}/{name}", do.stream(name)))
        routes.append(Route(f"/toil/wes/v1/logs/{{run_id}}/{name}", do.stream(name)))
    return routes
