"""Let calls and pickling find the running task and the store that holds payloads.

Files and attempts belong to higher layers: they put themselves into the variables of this module while they are
entered.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from toilfn.model.records import BlobRef

__all__ = [
    "MAIN_VARIABLE",
    "AttemptFiles",
    "PayloadStore",
    "current_files",
    "entered",
    "files_variable",
    "keep_main",
    "passed_on",
    "payload_store",
]

MAIN_VARIABLE = "TOILFN_SPAWNED_MAIN"
"""The environment variable with the name of the file that has the payload of the task's function."""


class AttemptFiles(Protocol):
    """The files of a running attempt: `toilfn.files.task_files.TaskFiles`."""

    def pass_on(self, path: Path) -> Any:
        """Return the value that a new task gets for a path."""


class PayloadStore(Protocol):
    """The store whose payloads are written and read: `toilfn.files.file.held_by`."""

    def mapped(self, ref: BlobRef, *, writable: bool) -> memoryview:
        """Map a large buffer of a payload into memory."""


files_variable: ContextVar[AttemptFiles] = ContextVar("toilfn_files")
"""The files of the running attempt."""

entered: list[AttemptFiles] = []
"""The files of all attempts that run in this process."""

payload_store: ContextVar[PayloadStore | None] = ContextVar("toilfn_payload_store", default=None)
"""The store whose payloads are written and read here."""


def current_files() -> AttemptFiles | None:
    """Return the files of the task that runs in this context; None outside tasks."""
    files = files_variable.get(None)
    if files is None and len(entered) == 1:  # a thread that the task started has no context variables of its own
        return entered[0]
    return files


def passed_on(path: Path) -> Any:
    """Return the value that a new task gets for a path among its arguments.

    That is a `File` or a `Directory` if the path is in the temporary directory of the task that is running, which
    will be gone when the new one runs; else the path.
    """
    files = current_files()
    return path if files is None else files.pass_on(path)


def keep_main(payload: bytes, new_dir: Callable[[], Path]) -> bool:
    """Keep a function's payload for the processes that the running task spawns; False if no task runs here.

    Parameters
    ----------
    payload : bytes
    new_dir : callable
        Makes a directory that stays as long as the worker does.
    """
    if current_files() is None:
        return False
    if MAIN_VARIABLE not in os.environ:  # a task's variables end with it
        file = new_dir() / "main"
        file.write_bytes(payload)
        os.environ[MAIN_VARIABLE] = str(file)
    return True
