"""Reuse of the results of earlier runs on the store (CWL v1.2, WorkReuse).

A task that must run again in each run gets an argument, `RunNonce`, that differs between runs, and so a different id.
The ids of its children do not depend on that argument (`toilfn.graph.identity.lineage`). They do not depend on the
document and the inputs of the whole workflow either: the id of a step changes only if the step's own part or inputs
change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cwltool.errors import WorkflowException
from cwltool.process import Process, shortname

from toilfn.cwl.documents import Part
from toilfn.cwl.resources import builder_of

__all__ = ["RequestedInputs", "RunNonce", "allows_cache", "needs_inputs", "run_nonce"]


@dataclass(frozen=True, slots=True)
class RequestedInputs:
    """The inputs of the process that was requested."""

    __toilfn_lineage__: ClassVar[bool] = False

    job: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunNonce:
    """An argument of tasks. With a nonce, which is unique to the run, the task gets a different id in each run."""

    __toilfn_lineage__: ClassVar[bool] = False

    nonce: str

    def __repr__(self) -> str:
        return "<again in each run>" if self.nonce else "<once>"


def needs_inputs(process: Process) -> bool:
    """Return whether an expression decides if a tool may be reused."""
    return isinstance(_reuse_setting(process), str)


def run_nonce(part: Part, job: Mapping[str, Any] | None = None) -> RunNonce:
    """Return the argument that decides whether a process or step runs again.

    Parameters
    ----------
    part : Part
    job : mapping, optional
        The inputs of a tool, if `needs_inputs` is true.

    Raises
    ------
    cwltool.errors.WorkflowException
        If the value of the expression is neither true nor false.
    """
    nonce = part.nonce
    if nonce and job is not None and part.document.reuse and needs_inputs(part.process) and _is_enabled(part, job):
        nonce = ""
    return RunNonce(nonce)


def allows_cache(part: Part, job: Mapping[str, Any]) -> bool:
    """Return whether a finished call of the tool with these inputs may be reused: no expression forbids it."""
    return not needs_inputs(part.process) or _is_enabled(part, job)


def _reuse_setting(process: Process) -> object:
    return (process.get_requirement("WorkReuse")[0] or {}).get("enableReuse")


def _is_enabled(part: Part, job: Mapping[str, Any]) -> bool:
    value = builder_of(part, job).do_eval(_reuse_setting(part.process))  # type: ignore[arg-type]  # it is a string here
    if not isinstance(value, bool):
        name = shortname(part.process.tool["id"])
        raise WorkflowException(
            f"enableReuse of {name} must be true or false, but its expression evaluated to {value!r}"
        )
    return value
