"""The script that a batch system runs: one text, made by pure functions, for one batch or an array of them.

Each element of an array looks its batch up in a table within the script, so nothing that a user named ever
passes through a command line or a directive. The table is also how a leader that comes back learns which
job runs which batch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toilfn.clusters.base import Batch
from toilfn.resources import Resources

__all__ = ["Submission", "batch_names", "filtered", "is_preemptible", "render"]

_PREEMPTIBLE = "# toilfn: these jobs may run on nodes that can be taken away"

_ROW = re.compile(r"^(?:\d+\) )?toilfn_batch=(.*?)(?: ;;)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Submission:
    """A group of jobs that is submitted by one command.

    Attributes
    ----------
    name : str
        The job's name, never used twice: it tells whether a submission whose answer was lost arrived.
    batches : tuple of Batch
        All of one shape. More than one make a job array.
    resources : Resources
        The shape.
    log : str
        Where each element's output goes, without the element's number and the suffix.
    """

    name: str
    batches: tuple[Batch, ...]
    resources: Resources
    log: str

    @property
    def is_array(self) -> bool:
        """Whether there is more than one batch."""
        return len(self.batches) > 1


def render(
    submission: Submission,
    *,
    shell: str,
    directives: Sequence[str],
    index: str,
    first: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    output: str | None,
    prologue: Sequence[str],
    epilogue: Sequence[str],
) -> str:
    """Write a submission's script.

    Parameters
    ----------
    submission : Submission
    shell : str
        The interpreter; any that reads what a POSIX shell reads.
    directives : sequence of str
        Whole lines for the system.
    index : str
        The variable that holds an array element's number.
    first : int
        The number of the first element.
    command : sequence of str
        What to run; the batch's name comes after it.
    environment : mapping
        Variables for the command.
    output : str or None
        A shell word for the file that the script sends its output to by itself; None leaves that to the system.
    prologue, epilogue : sequence of str
        The user's lines before and after the command.

    Returns
    -------
    str
    """
    lines = [f"#!{shell}", *directives, ""]
    lines += [_PREEMPTIBLE] if submission.resources.preemptible else []
    lines += [f"exec >{output} 2>&1"] if output else []
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += _guarded(prologue)
    lines += _table(submission.batches, index, first)
    lines += _run(f'{shlex.join(command)} "$toilfn_batch"', epilogue)
    return "\n".join(lines) + "\n"


def filtered(directives: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Leave out the directives that contain any of the given words."""
    return [line for line in directives if not any(word in line for word in skip)]


def batch_names(script: str) -> list[str]:
    """Read the table of a script back: the batches' names, in the elements' order."""
    return [shlex.split(row)[0] for row in _ROW.findall(script)]


def is_preemptible(script: str) -> bool:
    """Return whether a script is that of jobs that may run on nodes that can be taken away."""
    return _PREEMPTIBLE in script.splitlines()


def _guarded(prologue: Sequence[str]) -> list[str]:
    """Write the user's lines so that the first one that fails ends the job, and says so."""
    if not prologue:
        return []
    failed = "toilfn: the job_script_prologue ended with exit status $toilfn_status before the worker was started"
    told = f'[ -n "$toilfn_begun" ] || echo "{failed}" >&2'
    return ["toilfn_begun=", f"trap 'toilfn_status=$?; {told}' EXIT", "set -e", *prologue, "set +e", "toilfn_begun=1"]


def _table(batches: Sequence[Batch], index: str, first: int) -> list[str]:
    if len(batches) == 1:
        return [f"toilfn_batch={shlex.quote(batches[0].name)}"]
    rows = [f"{number}) toilfn_batch={shlex.quote(batch.name)} ;;" for number, batch in enumerate(batches, first)]
    return [f'case "${index}" in', *rows, "esac"]


def _run(command: str, epilogue: Sequence[str]) -> list[str]:
    """Put the worker in the shell's place, so that signals reach it; with an epilogue, pass them on."""
    if not epilogue:
        return [f"exec {command}"]
    forward = ["worker=$!", "trap 'kill -TERM \"$worker\"' TERM USR1 USR2 XCPU INT", 'wait "$worker"', "status=$?"]
    again = 'while kill -0 "$worker" 2>/dev/null; do wait "$worker"; status=$?; done'
    return [f"{command} &", *forward, again, *epilogue, 'exit "$status"']
