"""Run one task of a store again, in this process and with its real inputs, for `toilfn debug`.

Nothing is written to the store: an overlay redirects all writes to a temporary directory, which is removed at the end.
`Hosting` runs the services that the task uses in threads of this process.
"""

from __future__ import annotations

import inspect
import queue
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from toilfn import confined, protocol
from toilfn.clusters.local.channel import AttemptPage
from toilfn.config.settings import Settings
from toilfn.errors import InputError, ToilfnError
from toilfn.files.file import files_in
from toilfn.files.node import attach, code_dir
from toilfn.graph import options
from toilfn.graph.code import install
from toilfn.graph.values import Entry, Values
from toilfn.ids import TaskId
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.protocol import Records, Run, Started, limits
from toilfn.resources import Resources
from toilfn.stdio import report, report_error
from toilfn.stores import Store
from toilfn.stores.files import FileObjects
from toilfn.stores.overlay import Overlay
from toilfn.stores.store import Meta
from toilfn.worker.capture import NoCapture
from toilfn.worker.execute import Attempt, AttemptRunner
from toilfn.worker.inprocess import InThread, executor_here
from toilfn.worker.payloads import Payloads
from toilfn.worker.services import Host, serve
from toilfn.worker.surroundings import Surroundings

__all__ = ["DebugTask", "Hosting", "fetch_files", "merged_options", "shape"]


class DebugTask:
    """A task that can be run any number of times without changing its store; a context manager.

    The services that the task uses run in threads of this process while the task runs.

    Parameters
    ----------
    store : Store
        The store, which is not changed.
    id : bytes
        The task's id.

    Raises
    ------
    InputError
        If an input of the task has no value yet.
    ToilfnError
        If a service that it uses fails at its start.
    """

    def __init__(self, store: Store, id: TaskId) -> None:
        self._written = Path(tempfile.mkdtemp(prefix="toilfn-debug-"))
        meta = Meta(store.id, store.created, store.workflow, conditional=True, sync=False)
        self._store = Store(Overlay(store.objects, FileObjects(self._written, sync=False)), meta)
        self._index = Index.load(store.log)
        self.task = self._index.task(id)

    def __enter__(self) -> DebugTask:
        """Install the user's modules in the versions that the run used, so that they can be imported."""
        code = self._index.runs[-1].code if self._index.runs else None
        if code is not None:
            attach(self._store)
            install(self._store.get_blob(code), code_dir(self._store.url))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._written)

    def run(self, on_error: Callable[[BaseException], None] = lambda _: None) -> Any:
        """Run the task's function; its output goes to the output of this process.

        Parameters
        ----------
        on_error : callable
            Called with the exception that the function raised, while the task's temporary directory still exists. The
            traceback begins in the function.

        Returns
        -------
        object
            The value that the function returned, which contains promises if it called tasks.

        Raises
        ------
        BaseException
            The exception that the function raised.
        """

        def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                below = error.__traceback__.tb_next if error.__traceback__ else None
                on_error(error.with_traceback(below))
                raise

        return self._attempt(call)

    def with_inputs(self, action: Callable[[dict[str, Any]], Any]) -> Any:
        """Call a function with the task's arguments instead of running the task, and return its result.

        Parameters
        ----------
        action : callable
            Takes a dict of the arguments, by the names of the parameters. For a function without a signature, such as
            some written in C, the keys are the positions. `action` can read files, as the task can.
        """
        return self._attempt(lambda function, args, kwargs: action(_by_name(function, args, kwargs)), runs=False)

    def _attempt(self, call: _Call, *, runs: bool = True) -> Any:
        executor = _Runner(self._store, call, runs=runs)
        executor.learn(self._index.functions.values(), recorded=True)
        try:
            with Hosting(self._store, self._index) as hosting:
                payloads = Payloads(hosting.inputs_of(self.task), executor.blobs)
                executor.run(Attempt(self.task, 1, limits(shape(self._index, self.task))), payloads)
        finally:
            executor.close()
        return executor.value


