"""What an earlier run on the store has finished, and this one may use (CWL v1.2, WorkReuse).

A task that must run again is another one in each run, by an argument that does not count in the ids of its own
children (`toilfn.graph.identity.lineage`). Nor do the document and the inputs of a run's whole workflow: its steps
are other tasks only where these reach them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cwltool.errors import WorkflowException
from cwltool.process import Process, shortname

from toilfn.cwl.documents import Part
from toilfn.cwl.resources import builder_of

__all__ = ["Fresh", "Given", "allows_cache", "fresh", "needs_inputs"]


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs of what a run is for."""

    __toilfn_lineage__: ClassVar[bool] = False

    job: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fresh:
    """What makes a task another one in each run; the same in all runs if it may be reused."""

    __toilfn_lineage__: ClassVar[bool] = False

    nonce: str

    def __repr__(self) -> str:
        return "<again in each run>" if self.nonce else "<once>"


def needs_inputs(process: Process) -> bool:
    """Return whether an expression says if a tool may be reused."""
    return isinstance(_wish(process), str)


def fresh(part: Part, job: Mapping[str, Any] | None = None) -> Fresh:
    """Return whether a process or step is to run again.

    Parameters
    ----------
    part : Part
    job : mapping, optional
        The inputs of a tool, if `needs_inputs`.

    Raises
    ------
    cwltool.errors.WorkflowException
        If the expression gives something else than true or false.
    """
    nonce = part.nonce
    if nonce and job is not None and part.document.reuse and needs_inputs(part.process) and _evaluated(part, job):
        nonce = ""
    return Fresh(nonce)


def allows_cache(part: Part, job: Mapping[str, Any]) -> bool:
    """Return whether a finished call of the tool with these inputs may be reused: no expression forbids it."""
    return not needs_inputs(part.process) or _evaluated(part, job)


def _wish(process: Process) -> object:
    return (process.get_requirement("WorkReuse")[0] or {}).get("enableReuse")


def _evaluated(part: Part, job: Mapping[str, Any]) -> bool:
    value = builder_of(part, job).do_eval(_wish(part.process))  # type: ignore[arg-type]  # it is a string here
    if not isinstance(value, bool):
        name = shortname(part.process.tool["id"])
        raise WorkflowException(
            f"enableReuse of {name} must be true or false, but its expression evaluated to {value!r}"
        )
    return value
