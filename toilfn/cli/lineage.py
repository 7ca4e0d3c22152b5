"""Runs as OpenLineage events: which files each task read and wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import toilfn
from toilfn.cli.files import Handle, find_handles, plain
from toilfn.errors import ToilfnError
from toilfn.files.transfer import local_path, shown
from toilfn.ids import TaskId
from toilfn.inspect.runs import ABANDONED, OPEN, RunAttempt, Runs, ToldRun
from toilfn.model.records import BlobRef, Function, Outcome, TaskRecord
from toilfn.model.replay import AttemptEnded, Fact, TaskAdded
from toilfn.model.traces import run_uuid
from toilfn.stores import Store
from toilfn.stores.digests import digest_of_checksum

__all__ = ["Lineage", "sender"]

_PRODUCER = f"urn:toilfn:{toilfn.__version__}"
"""The identifier of the program in events: a URI, as OpenLineage requires, that nothing can be fetched from."""
_SPECIFICATION = "https://openlineage.io/spec"
_RUN_EVENT = f"{_SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_ENDS = {"done": "COMPLETE", "failed": "FAIL", "killed": "ABORT", "interrupted": "ABORT", ABANDONED: "ABORT"}
_IMPORTS = {"toilfn.files.exchange._import", "toilfn.files.exchange._import_directory"}
_EXPORTS = {"toilfn.files.exchange._export", "toilfn.files.exchange._export_group"}
_PATH = "/api/v1/lineage"
_TIMEOUT = 30.0

_Dataset = dict[str, Any]


class Lineage:
    """Converts a store's log to OpenLineage events.

    The namespace of the jobs is the value of OPENLINEAGE_NAMESPACE, by default ``toilfn``.

    Parameters
    ----------
    store : Store
        The store of the runs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "toilfn"
        self._special: dict[bytes, str] = {}
        self._inputs: dict[TaskId, list[_Dataset]] = {}
        self._needs: dict[TaskId, tuple[TaskId, ...]] = {}
        self._exports: set[TaskId] = set()
        self._values: dict[TaskId, list[Handle]] = {}
        self._exported: dict[TaskId, list[_Dataset]] = {}

    def events(self, facts: Iterable[Fact], *, is_led: bool, number: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the events of all runs, or of the run with a number."""
        runs = Runs()
        begun: set[int] = set()
        for attempt in runs.attempts(map(self._learn, facts), is_led=is_led):
            if number in (None, attempt.run):
                run = runs.known[attempt.run]
                if run.number not in begun:
                    begun.add(run.number)
                    yield self._of_run(run, "START", run.start)
                yield from self._of_attempt(run, attempt)
        for run in runs.known.values():
            if number not in (None, run.number):
                continue
            if run.number not in begun:
                yield self._of_run(run, "START", run.start)
            if run.status != OPEN:
                yield self._of_run(run, _ENDS[run.status], run.end)

    # The files of tasks

    def _learn(self, fact: Fact) -> Fact:
        match fact:
            case Function():
                self._learn_function(fact)
            case TaskAdded(task):
                self._learn_task(task)
            case AttemptEnded(Outcome() as outcome, counts=True):
                self._learn_value(outcome)
        return fact

    def _learn_function(self, function: Function) -> None:
        origin = function.parts.get("name", "")
        if origin in _IMPORTS or origin in _EXPORTS:
            self._special[function.digest] = origin

    def _learn_task(self, task: TaskRecord) -> None:
        payload = self._payload(task.args)
        read = [self._dataset(handle) for handle in find_handles(payload, only_own=True)]
        special = self._special.get(task.function, "")
        if special in _IMPORTS:
            read += _datasets(_first_argument(payload))
        elif special:
            self._exports.add(task.id)
        if read:
            self._inputs[task.id] = read
        if task.needs:
            self._needs[task.id] = task.needs

    def _learn_value(self, outcome: Outcome) -> None:
        payload = self._payload(outcome.value)
        if outcome.id in self._exports:  # the value of an export is the destination of the file
            self._exported[outcome.id] = _datasets(plain(payload))
        if handles := find_handles(payload, only_own=True):
            self._values[outcome.id] = handles

    def _payload(self, payload: bytes | BlobRef) -> bytes:
        return self._store.payload(payload)

    def _dataset(self, handle: Handle) -> _Dataset:
        ref = BlobRef(handle.id, handle.size, digest_of_checksum(handle.checksum))
        (dataset,) = _datasets(self._store.blob_url(ref))
        return dataset

    def _read(self, task: TaskId) -> list[_Dataset]:
        handles = [handle for need in self._needs.get(task, ()) for handle in self._values.get(need, ())]
        return _once([*self._inputs.get(task, ()), *map(self._dataset, handles)])

    def _written(self, task: TaskId, read: Sequence[_Dataset]) -> list[_Dataset]:
        """Return the files that a task created, without those that it only passes on."""
        made = list(self._exported.get(task, ()))
        for handle in self._values.get(task, ()):
            dataset = self._dataset(handle)
            if dataset not in read:
                size = {**_facet("facets/1-0-2/OutputStatisticsOutputDatasetFacet"), "size": handle.size}
                made.append({**dataset, "outputFacets": {"outputStatistics": size}})
        return _once(made)

    # Events

    def _of_run(self, run: ToldRun, kind: str, moment: float) -> dict[str, Any]:
        return self._event(kind, moment, self._id(run), {}, run.name, "WORKFLOW")

    def _of_attempt(self, run: ToldRun, attempt: RunAttempt) -> Iterator[dict[str, Any]]:
        own, job = str(attempt.uuid(self._store.id)), f"{run.name}.{attempt.name}"
        parent = {**_facet("facets/1-2-0/ParentRunFacet"), "run": {"runId": self._id(run)},
                  "job": {"namespace": self._namespace, "name": run.name}}  # fmt: skip
        facets: dict[str, Any] = {"parent": parent}
        read = self._read(attempt.task)
        yield self._event("START", attempt.start, own, facets, job, "TASK", read)
        if attempt.cause:
            failed = {**_facet("facets/1-0-1/ErrorMessageRunFacet"), "message": attempt.message,
                      "programmingLanguage": "Python"}  # fmt: skip
            yield self._event("FAIL", attempt.end, own, {**facets, "errorMessage": failed}, job, "TASK", read)
        else:
            made = self._written(attempt.task, read)
            yield self._event("COMPLETE", attempt.end, own, facets, job, "TASK", read, made)

    def _id(self, run: ToldRun) -> str:
        return str(run_uuid(self._store.id, run.number))

    def _event(
        self, kind: str, moment: float, run: str, facets: dict[str, Any], job: str, job_type: str,
        inputs: Sequence[_Dataset] = (), outputs: Sequence[_Dataset] = (),
    ) -> dict[str, Any]:  # fmt: skip
        described = {**_facet("facets/2-0-4/JobTypeJobFacet"), "processingType": "BATCH", "integration": "TOILFN",
                     "jobType": job_type}  # fmt: skip
        return {
            "eventType": kind,
            "eventTime": datetime.fromtimestamp(moment, timezone.utc).isoformat(),
            "run": {"runId": run, "facets": facets},
            "job": {"namespace": self._namespace, "name": job, "facets": {"jobType": described}},
            "inputs": list(inputs),
            "outputs": list(outputs),
            "producer": _PRODUCER,
            "schemaURL": _RUN_EVENT,
        }


def _facet(path: str) -> dict[str, Any]:
    name = path.rpartition("/")[2]
    return {"_producer": _PRODUCER, "_schemaURL": f"{_SPECIFICATION}/{path}.json#/$defs/{name}"}


def _first_argument(payload: bytes) -> object:
    """Return the first argument of a pickled call, if it is of a built-in type."""
    match plain(payload):
        case ((first, *_), _):
            return first
    return None


def _datasets(url: object) -> list[_Dataset]:
    """Return the datasets, named as OpenLineage specifies, for a URL or a path, or for a list of them.

    The result is empty for any other value.
    """
    if isinstance(url, list):
        return [dataset for each in url for dataset in _datasets(each)]
    if not isinstance(url, str):
        return []
    path = local_path(url)
    if path is not None:
        return [{"namespace": "file", "name": str(path)}]
    parts = urlsplit(shown(url))  # without credentials
    return [{"namespace": f"{parts.scheme}://{parts.netloc}", "name": parts.path.lstrip("/")}] if parts.netloc else []


def _once(datasets: Iterable[_Dataset]) -> list[_Dataset]:
    return list({(dataset["namespace"], dataset["name"]): dataset for dataset in datasets}.values())


class _NoRedirects(HTTPRedirectHandler):
    """Does not follow redirects, so that the API key is not sent to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


def sender(url: str) -> Callable[[dict[str, Any]], None]:
    """Return a function that posts an event to a server, with the API key from OPENLINEAGE_API_KEY, if it is set.

    Parameters
    ----------
    url : str
        The URL of the server. If it has no path, ``/api/v1/lineage`` is appended.
    """
    if urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + _PATH
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    opener = build_opener(_NoRedirects)

    def send(event: dict[str, Any]) -> None:
        request = Request(url, json.dumps(event).encode(), headers)  # noqa: S310 - the command checks the scheme
        try:
            with opener.open(request, timeout=_TIMEOUT):
                pass
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
            raise ToilfnError(
                f"{url} did not accept an event: {error}",
                hint="check the URL, and OPENLINEAGE_API_KEY if it needs a key",
            ) from None

    return send
