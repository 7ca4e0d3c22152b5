"""The pages of a run in the server: the pages of its store, with the server's data about the run around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from toilfn.errors import InputError
from toilfn.pages.routes import RunPages, html
from toilfn.pages.run import RunView
from toilfn.pages.streams import file_answer, search, tail
from toilfn.server import outputs
from toilfn.server.app import PAGES, Service
from toilfn.server.fields import pairs_of
from toilfn.server.forms import user_of
from toilfn.server.records import Run
from toilfn.server.states import State
from toilfn.server.streams import open_stream

__all__ = ["Output", "Served", "ServedRun", "labels_of"]

_TAIL = 64 << 10
"""Bytes of a stream that a page shows."""
_SHORT_TAIL = 4 << 10
_LONGEST_LABEL = 200
_STREAMS = ("stderr", "stdout")


class Output(NamedTuple):
    """A value among the outputs of a run: a file to be fetched, or a text."""

    name: str
    url: str
    text: str
    size: int | None


class Served(NamedTuple):
    """A run of a server, as its pages show it."""

    id: str
    url: str
    """Of its page."""
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
    """Remarks of the server about the run's end."""
    exit_code: int | None
    stderr: str
    """The end of the command's output, if the run failed or has not started to run tasks."""
    outputs: list[Output]


class ServedRun(RunPages):
    """The pages of the runs of a server.

    Parameters
    ----------
    service : Service
    around : callable
        Returns the values that each template needs.
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
        """Return what changes whenever the pages do."""
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
        shown = outputs.shown(found, run.outputs_folder, base)
        for name, value in shown.items():
            yield from _listed(str(name), value, base)

    def details(self, request: Any, view: RunView) -> Any:
        """Answer with inputs, outputs, settings and versions."""
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
    """Yield the files of a value one by one; a value without a file is one text."""
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
    """Read labels: one in each line, as ``NAME`` or ``NAME=VALUE``.

    Raises
    ------
    InputError
        If a name is missing, or something is too long.
    """
    labels = pairs_of(text, "labels")
    for name, value in labels.items():
        if len(name) + len(value) > _LONGEST_LABEL:
            raise InputError(f"the label {name[:40]!r} is longer than {_LONGEST_LABEL} characters")
    return labels
