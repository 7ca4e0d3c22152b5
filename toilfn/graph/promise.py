"""Define the promise, which calling a task returns.

A promise is a small immutable value: the task, its arguments and the promises among them. It is
a dask collection, so any dask scheduler can run it, and it *is* a `dask.delayed.Delayed`, since
that is the only collection whose keys dask shares between several consumers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dask.base import compute, get_annotations
from dask.delayed import Delayed, single_key
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import Task as DaskTask
from dask.task_spec import TaskRef

from toilfn.errors import GraphError, SerializationError
from toilfn.graph import options
from toilfn.graph.structure import SHOWN, is_collection, rebuild

if TYPE_CHECKING:
    from toilfn.graph.task import Task

__all__ = ["Promise"]

_numbers = itertools.count()
_process = os.urandom(6).hex()
_NOTHING: Mapping[str, Any] = {}


class Promise(Delayed):
    """A lazy reference to the value of a task's call, or to a part of that value.

    Calling a task returns a promise, and so does ``promise[key]``. Pass promises to other tasks, at any
    depth of lists, tuples, sets, dicts, dataclasses and namedtuples, and to
    `toilfn.compute`, which returns their values.
    """

    __slots__ = (
        "_after",
        "_annotations",
        "_args",
        "_deps",
        "_kwargs",
        "_number",
        "_origin",
        "_path",
        "_requires",
        "_task",
    )

    # Delayed's own __setattr__ is written in Python and ten times slower; slots keep promises closed.
    __setattr__ = object.__setattr__
    __hash__ = object.__hash__
    __dask_optimize__ = None

    def __init__(
        self,
        task: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deps: tuple[Promise, ...] = (),
    ) -> None:
        self._task = task
        self._args = args
        self._kwargs = kwargs
        self._deps = deps
        self._origin = self
        self._path: tuple[Any, ...] = ()
        self._number = next(_numbers)
        self._annotations: dict[str, Any] | None = get_annotations() or None
        self._length = task.nout
        self._after = task.after
        self._requires: Mapping[str, Promise] = _NOTHING

    @property
    def key(self) -> str:
        """The dask key: unique to this promise, in this process."""
        return f"{self._task.name}-{_process}-{self._number}"

    _key = key  # as `dask.delayed` calls it

    @property
    def dask(self) -> HighLevelGraph:
        """The graph of everything this promise needs, one layer for each task."""
        return _dask_graph(self)

    @property
    def _layer(self) -> str:
        return self.key

    def __getitem__(self, index: Any) -> Promise:
        """Select from the value: an item, a key or a slice."""
        part = Promise.__new__(Promise)
        for name in ("_task", "_args", "_kwargs", "_deps", "_annotations", "_after"):
            setattr(part, name, getattr(self, name))
        part._origin = self._origin
        part._path = (*self._path, index)
        part._number = next(_numbers)
        part._length = None
        return part

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self!r} has no attribute {name!r}: the value does not exist yet; pass the promise to a"
            " task, or get the value with toilfn.compute(promise)"
        )

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no truth value yet; decide inside a task, or call toilfn.compute(promise) first")

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"{self!r} has no length yet; declare its task with nout=N, or call len() inside a task")
        return int(self._length)

    def __iter__(self) -> Iterator[Promise]:
        if self._length is None:
            raise TypeError(f"{self!r} is not iterable yet; declare its task with nout=N, or loop inside a task")
        return (self[i] for i in range(self._length))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a promise stands for a value."""
        raise TypeError(f"{self!r} is not callable: it stands for a value, not for the task")

    def __await__(self) -> Any:
        """Refuse: awaiting runs nothing."""
        raise TypeError(
            f"{self!r} cannot be awaited; in a coroutine, write await asyncio.to_thread(toilfn.compute, promise)"
        )

    def __repr__(self) -> str:
        path = "".join(f"[{step!r}]" for step in self._path)
        SHOWN.add(text := f"<Promise of {self._task.name}{path}>")
        return text

    def __reduce__(self) -> Any:
        raise SerializationError(
            f"{self!r} cannot be pickled",
            hint="pass it to a task as an argument of the call, where toilfn replaces it by its value",
        )

    def __dask_postcompute__(self) -> tuple[Any, tuple[()]]:
        return single_key, ()

    def __dask_tokenize__(self) -> str:
        return self.key

    def _rebuild(self, graph: Any, *, rename: Mapping[str, str] | None = None) -> Delayed:
        layer = next(iter(graph.layers)) if isinstance(graph, HighLevelGraph) and len(graph.layers) == 1 else None
        key = (rename or {}).get(self.key, self.key)
        return Delayed(key, graph, self._length, layer=layer)


