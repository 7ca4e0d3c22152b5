"""The ``@task`` decorator."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload
from weakref import WeakValueDictionary

from toilfn.errors import GraphError, InputError
from toilfn.graph import options as _options
from toilfn.graph.options import SERVICE
from toilfn.graph.running import passed_on
from toilfn.graph.structure import ATOMS, holds_shown, is_collection, rebuild

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from toilfn.graph.identity import Identity
    from toilfn.graph.options import ServiceOptions, TaskOptions
    from toilfn.graph.promise import Promise

__all__ = ["BoundTask", "Service", "ServiceTask", "Task", "as_promise", "from_dask", "service", "task"]

P = ParamSpec("P")
R = TypeVar("R")

LARGE = 2**20
"""Bytes: larger arguments are stored once for all calls."""

_MEASURING_CORES = 0.1


class Task(Generic[P, R]):
    """A function whose calls are tasks of a graph.

    Calling it returns a promise and runs nothing. To a type checker the call has the type of the
    function's value, since a promise may be passed wherever that value is wanted; the plain
    function is ``__wrapped__``.
    """

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(
        self, function: Callable[P, R], options: dict[str, Any] | None = None, after: Iterable[Any] = ()
    ) -> None:
        if isinstance(function, classmethod):
            raise InputError(f"@task needs a function, not {function!r}", hint="write @classmethod above @task")
        if not callable(function):
            raise InputError(f"@task needs a function, not {function!r}")
        self._refuse(function, options or {})
        self._look_like(function)
        self.settings = _options.normalise(options or {})
        self.name: str = str(self.settings.get("name") or self.__name__)
        self.nout: int | None = self.settings.get("nout")
        self.after: tuple[Promise, ...] = _promises_only(after)
        self._late = _known_later(self.name, self.settings)
        if not isinstance(function, type):
            self._take_attributes(getattr(function, "__dict__", {}))

    def _look_like(self, function: Callable[P, R]) -> None:
        """Copy the name and the documentation; partials and other objects may have no name of their own."""
        functools.update_wrapper(self, function, updated=())
        if not isinstance(getattr(function, "__name__", None), str):
            self.__name__ = _name_of(function)
        if not isinstance(getattr(function, "__qualname__", None), str):
            self.__qualname__ = self.__name__

    def _take_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Copy the attributes that were set on the function, but none that would hide an attribute of the task."""
        own = vars(self)
        own.update(
            {name: value for name, value in attributes.items() if name not in own and not hasattr(type(self), name)}
        )

    def _refuse(self, function: Callable[P, Any], options: dict[str, Any]) -> None:
        """Refuse a callable that cannot be a task."""
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(
                f"task {function.__qualname__} is a coroutine function: a task returns one value",
                hint="write an ordinary function that calls asyncio.run",
            )
        if inspect.isgeneratorfunction(function):
            raise InputError(
                f"task {function.__qualname__} is a generator function: a task returns one value",
                hint="return a list instead; use @toilfn.service for a server that runs beside other tasks",
            )
        if _options.SERVICE in options:
            raise InputError(f"option {_options.SERVICE} is only for services", hint="use @toilfn.service")

    @property
    def identity(self) -> Identity:
        """The current identity of the function: a digest and its parts."""
        from toilfn.graph.identity import function_identity

        return function_identity(self.__wrapped__, self.settings.get("version"))

    @functools.cached_property
    def _arity(self) -> tuple[int, int] | None:
        """The least and the most positional arguments; None where only a full check will do."""
        try:
            # The decorator's result is what is called: it may add arguments that the function below it takes.
            parameters = inspect.signature(self.__wrapped__, follow_wrapped=False).parameters.values()
        except (TypeError, ValueError):
            return (0, sys.maxsize)
        if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
            return None
        return sum(p.default is p.empty for p in parameters), len(parameters)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Build a promise of the function's value."""
        from toilfn.graph.promise import Promise

        self._check(args, kwargs)
        deps: list[Promise] = []
        if self._is_plain(args, kwargs):
            return Promise(self, args, {})  # type: ignore[return-value]  # see the class's docstring
        frozen_args, frozen_kwargs = rebuild((args, kwargs), functools.partial(_freeze, deps))
        requires = {name: later(*frozen_args, **frozen_kwargs) for name, later in self._late.items()}
        promise = Promise(self, frozen_args, frozen_kwargs, (*deps, *requires.values()))
        promise._requires = requires
        return promise  # type: ignore[return-value]

    def _is_plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether a call is plain: no promises in its arguments, and requirements that are known."""
        if kwargs or self._late:
            return False
        for arg in args:
            kind = type(arg)
            if kind not in ATOMS or sys.getsizeof(arg) > LARGE or (kind is str and holds_shown(arg)):
                return False
        return True

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arity = self._arity
        if arity is not None and not kwargs and arity[0] <= len(args) <= arity[1]:
            return
        try:
            inspect.signature(self.__wrapped__, follow_wrapped=False).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"task {self.name}: {error}") from None

    def options(self, /, *, after: Any = (), **overrides: Unpack[TaskOptions]) -> Task[P, R]:
        """Build a variant of this task with other options, for one call or several.

        Parameters
        ----------
        after : promise or iterable of promises
            Promises that must be complete before the task starts; their values are not passed to it.
        **overrides
            Any keyword of `task`; the keys of `toilfn.graph.options.TaskOptions`.

        Returns
        -------
        Task
            The variant; this task stays as it is.

        Raises
        ------
        InputError
            If an option is unknown or its value cannot be used.
        """
        merged = _options.merge(self.settings, _options.normalise(overrides))
        return type(self)(self.__wrapped__, merged, (*self.after, *_promises_only(after)))

    def map(self, /, *iterables: Iterable[Any], **kwargs: Any) -> list[R]:
        """Call the task once for each item, as the built-in `map` would.

        Parameters
        ----------
        *iterables
            One iterable for each positional argument; the shortest one determines the number of calls.
        **kwargs
            Keyword arguments of every call.

        Returns
        -------
        list of promises

        Raises
        ------
        TypeError
            If there is no iterable.
        """
        if not iterables:
            raise TypeError(
                f"task {self.name}: map needs at least one iterable as a positional argument; for one promise,"
                " call the task"
            )
        return [self(*items, **kwargs) for items in zip(*iterables, strict=False)]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or isinstance(self.__wrapped__, staticmethod):
            return self
        return BoundTask(self, instance)

    def is_complete_without_arguments(self, *bound: Any) -> bool:
        """Return whether the function can be called with nothing but what it is bound to."""
        try:
            inspect.signature(self.__wrapped__).bind(*bound)
        except (TypeError, ValueError):
            return False
        return True

    def __reduce__(self) -> Any:
        if self._is_importable():
            return self.__qualname__
        return type(self), (self.__wrapped__, self.settings)

    def _is_importable(self) -> bool:
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        return found is self and self.__module__ != "__main__"

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class BoundTask(Generic[R]):
    """A task that is a method, and the object it belongs to: what ``object.method`` gives."""

    def __init__(self, task: Task[..., R], instance: Any) -> None:
        functools.update_wrapper(self, task, updated=())
        self.__func__ = task
        self.name = task.name
        self.__self__ = instance
        self.__wrapped__: Callable[..., R] = types.MethodType(task.__wrapped__, instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> R:
        """Build a promise of the method's value."""
        return self.__func__(self.__self__, *args, **kwargs)

    def options(self, /, *, after: Any = (), **overrides: Unpack[TaskOptions]) -> BoundTask[R]:
        """Build a variant with other options, as `Task.options` does."""
        return BoundTask(self.__func__.options(after=after, **overrides), self.__self__)

    def map(self, /, *iterables: Iterable[Any], **kwargs: Any) -> list[R]:
        """Call the method once for each item, as `Task.map` does."""
        if not iterables:
            return self.__func__.map(**kwargs)  # raises the error that names the missing argument
        return [self(*items, **kwargs) for items in zip(*iterables, strict=False)]

    def __reduce__(self) -> Any:
        return BoundTask, (self.__func__, self.__self__)

    def __repr__(self) -> str:
        return f"<task {self.__func__.name} of {self.__self__!r:.100}>"


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(function: None = None, /, **options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
    """Turn a function into a task: its calls return promises and become tasks of a graph.

    Parameters
    ----------
    function : callable
        The function, when the decorator is used without arguments.
    **options
        ``cores`` (float), ``memory`` and ``disk`` ("2G", "512Mi", or bytes), ``accelerators`` (1,
        "nvidia-tesla-k80:2", a dict or a list), ``preemptible``, ``walltime`` (seconds or "1h"): each of these
        may be a promise, or a function of the call's resolved arguments;
        ``retries`` (a number, or one for each cause: ``{"error": 2, "memory": 3, "walltime": 1, "lost": 5}``),
        ``double_memory``, ``double_walltime``, ``checkpoint`` (run again, within its retries, when what it led to
        fails permanently), ``local`` (run beside the leader), ``name``, ``nout`` (how many values it returns), ``env``,
        ``version`` (pins the identity by hand).

    Returns
    -------
    Task
        Or, without a function, a decorator that makes one.

    Raises
    ------
    InputError
        If an option is unknown or its value cannot be used.

    Examples
    --------
    >>> @task(cores=1, memory="2G")
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(4)
    <Promise of double>
    """
    if function is not None:
        return Task(function, {**options})
    return lambda function: Task(function, {**options})


def as_promise(leaf: Any) -> Any:
    """Turn a dask collection into a promise of its value; return promises, and all else, as they are."""
    if not is_collection(leaf):
        return leaf
    from toilfn.graph.promise import Promise

    if isinstance(leaf, Promise):
        return leaf
    return from_dask(leaf)


def from_dask(collection: Any) -> Promise:
    """Turn a dask collection into a promise of what its ``compute()`` would return."""
    from toilfn.graph.dask import promise_of

    return promise_of(collection, Task)


def _freeze(deps: list[Promise], leaf: Any) -> Any:
    """Collect a promise; turn a large argument into a promise, and a path of the running task into a file."""
    from toilfn.graph.promise import Promise

    if type(leaf) is Promise:  # the most frequent kind
        deps.append(leaf)
        return leaf
    if isinstance(leaf, (str, Path)) and holds_shown(str(leaf)):
        raise GraphError(
            f"the argument {leaf!r:.200} contains the text of a promise, whose value does not exist yet",
            hint="pass the promise to a task, and build the text there",
        )
    if isinstance(leaf, Path):
        return passed_on(leaf)
    if type(leaf) in ATOMS and sys.getsizeof(leaf) <= LARGE:
        return leaf
    if isinstance(leaf, (Task, BoundTask)):
        _refuse_uncalled(leaf)
    leaf = as_promise(leaf)
    if not isinstance(leaf, Promise) and _is_large(leaf):
        leaf = _shared(leaf)
    if isinstance(leaf, Promise):
        deps.append(leaf)
    return leaf


def _refuse_uncalled(leaf: Task[..., Any] | BoundTask[Any]) -> None:
    """Refuse a task that was most likely meant to be called, since it needs no arguments."""
    task, bound = (leaf.__func__, (leaf.__self__,)) if isinstance(leaf, BoundTask) else (leaf, ())
    if task.is_complete_without_arguments(*bound):
        raise GraphError(
            f"{leaf!r} is an argument, but it was not called",
            hint=f"write {task.name}() for its value, or lambda: {task.name}() to pass it as a function",
        )


def _name_of(function: Any) -> str:
    """Return the name of a callable: that of its function for a partial, that of its class for an object."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _promises_only(after: Any) -> tuple[Promise, ...]:
    if type(after) is tuple and not after:  # as almost always: without dask, workers start in half the time
        return ()
    from toilfn.graph.promise import Promise

    items = tuple(map(as_promise, (after,) if is_collection(after) else after))
    for item in items:
        if not isinstance(item, Promise):
            raise GraphError(f"after={item!r}: only promises can be waited for")
    return items


def _known_later(name: str, settings: Mapping[str, Any]) -> dict[str, Callable[..., Promise]]:
    """Return, for each requirement that is known later, a function that builds its promise from a call's arguments.

    Parameters
    ----------
    name : str
        The name of the task that has the requirements.
    settings : mapping
        Its normalised options.
    """
    return {key: _maker(f"{key} of {name}", value) for key, value in _options.dynamic(settings).items()}


def _maker(name: str, value: Any) -> Callable[..., Any]:
    from toilfn.graph.promise import Promise

    value = as_promise(value)
    if isinstance(value, Promise):
        return lambda *args, **kwargs: value
    return value if isinstance(value, Task) else Task(value, {"name": name, "cores": _MEASURING_CORES})


_promises: WeakValueDictionary[int, Promise] = WeakValueDictionary()


def _is_large(value: Any) -> bool:
    """Return whether a value is large enough to be stored apart; the items of containers do not count."""
    size = getattr(value, "nbytes", 0)  # what an array shows of another's memory is not in its own size
    return sys.getsizeof(value, 0) > LARGE or (isinstance(size, int) and size > LARGE)


@task(name="shared", cores=_MEASURING_CORES)
def _kept(value: Any) -> Any:
    return value


def _shared(value: Any) -> Promise:
    """Return the promise of a large value: the same one for the same object, as long as a call holds it."""
    from toilfn.graph.promise import Promise

    promise = _promises.get(id(value))
    if promise is None:
        promise = _promises[id(value)] = Promise(_kept, (value,), {})
    return promise


CHECK_INTERVAL = 5.0
"""Seconds."""


class Service(Generic[R]):
    """The base class of services that check whether they are still alive.

    Decorate a subclass with `service`. On the machine where the service runs, an instance is created with the
    arguments of the call, and its methods are called in this order.
    """

    def start(self) -> R:
        """Start the service.

        Returns
        -------
        object
            The value for clients, such as an address.
        """
        raise NotImplementedError(f"{type(self).__name__} must define the method start")

    def check(self) -> bool:
        """Return whether the service still runs: called every ``check_interval`` seconds.

        An exception means that the service has failed: it is stopped, its clients are lost, and it is started anew.
        False means that it has ended well and needs no further checks: its clients continue with the data that it left,
        and `stop` is called when the last of them is complete.
        """
        return True

    def stop(self) -> None:
        """Clean up, in any case once `start` has returned."""


class ServiceTask(Task[P, R]):
    """A service: its calls return promises of the value for its clients."""

    def __init__(self, function: Callable[P, Any], options: dict[str, Any] | None = None, after: Any = ()) -> None:
        super().__init__(function, {SERVICE: CHECK_INTERVAL, **(options or {})}, after)

    def _refuse(self, function: Callable[P, Any], options: dict[str, Any]) -> None:
        is_class = isinstance(function, type) and issubclass(function, Service)
        if not (is_class or inspect.isgeneratorfunction(function)):
            raise InputError(
                f"@service cannot be applied to {function!r}",
                hint="use it on a generator function that yields the value for its clients, or on a subclass of"
                " toilfn.Service",
            )

    def __repr__(self) -> str:
        return f"<service {self.name}>"


@overload
def service(function: Callable[P, Iterator[R] | Service[R]], /) -> ServiceTask[P, R]: ...
@overload
def service(
    function: None = None, /, **options: Unpack[ServiceOptions]
) -> Callable[[Callable[P, Iterator[R] | Service[R]]], ServiceTask[P, R]]: ...
def service(function: Any = None, /, **options: Unpack[ServiceOptions]) -> Any:
    """Turn a generator function, or a subclass of `Service`, into a service.

    A generator function yields exactly once, the value for its clients; the code after the yield is clean-up. A call
    returns a promise, which is passed to tasks like any other. The service starts before its first client and runs
    until its last client, and all tasks that the client led to, are complete. It may take promises of other services.

    Parameters
    ----------
    function : callable
        The generator function or class, when the decorator is used without arguments.
    **options
        The options of `toilfn.task`, and ``check_interval`` (seconds, or a text such as "1m"; by default 5 s): the
        time between two calls of `Service.check` and, on batch systems, between two checks whether to stop; see
        `toilfn.graph.options.ServiceOptions`.

    Returns
    -------
    ServiceTask
        Or, without a function, a decorator that makes one.

    Raises
    ------
    InputError
        If it is neither; or if an option is unknown or its value cannot be used.

    Examples
    --------
    >>> @service(cores=0.5)
    ... def folder():
    ...     import tempfile
    ...     with tempfile.TemporaryDirectory() as path:
    ...         yield path
    >>> folder()
    <Promise of folder>
    """
    if function is not None:
        return ServiceTask(function, {**options})
    return lambda function: ServiceTask(cast("Callable[..., Any]", function), {**options})