_Call = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _by_name(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions that are written in C have no signature
        return {**{str(position): value for position, value in enumerate(args)}, **kwargs}
    return dict(signature.bind(*args, **kwargs).arguments)


class _Runner(AttemptRunner):
    """Runs an attempt without catching exceptions, and keeps its value without serializing it."""

    def __init__(self, store: Store, call: _Call, *, runs: bool) -> None:
        super().__init__(store, NoCapture(), AttemptPage(), Surroundings(limit_threads=True), BaseException)
        self._make_call = call
        self._runs = runs
        self.value: Any = None

    def _load(self, task: records.TaskRecord, payloads: Payloads) -> partial[Any]:
        call = super()._load(task, payloads)
        return partial(self._stage, call.func, call.args, call.keywords)

    def _stage(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.value = self._make_call(function, args, kwargs)
        return self.value

    def _serve(self, made: Any, id_: TaskId, host: Host, interval: float) -> None:
        if self._runs:  # otherwise `made` is the result of an action, not a service
            self._make_call(serve, (made, self._keep, host.wait, interval), {})

    def _keep(self, told: Any) -> None:
        """Keep the value that a service yields for its clients as the value of the attempt."""
        self.value = told


def fetch_files(value: Any, folder: Path) -> None:
    """Copy the files that a value refers to into a directory, under their names.

    If several files have the same name, a number is put before the name.

    Parameters
    ----------
    value : object
        The value, such as a task's arguments.
    folder : Path
        The directory, which must exist.
    """
    for number, file in enumerate(files_in(value), start=1):
        name = confined.single(file.name)
        name = f"{number}-{name}" if (folder / name).exists() else name
        file.path((folder / name).absolute(), mutable=True)


_PATIENCE = 10.0
"""Seconds to wait for a service to stop."""


class Hosting:
    """Starts the services that a task uses, and stops them at the end; a context manager.

    Parameters
    ----------
    store : Store
        The store to which the services write.
    index : Index
        The index of the store's tasks.
    """

    def __init__(self, store: Store, index: Index) -> None:
        self._store = store
        self._index = index
        self._stack = ExitStack()
        self._started: set[TaskId] = set()
        self._values = Values(index.value)

    def __enter__(self) -> Hosting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def inputs_of(self, task: records.TaskRecord) -> dict[TaskId, Entry]:
        """Start the services that a task uses, directly or through other services, and return the values it needs.

        Raises
        ------
        InputError
            If an input has no value yet.
        ToilfnError
            If a service fails before it is ready.
        """
        for need in task.needs:
            used = self._index.task(need)
            if need not in self._started and options.SERVICE in merged_options(self._index, used):
                self._started.add(need)
                self._start(used)
        try:
            return self._values.closure(task.needs)
        except KeyError as missing:
            source = self._index.task(missing.args[0])
            name = self._index.functions[source.function].name
            raise InputError(
                f"the input {name} ({source.id.hex()[:12]}) has no value yet: the task cannot run before that"
                " task has completed"
            ) from None

    def _start(self, task: records.TaskRecord) -> None:
        hosted = _Hosted(self._store, self._index.functions[task.function], self._message(task))
        self._stack.callback(hosted.stop)
        self._values.put(task.id, hosted.wait_for_value(), ())

    def _message(self, task: records.TaskRecord) -> bytes:
        function = self._index.functions[task.function]
        tasks = [(records.encode(task), 1, protocol.limits(shape(self._index, task)))]
        return protocol.encode(Run(tasks, self.inputs_of(task), [records.encode(function)]))


class _Hosted:
    """One service that runs in a thread, with the queue of the messages that it sends."""

    def __init__(self, store: Store, function: records.Function, message: bytes) -> None:
        self._name = function.name
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = InThread(
            executor_here(store, is_shared=True), message, self._said.put, lambda: self._said.put(None)
        )

    def wait_for_value(self) -> bytes | records.BlobRef:
        """Wait until the service is ready, and return the value for its clients.

        Raises
        ------
        ToilfnError
            If the service fails, or ends before it is ready.
        """
        while (said := self._said.get()) is not None:
            message = protocol.decode(said)
            if isinstance(message, Started):
                return records.payload_or_ref(message.value)
            self._check(message)
        self._said.put(None)  # `stop` also waits for this mark of the end
        raise ToilfnError(f"service {self._name} ended before it was ready")

    def stop(self) -> None:
        """Stop the service and wait until it has stopped; report a failure on standard error."""
        self._thread.stop()
        self._thread.join(_PATIENCE)
        try:
            while (said := self._said.get_nowait()) is not None:
                self._check(protocol.decode(said))
        except queue.Empty:
            report(f"toilfn: service {self._name} did not stop within {_PATIENCE:g} seconds")
        except ToilfnError as error:
            report_error("toilfn", error)

    def _check(self, message: protocol.Message) -> None:
        made = map(records.decode, message.records) if isinstance(message, Records) else ()
        for record in made:
            if isinstance(record, records.Failure):
                raise ToilfnError(f"service {self._name} failed: {record.message}\n{record.traceback}".rstrip())


def merged_options(index: Index, task: records.TaskRecord) -> dict[str, Any]:
    """Return the options of a task's call merged with those of its decorator."""
    return dict(options.merge(index.functions[task.function].options, task.options))


def shape(index: Index, task: records.TaskRecord) -> Resources:
    """Return the resources that a task requests."""
    return options.resources(merged_options(index, task), options.defaults(Settings()))
