"""The ``@service`` decorator: what runs beside the tasks that use it, such as a database."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from toilfn.errors import InputError
from toilfn.graph.options import SERVICE
from toilfn.graph.task import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from toilfn.graph.options import ServiceOptions

__all__ = ["Service", "ServiceTask", "service"]

P = ParamSpec("P")
R = TypeVar("R")

CHECK_INTERVAL = 5.0
"""Seconds."""


class Service(Generic[R]):
    """The base class of services that can check whether they are still alive.

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
