"""The service: the routes of WES and their handlers. `Service` holds what they need; pages add routes of their own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from toilfn.errors import InputError
from toilfn.server import answers
from toilfn.server.access import LOCAL, Access, Principal, Tokens
from toilfn.server.guard import Guard
from toilfn.server.index import Index
from toilfn.server.launcher import Launcher, LaunchSettings
from toilfn.server.records import Place, Run
from toilfn.server.states import State, state_of
from toilfn.server.streams import file_answer, open_inside
from toilfn.server.submission import Policy, request_of
from toilfn.server.tasks import TaskIndex, Tasks
from toilfn.server.uploads import Form, read_form
from toilfn.stores import MissingObjectError

__all__ = ["Service", "make_app"]

PREFIX = "/ga4gh/wes/v1"


@dataclass
class Service:
    """The parts that requests work on.

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
        What URLs in answers begin with; by default they begin as the request's did.
    origins : tuple of str
        Origins of pages that may send requests.
    """

    place: Place
    policy: Policy = field(default_factory=Policy)
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    about: dict[str, str] = field(default_factory=dict)
    prefix: str = PREFIX
    public_url: str = ""
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.access = Access(Tokens(self.place))
        self.index = Index(self.place.work / "index.sqlite")
        self.tasks = Tasks()
        self.launcher = Launcher(self.place, self.index, self.launch)

    def start(self) -> None:
        """Bring the index up to date, and begin to lead runs."""
        self.index.rebuild(self.place)
        self.launcher.start()

    def stop(self) -> None:
        """Stop; runs continue."""
        self.launcher.stop()
        self.index.close()

    def run(self, id: str, principal: Principal) -> Run:
        """Return a run that a user may see.

        Raises
        ------
        MissingObjectError
            If there is none.
        """
        run = self.place.run(id)
        if not principal.may_see(run.request["owner"]):
            raise MissingObjectError(f"there is no run {id!r}")
        return run

    def state(self, run: Run) -> State:
        """Return the state of a run now."""
        state = state_of(run.facts())
        self.index.note(run, state)
        return state

    def cancel(self, run: Run, principal: Principal) -> None:
        """Cancel a run, whatever its state; one that has ended stays as it is."""
        if not self.state(run).is_final and run.cancel(principal.name):
            self.state(run)
            self.launcher.wake()

    def tasks_of(self, run: Run) -> TaskIndex:
        """Return the tasks of a run."""
        options = self.place.options if run.request.get("store") else {}
        return self.tasks.of(run.id, run.folder, run.store_url, **options)

    def submit(self, run: Run, fields: dict[str, str], principal: Principal) -> None:
        """Check a form whose files are in the run's folder, and accept the run.

        Raises
        ------
        InputError
            If it cannot be run.
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
        owner = None if principal.is_operator else principal.name
        rows = await asyncio.to_thread(self._service.index.page, size + 1, before, owner=owner)
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
            except InputError as error:  # the specification has no status 400 here
                raise MissingObjectError(f"there is no such page: {error}") from None
            rows = self._service.tasks_of(run).page(size + 1, after)
            more = answers.token(rows[size - 1].number) if len(rows) > size else ""
            tasks = [answers.task_log(row, f"{url}/runs/{run.id}") for row in rows[:size]]
            return answers.listed(tasks, "task_logs", more)

        return _json(await asyncio.to_thread(make))

    async def task(self, request: Any) -> Any:
        url = self._url(request)

        def make() -> Any:
            run = self._run(request)
            row = self._service.tasks_of(run).task(_task_id(request))
            if row is None:
                raise MissingObjectError(f"there is no task {request.path_params['task_id']!r} in {run.id}")
            return answers.task_log(row, f"{url}/runs/{run.id}")

        return _json(await asyncio.to_thread(make))

    async def task_output(self, request: Any) -> Any:
        from starlette.responses import StreamingResponse

        def find() -> Any:
            run = self._run(request)
            tasks, id = self._service.tasks_of(run), _task_id(request)
            if tasks.task(id) is None:
                raise MissingObjectError(f"there is no task {request.path_params['task_id']!r} in {run.id}")
            return tasks.log_of(id)

        pieces = await asyncio.to_thread(find)
        return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")

    def stream(self, name: str) -> Callable[[Any], Any]:
        """Build the handler of what a run's command has printed."""

        async def handle(request: Any) -> Any:
            def find() -> Any:
                run = self._run(request)
                path = run.folder / name
                if path.exists():
                    return path.open("rb", buffering=0)
                try:
                    return run.objects.open(name)
                except MissingObjectError:
                    return None

            file = await asyncio.to_thread(find)
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
        return PlainTextResponse("OK\n" if is_well else "the launcher has ended\n", 200 if is_well else 500)

    async def root(self, request: Any) -> Any:
        from starlette.responses import RedirectResponse

        return RedirectResponse(f"{self._service.prefix}/service-info", 302)

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
        Is started and stopped with the application.
    more_routes : sequence of starlette.routing.BaseRoute
        Other pages: they find the service in ``request.app.state.service``, the user in ``request.state.principal``.
    """
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
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
        return _json(answers.error(500, "the server failed; its log says why"), status=500)

    from starlette.exceptions import HTTPException

    handlers: Any = {InputError: refused, MissingObjectError: missing, HTTPException: other, Exception: failed}
    app: Any = Starlette(routes=[*_routes(service), *more_routes], lifespan=lifespan, exception_handlers=handlers)
    app.state.service = service
    app.router.redirect_slashes = False
    public = frozenset({"/", f"{service.prefix}/service-info", "/engine/v1/status"})
    guarded: Any = Guard(app, service.access, public, frozenset(service.origins))
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
