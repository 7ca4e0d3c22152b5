"""Facts about the running task, for its own function."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toilfn.errors import ToilfnError
from toilfn.files.scratch import Deferred, OwnDirectory, Scratch
from toilfn.ids import TaskId

if TYPE_CHECKING:
    from toilfn.graph.promise import Promise

__all__ = ["Context", "current", "spawn"]

_context: ContextVar[Context] = ContextVar("toilfn_context")
_entered: list[Context] = []


class Context:
    """The running attempt of a task.

    Attributes
    ----------
    name : str
        The task's name.
    attempt : int
        1 for the first attempt.
    cores : float
        Cores this task may use.
    memory, disk : int
        Bytes this task may use.
    """

    def __init__(
        self,
        id: TaskId,
        name: str,
        attempt: int,
        limits: Mapping[str, Any],
        scratch: Scratch,
        own: OwnDirectory | None = None,
    ) -> None:
        self._id = id
        self.name = name
        self.attempt = attempt
        self._limits = limits
        self._scratch = scratch
        self._own = own
        self._temp_dir: Path | None = None
        self._deferred: list[Deferred] = []
        self._ending = "onError"
        self.spawned: list[Promise] = []
        self.cores: float = limits.get("cores", 1.0)
        self.memory: int = limits.get("memory", 0)
        self.disk: int = limits.get("disk", 0)

    @property
    def id(self) -> str:
        """The task's identity, in hexadecimal."""
        return self._id.hex()

    @property
    def accelerators(self) -> tuple[str, ...]:
        """The numbers or names of this task's devices, as ``CUDA_VISIBLE_DEVICES`` has them."""
        if not self._limits.get("accelerators"):
            return ()
        return tuple(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))

    @cached_property
    def log(self) -> logging.Logger:
        """A logger by the task's name; its messages become part of the attempt's log."""
        return logging.getLogger(self.name)

    @property
    def temp_dir(self) -> Path:
        """The attempt's own directory, in which it starts; it is removed when the attempt ends."""
        if self._temp_dir is None:
            self._temp_dir = self._scratch.new_dir() if self._own is None else self._own.path
        return self._temp_dir

    def scratch_dir(self) -> Path:
        """Create a directory outside the attempt's own; it is removed when the worker ends."""
        return self._scratch.new_dir()

    @property
    def has_temp_dir(self) -> bool:
        """Whether `temp_dir` has been used yet."""
        return self._temp_dir is not None or not (self._own is None or self._own.is_untouched())

    def defer(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> Deferred:
        """Register a function that is called on this machine at the end of the attempt, whether it succeeds or fails.

        Functions are called in the reverse order; their exceptions are logged. If the worker is killed, another process
        calls them, except functions that cannot be pickled. If that process is killed during a call, another one
        repeats the call.

        Returns
        -------
        Deferred
            Its method ``cancel()`` is for a call that is no longer needed.
        """
        deferred = self._scratch.defer(function, args, kwargs)
        self._deferred.append(deferred)
        return deferred

    def spawn(self, promise: Promise) -> None:
        """Add a task that must be complete before anything that depends on this task starts, as `toilfn.spawn` does."""
        from toilfn.graph.promise import Promise
        from toilfn.graph.task import as_promise

        promise = as_promise(promise)
        if not isinstance(promise, Promise):
            raise TypeError(f"spawn() takes the promise returned by calling a task, not {promise!r}")
        self.spawned.append(promise)

    def close(self, look: Callable[[], object] = lambda: None) -> None:
        """Run the deferred calls and remove the temporary directory, unless the run keeps it.

        Parameters
        ----------
        look : callable
            Called before the directory is removed, if there is one.
        """
        if self._deferred:
            look()
        while self._deferred:
            self._deferred.pop().run()
        if not self.has_temp_dir:
            if self._own is not None:
                self._scratch.take_back(self._own)
            return
        look()
        if self._own is not None:
            self._own.close()
        try:
            self._end_temp_dir()
        except OSError as error:
            self.log.warning("the temporary directory %s could not be removed: %s", self.temp_dir, error)

    def _end_temp_dir(self) -> None:
        if os.environ.get("TOILFN_CLEAN_WORK_DIR", "always") in ("always", self._ending):
            self._scratch.remove_dir(self.temp_dir)
        else:
            kept = self._scratch.keep_dir(self.temp_dir, f"{self.name}-{self.id[:8]}-{self.attempt}")
            self.log.warning("the temporary directory is kept: %s", kept)

    def __enter__(self) -> Context:
        self._token: Token[Context] = _context.set(self)
        _entered.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ending = "onSuccess" if kind is None else "onError"
        _entered.remove(self)
        _context.reset(self._token)


def current() -> Context:
    """Return the context of the task that is running.

    Returns
    -------
    Context
        The requirements, the temporary directory and the log of the task, among others.

    Raises
    ------
    ToilfnError
        If no task is running here.
    """
    context = _context.get(None)
    if context is not None:
        return context
    if len(_entered) == 1:  # a thread that the task started has no context variables of its own
        return _entered[0]
    raise ToilfnError("current() and spawn() work only in the body of a @task function: no task is running here")


def spawn(promise: Promise) -> None:
    """Add a task that must be complete before anything that depends on the running task starts.

    This is `Context.spawn` of the `current` context.

    Parameters
    ----------
    promise : promise
        The promise that calling the task returned.

    Raises
    ------
    ToilfnError
        If no task is running here.
    TypeError
        If the argument is not a promise.
    """
    current().spawn(promise)
