"""Build the script that a batch system runs for one batch or an array of batches.

Each array element looks up its batch in a table in the script, so that names chosen by users never become part of a
command line or a directive. A resumed leader reads the same table to learn which job runs which batch.
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
        The job's name, which is unique: it shows whether a submission whose answer was lost has succeeded.
    batches : tuple of Batch
        Batches of one shape. More than one batch forms a job array.
    resources : Resources
        The shape of the batches.
    log : str
        Path of the output files, without the element's number and the suffix.
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
    """Build the script of a submission.

    Parameters
    ----------
    submission : Submission
    shell : str
        The interpreter: any shell that accepts POSIX shell syntax.
    directives : sequence of str
        Complete directive lines.
    index : str
        The environment variable with the number of an array element.
    first : int
        The number of the first element.
    command : sequence of str
        The command to run; the name of the batch is appended.
    environment : mapping
        Environment variables for the command.
    output : str or None
        A shell word for the file to which the script redirects its output; None if the system redirects it.
    prologue, epilogue : sequence of str
        The user's shell lines before and after the command.

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
    """Return the directives that contain none of the words in `skip`."""
    return [line for line in directives if not any(word in line for word in skip)]


def batch_names(script: str) -> list[str]:
    """Return the names of the batches in a script, in the order of the array elements."""
    return [shlex.split(row)[0] for row in _ROW.findall(script)]


def is_preemptible(script: str) -> bool:
    """Return whether a script is that of preemptible jobs."""
    return _PREEMPTIBLE in script.splitlines()


def _guarded(prologue: Sequence[str]) -> list[str]:
    """Return the user's lines, made to end the job with a message when one of them fails."""
    if not prologue:
        return []
    failed = "toilfn: the job_script_prologue ended with exit status $toilfn_status before the worker was started"
    report = f'[ -n "$toilfn_begun" ] || echo "{failed}" >&2'
    return ["toilfn_begun=", f"trap 'toilfn_status=$?; {report}' EXIT", "set -e", *prologue, "set +e", "toilfn_begun=1"]


def _table(batches: Sequence[Batch], index: str, first: int) -> list[str]:
    if len(batches) == 1:
        return [f"toilfn_batch={shlex.quote(batches[0].name)}"]
    rows = [f"{number}) toilfn_batch={shlex.quote(batch.name)} ;;" for number, batch in enumerate(batches, first)]
    return [f'case "${index}" in', *rows, "esac"]


def _run(command: str, epilogue: Sequence[str]) -> list[str]:
    """Replace the shell by the worker, so that signals reach the worker; with an epilogue, forward signals instead."""
    if not epilogue:
        return [f"exec {command}"]
    forward = ["worker=$!", "trap 'kill -TERM \"$worker\"' TERM USR1 USR2 XCPU INT", 'wait "$worker"', "status=$?"]
    again = 'while kill -0 "$worker" 2>/dev/null; do wait "$worker"; status=$?; done'
    return [f"{command} &", *forward, again, *epilogue, 'exit "$status"']
