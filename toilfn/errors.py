"""Every error that toilfn raises on purpose.

::

    ToilfnError
    ├── InputError (also TypeError or ValueError where Python has one)
    │   ├── GraphError          a cycle, a value where a promise is needed
    │   ├── SerializationError  an argument or a result that cannot be stored
    │   └── ResourceError       a size that is misspelled, or larger than any cluster offers
    ├── StoreError
    │   ├── StoreNotFoundError
    │   ├── StoreExistsError    the store belongs to a different workflow
    │   ├── StoreFormatError    a version that this toilfn does not read
    │   ├── CorruptObjectError  names the object
    │   ├── StoreLockedError    another leader is alive; says who
    │   └── FencedError         another leader took over; this one stops
    ├── ClusterError
    ├── ContainerError          a container could not be started, or its program failed
    │   └── ContainerMemoryError  it was killed, most likely at its memory limit
    ├── FailedTasksError        the workflow ended with failed tasks
    ├── PermanentError          raised by a task: another attempt would fail, too
    └── KilledError             the workflow was stopped by `toilfn kill`
"""

from __future__ import annotations

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


class ToilfnError(Exception):
    """The base of all errors that toilfn raises on purpose.

    Parameters
    ----------
    *args : object
        The message: what happened, to which object.
    hint : str, optional
        The advice for the user. The text of the error ends with it; commands print it on a line of its own.

    Attributes
    ----------
    hint : str or None
        The advice alone.
    message : str
        The text without the advice.
    is_explained : bool
        Whether the message alone says what happened: then no traceback is shown.
    """

    hint: str | None = None
    is_explained = False

    def __init__(self, *args: object, hint: str | None = None) -> None:
        super().__init__(*args)
        self.hint = hint

    @property
    def message(self) -> str:
        """The text without the advice."""
        return super().__str__()

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}\n{self.hint}" if "\n" in self.message else f"{self.message}; {self.hint}"


class InputError(ToilfnError):
    """Something the user gave cannot be used; nothing was run for it."""


class GraphError(InputError, TypeError):
    """The graph of tasks is not one that can be run."""


class SerializationError(InputError, TypeError):
    """An argument, a function or a result cannot be stored."""


class ResourceError(InputError, ValueError):
    """A requirement is malformed, or larger than the cluster can ever give."""


class StoreError(ToilfnError):
    """The job store cannot be used."""


class StoreNotFoundError(StoreError):
    """There is no job store at this place."""


class StoreExistsError(StoreError):
    """The store exists and belongs to a different workflow."""


class StoreFormatError(StoreError):
    """The store has a format version that this toilfn does not read."""


class CorruptObjectError(StoreError):
    """An object of the store is missing, cut short or altered."""


class StoreLockedError(StoreError):
    """Another live leader holds the store."""


class FencedError(StoreError):
    """Another leader has taken over the store; this one must stop."""


class ClusterError(ToilfnError):
    """The cluster cannot run what was asked."""


class ContainerError(ToilfnError):
    """A container could not be started, or its program failed.

    Attributes
    ----------
    exit_code : int
        Exit status of the program, or of the engine where that failed; -1 if nothing was run.
    stderr : str
        The end of what was written to standard error.
    """

    def __init__(self, message: str, exit_code: int = -1, stderr: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.stderr = stderr


class ContainerMemoryError(ContainerError, MemoryError):
    """A container was killed, most likely for more memory than its task may use; `double_memory` helps."""


class CommandError(ToilfnError):
    """The command of a shell step failed, or did not make its outputs.

    Attributes
    ----------
    exit_code : int
        Exit status of the command, or the negative number of the signal that killed it; -1 if it did not run or ended
        well without making an output.
    stderr : str
        The end of what was written to standard error.
    """

    is_explained = True

    def __init__(self, message: str, exit_code: int = -1, stderr: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.stderr = stderr


class KilledError(ToilfnError):
    """The workflow was stopped on request; the store can be resumed."""


class FailedTasksError(ToilfnError):
    """The workflow ended, and some tasks failed for good.

    Attributes
    ----------
    failures : tuple of toilfn.model.records.Failure
        One entry for each failed task.
    store : str
        The store's URL, for `toilfn resume` and `toilfn debug`.
    names : tuple of str
        The tasks' names, in the order of `failures`.
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
    """A task raises it when another attempt would fail, too: it is not retried."""

    is_explained = True
