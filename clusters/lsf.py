"""IBM Spectrum LSF.

Follows the reference pages of bsub, bjobs, bkill, bqueues and lsf.conf. Written for LSF 10.1, whose bjobs knows
``-json``. LSF shows ended jobs for CLEAN_PERIOD, an hour by default; there is no other record that users can ask for.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toilfn.clusters.base import Capabilities, JobId, JobState
from toilfn.clusters.commandline import CommandCluster
from toilfn.clusters.exits import exit_cause
from toilfn.clusters.jobscript import Submission
from toilfn.clusters.jobsettings import JobSettings
from toilfn.clusters.polled import Found
from toilfn.errors import ClusterError, InputError
from toilfn.events import Cause
from toilfn.resources import Accelerator

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LSFCluster", "LSFSettings"]

STATES: dict[str, tuple[JobState, Cause | None]] = {
    "PEND": (JobState.QUEUED, None),
    "PROV": (JobState.QUEUED, None),
    "PSUSP": (JobState.QUEUED, None),
    "WAIT": (JobState.QUEUED, None),
    "RUN": (JobState.RUNNING, None),
    "USUSP": (JobState.RUNNING, None),
    "SSUSP": (JobState.RUNNING, None),
    "DONE": (JobState.ENDED, None),
    "EXIT": (JobState.ENDED, Cause.ERROR),
    "UNKWN": (JobState.UNKNOWN, None),
    "ZOMBI": (JobState.ENDED, Cause.LOST),
}
"""LSF's words (bjobs, STAT) and ours."""

REASONS: dict[str, Cause] = {
    "TERM_MEMLIMIT": Cause.MEMORY,
    "TERM_SWAP": Cause.MEMORY,
    "TERM_RUNLIMIT": Cause.WALLTIME,
    "TERM_CPULIMIT": Cause.WALLTIME,
    "TERM_DEADLINE": Cause.WALLTIME,
    "TERM_PREEMPT": Cause.PREEMPTED,
    "TERM_LOAD": Cause.PREEMPTED,
    "TERM_WINDOW": Cause.PREEMPTED,
    "TERM_REQUEUE_OWNER": Cause.PREEMPTED,
    "TERM_REQUEUE_ADMIN": Cause.PREEMPTED,
    "TERM_REQUEUE_RC": Cause.PREEMPTED,
    "TERM_ADMIN": Cause.LOST,
    "TERM_BUCKET_KILL": Cause.LOST,
    "TERM_EXTERNAL_SIGNAL": Cause.LOST,
    "TERM_FORCE_ADMIN": Cause.LOST,
    "TERM_FORCE_OWNER": Cause.LOST,
    "TERM_OWNER": Cause.LOST,
    "TERM_UNKNOWN": Cause.LOST,
    "TERM_ZOMBIE": Cause.LOST,
}
"""Why LSF ended a job (bjobs, exit_reason), and our cause."""

_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


class LSFSettings(JobSettings, total=False):
    """What `LSFCluster` can be told besides `JobSettings`.

    Parameters
    ----------
    units : str
        ``KB``, ``MB``, ``GB`` or ``TB``: what memory is counted in. By default LSF_UNIT_FOR_LIMITS of lsf.conf.
    memory_per_core : bool
        Whether memory is reserved for each core. By default what RESOURCE_RESERVE_PER_TASK (or _PER_SLOT) of
        lsb.resources says is not readable for users, so False.
    """

    units: str
    memory_per_core: bool


