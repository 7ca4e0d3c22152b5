"""The errors that toilfn raises.

::

    ToilfnError
    ├── InputError              an argument, option or file that cannot be used
    │   ├── GraphError          a cycle, a value where a promise is needed
    │   ├── SerializationError  an argument or a result that cannot be stored
    │   └── ResourceError       a size that is misspelled, or larger than any cluster offers
    ├── StoreError
    │   ├── StoreNotFoundError
    │   ├── StoreExistsError    the store belongs to a different workflow
    │   ├── StoreFormatError    a version that this toilfn does not read
    │   ├── CorruptObjectError  names the object
    │   ├── StoreLockedError    another live leader uses the store
    │   └── FencedError         another leader has taken over the store
    ├── ClusterError            the cluster cannot run the workflow
    ├── ContainerError          a container could not be started, or its program failed
    │   └── ContainerMemoryError  a container was killed, most likely at its memory limit
    ├── FailedTasksError        the workflow ended with failed tasks
    ├── PermanentError          raised by a task for a failure that another attempt would repeat
    └── KilledError             the workflow was stopped by `toilfn kill`
"""

from __future__ import annotations

import logging
from typing import TypeVar

__all__ = [
    "ClusterError",
    "ContainerError",
    "ContainerMemoryError",
    "CorruptObjectError",
    "FailedTasksError",
    "FencedError",
    "GraphError",
    "InputError",
    "KilledError",
    "PermanentError",
    "ResourceError",
    "SerializationError",
    "StoreError",
    "StoreExistsError",
    "StoreFormatError",
    "StoreLockedError",
    "StoreNotFoundError",
    "ToilfnError",
]

E = TypeVar("E", bound=Exception)


class ToilfnError(Exception):
    """The base class of the errors that toilfn raises.

    Parameters
    ----------
    *args : object
        The message: what happened, to which object.
    hint : str, optional
        The advice for the user: how to solve the problem. The text of the error ends with the hint; commands print it
        on a separate line.

    Attributes
    ----------
    hint : str or None
        The hint alone.
    message : str
        The text without the hint.
    is_explained : bool
        Whether the message explains the failure completely, so that no traceback is shown.
    """

    hint: str | None = None
    is_explained = False

    def __init__(self, *args: object, hint: str | None = None) -> None:
        super().__init__(*args)
        self.hint = hint

    @property
    def message(self) -> str:
        """The text without the hint."""
        return super().__str__()

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}\n{self.hint}" if "\n" in self.message else f"{self.message}; {self.hint}"


class InputError(ToilfnError):
    """An argument, an option or a file from the user cannot be used; no task was run with it."""


class GraphError(InputError, TypeError):
    """The graph of tasks cannot be run, for example because it has a cycle."""


class SerializationError(InputError, TypeError):
    """An argument, a function or a result cannot be stored."""


class ResourceError(InputError, ValueError):
    """A resource requirement is malformed, or larger than the cluster can ever offer."""


class StoreError(ToilfnError):
    """The job store cannot be used."""


class StoreNotFoundError(StoreError):
    """The path or URL does not hold a job store."""


class StoreExistsError(StoreError):
    """The store exists and belongs to a different workflow."""


class StoreFormatError(StoreError):
    """The store has a format version that this version of toilfn cannot read."""


class CorruptObjectError(StoreError):
    """An object of the store is missing, truncated or altered."""


class StoreLockedError(StoreError):
    """Another live leader uses the store."""


class FencedError(StoreError):
    """Another leader has taken over the store; this leader must stop."""


class ClusterError(ToilfnError):
    """The cluster cannot run the workflow, or cannot be reached."""


class ContainerError(ToilfnError):
    """A container could not be started, or its program failed.

    Attributes
    ----------
    exit_code : int
        Exit status of the program, or of the engine if the engine failed; -1 if nothing was run.
    stderr : str
        The end of the standard error of the program or the engine.
    """

    def __init__(self, message: str, exit_code: int = -1, stderr: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.stderr = stderr


class ContainerMemoryError(ContainerError, MemoryError):
    """A container was killed, most likely because it used more memory than its task may use.

    The setting ``double_memory`` retries such a task with more memory.
    """


class CommandError(ToilfnError):
    """The command of a shell step failed, or did not create its outputs.

    Attributes
    ----------
    exit_code : int
        Exit status of the command, or the negative number of the signal that killed it; -1 if it did not run, or
        succeeded without creating an output.
    stderr : str
        The end of the command's standard error.
    """

    is_explained = True

    def __init__(self, message: str, exit_code: int = -1, stderr: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.stderr = stderr


class KilledError(ToilfnError):
    """The workflow was stopped on request; `toilfn resume` continues it."""


class FailedTasksError(ToilfnError):
    """The workflow ended, and some tasks failed without further retries.

    Attributes
    ----------
    failures : tuple of toilfn.model.records.Failure
        One entry for each failed task.
    store : str
        The URL of the store, for `toilfn resume` and `toilfn debug`.
    names : tuple of str
        The names of the tasks, in the order of `failures`.
    """

    def __init__(
        self,
        message: str,
        failures: tuple[object, ...] = (),
        store: str = "",
        names: tuple[str, ...] = (),
        *,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.failures = failures
        self.store = store
        self.names = names


class PermanentError(ToilfnError):
    """A failure that another attempt would repeat: a task that raises this error is not retried."""

    is_explained = True


ENDS_OF_RUNS = (StoreError, FailedTasksError, KilledError)
"""Errors with which a run ends although the call of `compute` was correct; users need no traceback of them."""


def without_frames(error: E) -> E:
    """Return an error without its traceback, which leads only through toilfn's own code; log the traceback instead."""
    logging.getLogger("toilfn").debug("the run has ended with an error", exc_info=error)
    error.__cause__, error.__suppress_context__ = None, True
    return error.with_traceback(None)