def _dask_graph(promise: Promise) -> HighLevelGraph:
    layers: dict[str, MaterializedLayer] = {}
    dependencies: dict[str, set[str]] = {}
    stack = [promise]
    while stack:
        current = stack.pop()
        if current.key in layers:
            continue
        needs = _dask_needs(current)
        layers[current.key] = MaterializedLayer({current.key: _dask_task(current)}, annotations=current._annotations)
        dependencies[current.key] = {need.key for need in needs}
        stack.extend(needs)
    return HighLevelGraph(layers, dependencies)


def _dask_needs(promise: Promise) -> tuple[Promise, ...]:
    if promise._origin is not promise:
        return (promise._origin,)
    return (*promise._deps, *promise._after)


def _dask_task(promise: Promise) -> DaskTask:
    if options.SERVICE in promise._task.settings:
        raise GraphError(f"{promise!r} belongs to a service, which dask cannot run", hint="use toilfn.compute")
    if promise._origin is not promise:
        return _PromiseNode(promise.key, Part(promise), TaskRef(promise._origin.key))
    return _PromiseNode(promise.key, Call(promise), *[TaskRef(need.key) for need in _dask_needs(promise)])


class _PromiseNode(DaskTask):
    """A promise in a dask graph, which dask's optimisations must not hide inside another node."""

    __slots__ = ()
    block_fusion = True


class Call:
    """One call, as dask runs it. It remembers its promise in the process that made it."""

    __slots__ = ("_arguments", "_task", "promise")

    def __init__(self, promise: Promise) -> None:
        places = {id(dep): Place(i) for i, dep in enumerate(promise._deps)}
        replaced = rebuild((promise._args, promise._kwargs), lambda leaf: places.get(id(leaf), leaf))
        self.__setstate__((promise._task, replaced))
        self.promise: Promise | None = promise

    def __call__(self, *values: Any) -> Any:
        """Run the call; dask collections it returns are computed on the spot."""
        args, kwargs = rebuild(self._arguments, lambda leaf: values[leaf.index] if type(leaf) is Place else leaf)
        result = self._task.__wrapped__(*args, **kwargs)
        return rebuild(result, lambda leaf: compute(leaf, scheduler="sync")[0] if is_collection(leaf) else leaf)

    def __getstate__(self) -> tuple[Task[..., Any], Any]:
        return self._task, self._arguments

    def __setstate__(self, state: tuple[Task[..., Any], Any]) -> None:
        self._task, self._arguments = state
        self.promise = None


class Place:
    """The place where the value of a call's i-th promise goes when dask runs the call."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Part:
    """A selection from a call's value, as dask makes it. It remembers its promise as `Call` does."""

    __slots__ = ("_path", "promise")

    def __init__(self, promise: Promise) -> None:
        self._path = promise._path
        self.promise: Promise | None = promise

    def __call__(self, value: Any) -> Any:
        """Select from the value."""
        for step in self._path:
            value = value[step]
        return value

    def __getstate__(self) -> tuple[Any, ...]:
        return self._path

    def __setstate__(self, path: tuple[Any, ...]) -> None:
        self._path = path
        self.promise = None