class LSFCluster(CommandCluster):
    """Run tasks as LSF jobs; see `JobSettings` and `LSFSettings` for what it can be told."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = LSFSettings
    name = "lsf"
    prefix = "#BSUB"
    index = "LSB_JOBINDEX"
    first = 1
    array_limit = 1000
    away = "LSF is down|Please wait|daemon not responding|Cannot connect to LSF|still trying|communication time ?out"

    def __init__(self, **settings: Unpack[LSFSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Give bsub's options for a shape."""
        resources, given = submission.resources, self.settings
        cores = math.ceil(resources.cores)
        share = cores if given.get("memory_per_core") else 1
        memory = max(1, math.ceil(resources.memory / share / self._unit()))
        walltime = self.walltime(resources)
        elements = f"[1-{len(submission.batches)}]" if submission.is_array else ""
        return [
            f'-J "{submission.name}{elements}"',
            "-rn",  # who runs again is the leader's decision
            "-o /dev/null",
            f"-n {cores}",
            '-R "span[hosts=1]"',
            f'-R "rusage[mem={memory}]"',
            f"-M {memory}",
            *([f"-W {math.ceil(walltime / 60)}"] if walltime is not None else []),
            *(f'-gpu "{_gpu(accelerator)}"' for accelerator in resources.accelerators),
            *([f"-q {given['queue']}"] if "queue" in given else []),
            *([f"-P {given['account']}"] if "account" in given else []),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give bsub's command line; bsub reads the script from its input."""
        return ["bsub", *self.submit_args()]

    def submitted(self, output: str) -> str:
        """Read ``Job <4711> is submitted to queue <normal>.``."""
        match = re.search(r"Job <(\d+)> is submitted", output)
        if match is None:
            raise ClusterError(f"bsub answered {output!r}, which has no job id")
        return match[1]

    def element(self, base: str, number: int) -> JobId:
        """Give ``4711[3]``."""
        return JobId(f"{base}[{number}]")

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Read ``4711[3]``."""
        base, _, number = job.removesuffix("]").partition("[")
        return base, int(number) if number else None

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask bjobs, also for jobs that ended a short time ago."""
        records = self._jobs("jobid jobindex stat exit_code exit_reason exec_host", "-a", *bases)
        return {self._id(record): _found(record) for record in records}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Know nothing more than bjobs."""
        return {}

    def kill_command(self, jobs: Sequence[str]) -> list[str]:
        """Give bkill's command line."""
        return ["bkill", *jobs]

    def names(self) -> dict[JobId, str]:
        """Ask bjobs for all live jobs of this user."""
        return {
            self._id(record): record["JOB_NAME"].partition("[")[0] for record in self._jobs("jobid jobindex job_name")
        }

    def site_array_limit(self) -> int:
        """Check that the queue exists; the limit (MAX_JOB_ARRAY_SIZE) cannot be asked for."""
        if "queue" in self.settings:
            self.commands.run(["bqueues", self.settings["queue"]])
        return self.array_limit

    def _jobs(self, fields: str, *arguments: str) -> list[dict[str, Any]]:
        # bjobs fails when it knows none of the jobs; what it knows is in its answer all the same.
        output = self.commands.run(["bjobs", "-json", "-o", fields, *arguments], accept=(0, 255))
        try:
            records = json.loads(output or "{}").get("RECORDS", [])
        except ValueError as error:
            raise ClusterError(f"bjobs -json answered what is not JSON ({error}): {output[:300]}") from None
        return [record for record in records if "ERROR" not in record]

    def _id(self, record: dict[str, Any]) -> JobId:
        base, index = re.split(r"\[", record["JOBID"])[0], int(record.get("JOBINDEX") or 0)
        return self.element(base, index) if index else JobId(base)

    def _unit(self) -> int:
        units = str(self.settings.get("units", _configured_unit())).upper()
        if units not in _UNITS:
            raise InputError(f"units={units!r}: write one of {', '.join(_UNITS)}")
        return _UNITS[units]


def _configured_unit() -> str:
    """Read LSF_UNIT_FOR_LIMITS; without it LSF counts in KB."""
    try:
        text = Path(os.environ.get("LSF_ENVDIR", "/etc"), "lsf.conf").read_text()
    except OSError:
        return "KB"
    match = re.search(r"^\s*LSF_UNIT_FOR_LIMITS\s*=\s*\"?(\w+)", text, re.MULTILINE)
    return match[1] if match else "KB"


def _gpu(accelerator: Accelerator) -> str:
    model = f":gmodel={accelerator.model}" if accelerator.model else ""
    return f"num={accelerator.count}{model}"


def _found(record: dict[str, Any]) -> Found:
    state, cause = STATES.get(record["STAT"], (JobState.UNKNOWN, None))
    status, reason, host = int(record.get("EXIT_CODE") or 0), record.get("EXIT_REASON") or "", record.get("EXEC_HOST")
    if record["STAT"] == "EXIT":
        cause = REASONS.get(reason.partition(":")[0], exit_cause(status) or Cause.LOST)
    words = [record["STAT"], f"exit status {status}" if status else "", reason, f"on {host}" if host else ""]
    return Found(state, cause, ", ".join(word for word in words if word))
