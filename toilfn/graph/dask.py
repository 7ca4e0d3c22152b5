"""Turn dask collections, as arguments of tasks or of `compute`, into promises.

Each node of a collection's optimised graph becomes a toilfn task. dask's keys name nodes in one process only, many of
them at random, so a node is turned into an *expression*: its function and arguments with other nodes by
number. Expressions have identities that last, and are what the store keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from dask._task_spec import convert_legacy_graph
from dask.base import compute, is_dask_collection
from dask.task_spec import Alias, DataNode, GraphNode, TaskRef
from dask.task_spec import Task as DaskTask
from dask.utils import key_split

from toilfn.errors import InputError
from toilfn.graph.promise import Call, Part, Promise

if TYPE_CHECKING:
    from collections.abc import Hashable

    from toilfn.graph.task import Task

    Graph = Mapping[Hashable, GraphNode]
    TaskMaker = Callable[[Callable[..., Any], dict[str, Any]], Task[..., Any]]

__all__ = ["promise_of"]

_made: WeakValueDictionary[Hashable, Promise] = WeakValueDictionary()
"""Promises by their dask keys, so that collections with common nodes share tasks."""


def promise_of(collection: Any, task: TaskMaker) -> Promise:
    """Turn a dask collection into a promise of what its ``compute()`` would return.

    Parameters
    ----------
    collection : dask collection
        A `delayed`, bag, array, dataframe, or any other object with dask's protocol. Promises in its graph stay the
        tasks they are.
    task : callable
        Builds the task of a node from a function and options; `toilfn.graph.task.Task`, which cannot be imported here.

    Returns
    -------
    Promise

    Raises
    ------
    InputError
        If it is not a dask collection, or has several results.
    """
    if not is_dask_collection(collection):
        raise InputError(f"{collection!r} is not a dask collection")
    found: list[Promise] = []

    def scheduler(graph: Any, keys: Any, **_: Any) -> list[None]:
        nodes = graph if isinstance(graph, Mapping) else graph.__dask_graph__()
        wanted = list(keys) if isinstance(keys, list) else [keys]
        found.extend(_promises(convert_legacy_graph(nodes), wanted, task))
        return [None for _ in wanted]

    # dask optimises, and adds the node that puts the parts together, before it calls its scheduler.
    compute(collection, traverse=False, scheduler=scheduler)
    if len(found) != 1:
        raise InputError(
            f"{type(collection).__name__} has {len(found)} results", hint="turn its parts into promises one by one"
        )
    return found[0]


def _promises(graph: Graph, keys: list[Hashable], task: TaskMaker) -> list[Promise]:
    """Make promises of nodes, after those of the nodes they need."""
    made: dict[Hashable, Promise] = {}
    stack = list(keys)
    while stack:
        key = stack[-1]
        known = made[key] if key in made else _known(graph[key], key)
        needs = [need for need in graph[key].dependencies if need not in made] if known is None else []
        if needs:
            stack.extend(needs)
            continue
        made[key] = _made[key] = _new(graph[key], key, made, task) if known is None else known
        stack.pop()
    return [made[key] for key in keys]


def _known(node: GraphNode, key: Hashable) -> Promise | None:
    call = getattr(node, "func", None)
    return call.promise if isinstance(call, (Call, Part)) else _made.get(key)


def _new(node: GraphNode, key: Hashable, made: Mapping[Hashable, Promise], task: TaskMaker) -> Promise:
    if isinstance(node, Alias):
        return made[node.target]
    inputs: dict[Hashable, int] = {}
    expression = _expression(node, lambda need: Input(inputs.setdefault(need, len(inputs))))
    promise: Promise = _task(task, key_split(key))(expression, *[made[need] for need in inputs])
    return promise


@functools.lru_cache(1024)
def _task(task: TaskMaker, name: str) -> Task[..., Any]:
    return task(_node, {"name": name, "version": "1"})


def _node(expression: Any, *inputs: Any) -> Any:
    """Run one node of a dask graph."""
    return _evaluate(expression, inputs)


class Input:
    """The value of another node."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Apply:
    """A function and its arguments, which may be expressions."""

    __slots__ = ("args", "func", "kwargs")

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs


class Sequence:
    """Nodes that dask has fused into one, in order; the value is that of the last one.

    Their inputs are the inputs of the whole, and after these, each other.
    """

    __slots__ = ("inputs", "steps")

    def __init__(self, inputs: tuple[Any, ...], steps: tuple[Any, ...]) -> None:
        self.inputs = inputs
        self.steps = steps


def _evaluate(expression: Any, inputs: tuple[Any, ...]) -> Any:
    if type(expression) is Input:
        return inputs[expression.index]
    if type(expression) is Apply:
        args = [_evaluate(arg, inputs) for arg in expression.args]
        return expression.func(*args, **{key: _evaluate(arg, inputs) for key, arg in expression.kwargs.items()})
    if type(expression) is Sequence:
        values = [_evaluate(arg, inputs) for arg in expression.inputs]
        for step in expression.steps:
            values.append(_evaluate(step, tuple(values)))
        return values[-1]
    return expression


def _expression(node: Any, refer: Callable[[Hashable], Input]) -> Any:
    """Turn a node, or an argument of one, into an expression; `refer` returns the place of another node's value."""
    if isinstance(node, TaskRef):
        return refer(node.key)
    if isinstance(node, Alias):
        return refer(node.target)
    if isinstance(node, DataNode):
        return node.value
    if not isinstance(node, DaskTask):
        return node
    if getattr(node.func, "__name__", "") == "_execute_subgraph":
        return _sequence(node, refer)
    args = tuple(_expression(arg, refer) for arg in node.args)
    return Apply(node.func, args, {key: _expression(arg, refer) for key, arg in node.kwargs.items()})


def _sequence(node: DaskTask, refer: Callable[[Hashable], Input]) -> Sequence:
    graph, last, names, *values = node.args
    order = _in_order(graph, last)
    # dask sorts the names by hashes, which differ between processes: they are numbered by their first use.
    used = dict.fromkeys(name for key in order for name in _references(graph[key]) if name not in graph)
    places = {name: Input(index) for index, name in enumerate([*used, *order])}
    given = dict(zip(names, values, strict=True))
    inputs = tuple(_expression(given[name], refer) for name in used)
    return Sequence(inputs, tuple(_expression(graph[key], places.__getitem__) for key in order))


def _in_order(graph: Graph, last: Hashable) -> list[Hashable]:
    """List the keys of a graph, each after those it needs, in an order that does not depend on the keys themselves."""
    order: dict[Hashable, None] = {}
    stack = [last]
    while stack:
        needs = [need for need in _references(graph[stack[-1]]) if need in graph and need not in order]
        if needs:
            stack.extend(reversed(needs))
        else:
            order[stack.pop()] = None
    return list(order)


def _references(node: GraphNode) -> list[Hashable]:
    """List the nodes that a node refers to, in the order of the references."""
    found: list[Hashable] = []

    def note(key: Hashable) -> Input:
        found.append(key)
        return Input(0)

    _expression(node, note)
    return found
