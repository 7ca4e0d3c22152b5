"""Services in threads of this process, for the one task that `toilfn.debug.rehearsal` runs."""

from __future__ import annotations

import queue
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from toilfn import protocol
from toilfn.config.settings import Settings
from toilfn.errors import InputError, ToilfnError
from toilfn.graph import options
from toilfn.graph.values import Entry, Values
from toilfn.ids import TaskId
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.protocol import Records, Run, Started
from toilfn.resources import Resources
from toilfn.stdio import report, report_error
from toilfn.stores import Store
from toilfn.worker.inprocess import InThread, executor_here

__all__ = ["Hosting", "merged_options", "shape"]

_PATIENCE = 10.0
"""Seconds that a service may take to stop."""


class Hosting:
    """Starts what services a task uses, and stops them at the end; a context manager.

    Parameters
    ----------
    store : Store
        Where the services write.
    index : Index
        Of the store's tasks.
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
        """Return the values that a task needs, once the services are up that it uses, and those that these use.

        Raises
        ------
        InputError
            If one has no value yet.
        ToilfnError
            If a service fails before it serves.
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
    """One service that runs in a thread, and its messages."""

    def __init__(self, store: Store, function: records.Function, message: bytes) -> None:
        self._name = function.name
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = InThread(
            executor_here(store, is_shared=True), message, self._said.put, lambda: self._said.put(None)
        )

    def wait_for_value(self) -> bytes | records.BlobRef:
        """Return the value for its clients."""
        while (said := self._said.get()) is not None:
            message = protocol.decode(said)
            if isinstance(message, Started):
                return records.payload_or_ref(message.value)
            self._check(message)
        self._said.put(None)  # for `stop`
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
