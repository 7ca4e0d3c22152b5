"""HTCondor.

Follows the manual pages of condor_submit, condor_q, condor_history and condor_rm, and the manual's
"Job ClassAd Attributes". Leader and nodes share a file system; nothing is transferred.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
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

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["HTCondorCluster", "HTCondorSettings"]

STATES: dict[int, tuple[JobState, Cause | None]] = {
    1: (JobState.QUEUED, None),  # idle
    2: (JobState.RUNNING, None),
    3: (JobState.ENDED, Cause.LOST),  # removed
    4: (JobState.ENDED, None),  # completed
    5: (JobState.ENDED, Cause.ERROR),  # held
    6: (JobState.RUNNING, None),  # transferring output
    7: (JobState.RUNNING, None),  # suspended
}
"""HTCondor's JobStatus and ours."""

HELD: dict[int, Cause] = {
    34: Cause.MEMORY,  # over its memory
    46: Cause.WALLTIME,  # over allowed_job_duration
    47: Cause.WALLTIME,  # over allowed_execute_duration
    13: Cause.LOST,  # could not be started, and the like: another node may do
    6: Cause.LOST,
}
"""HTCondor's HoldReasonCode and our cause; others are errors."""

_ATTRIBUTES = (
    "ClusterId ProcId JobStatus JobBatchName ExitCode ExitBySignal ExitSignal HoldReasonCode HoldReason RemoveReason "
    "RemoteHost LastRemoteHost"
).replace(" ", ",")


class HTCondorSettings(JobSettings, total=False):
    """What `HTCondorCluster` can be told besides `JobSettings`.

    Parameters
    ----------
    parameters : mapping
        Further lines of the submit description, such as ``{"requirements": "TARGET.has_sse4_2 == true"}``.
        By default those of ``TOILFN_HTCONDOR_PARAMS``: ``name = value`` pairs with semicolons between them.
    """

    parameters: Mapping[str, str]


class HTCondorCluster(CommandCluster):
    """Run tasks as HTCondor jobs; see `JobSettings` and `HTCondorSettings` for what it can be told.

    `job_extra_directives` are lines of the submit description.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = HTCondorSettings
    name = "htcondor"
    prefix = "# condor:"
    index = "TOILFN_INDEX"
    array_limit = 10000
    numbers_all = True
    away = "Failed to connect|Can't find address|Couldn't contact|communication error|Failed to fetch ads|timed out"

    def __init__(self, **settings: Unpack[HTCondorSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Give the submit description's lines that follow from the shape."""
        resources, given = submission.resources, self.settings
        walltime = self.walltime(resources)
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        return [
            f"batch_name = {submission.name}",
            "universe = vanilla",
            f"request_cpus = {math.ceil(resources.cores)}",
            f"request_memory = {max(1, math.ceil(resources.memory / 2**20))}",
            f"request_disk = {max(1, math.ceil(resources.disk / 2**10))}",
            *([f"request_gpus = {gpus}"] if gpus else []),
            *([f"allowed_execute_duration = {math.ceil(walltime)}"] if walltime is not None else []),
            *([f"accounting_group = {given['account']}"] if "account" in given else []),
            f'environment = "{self.index}=$(Process)"',
            "getenv = true",
            "should_transfer_files = NO",
            "transfer_executable = false",
            "max_retries = 0",
            *(f"{name} = {value}" for name, value in given.get("parameters", _variable()).items()),
            f"queue {len(submission.batches)}",
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give condor_submit's command line; it reads the description from its input."""
        return ["condor_submit", "-terse", *self.submit_args()]

    def submit_input(self, script: Path, text: str) -> str:
        """Take the submit description out of the script."""
        lines = [line.removeprefix(self.prefix).strip() for line in text.splitlines() if line.startswith(self.prefix)]
        place = str(script).replace("$", "$(DOLLAR)")
        return "\n".join([f"executable = {place}", f"log = {place}.events", *_queue_last(lines)]) + "\n"

    def submitted(self, output: str) -> str:
        """Read ``4711.0 - 4711.19``."""
        match = re.match(r"(\d+)\.\d+", output.strip())
        if match is None:
            raise ClusterError(f"condor_submit -terse answered {output!r}, which has no job id")
        return match[1]

    def element(self, base: str, number: int) -> JobId:
        """Give ``4711.3``."""
        return JobId(f"{base}.{number}")

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Read ``4711.3``."""
        base, _, number = job.partition(".")
        return base, int(number) if number else None

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask condor_q."""
        return {self._id(ad): _found(ad) for ad in self._ads("condor_q", *bases)}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask condor_history."""
        return {self._id(ad): _found(ad) for ad in self._ads("condor_history", *bases)}

    def kill_command(self, jobs: Sequence[str]) -> list[str]:
        """Give condor_rm's command line."""
        return ["condor_rm", *jobs]

    def names(self) -> dict[JobId, str]:
        """Ask condor_q for all live jobs of this user."""
        ads = self._ads("condor_q")
        return {self._id(ad): str(ad.get("JobBatchName", "")) for ad in ads if ad["JobStatus"] not in (3, 4)}

    def _id(self, ad: Mapping[str, Any]) -> JobId:
        return self.element(str(ad["ClusterId"]), ad["ProcId"])

    def _ads(self, command: str, *bases: str) -> list[dict[str, Any]]:
        output = self.commands.run([command, *bases, "-json", "-attributes", _ATTRIBUTES])
        try:
            ads: list[dict[str, Any]] = json.loads(output or "[]")
        except ValueError as error:
            raise ClusterError(f"{command} -json answered what is not JSON ({error}): {output[:300]}") from None
        return ads


def _variable() -> dict[str, str]:
    """Read ``TOILFN_HTCONDOR_PARAMS``."""
    pairs = [pair for pair in os.environ.get("TOILFN_HTCONDOR_PARAMS", "").split(";") if pair.strip()]
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"TOILFN_HTCONDOR_PARAMS: {wrong[0]!r} is not like 'name = value'")
    return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in pairs)}


def _queue_last(lines: list[str]) -> list[str]:
    queue = [line for line in lines if line.startswith("queue ")]
    return [line for line in lines if line not in queue] + queue


def _found(ad: Mapping[str, Any]) -> Found:
    status = ad["JobStatus"]
    state, cause = STATES.get(status, (JobState.UNKNOWN, None))
    if status == 5:
        return Found(state, HELD.get(ad.get("HoldReasonCode", 0), Cause.ERROR), f"held: {ad.get('HoldReason')}", True)
    if status == 3:
        return Found(state, cause, f"removed: {ad.get('RemoveReason')}")
    if status == 4:
        signal = ad.get("ExitSignal", 0) if ad.get("ExitBySignal") else 0
        code = 0 if signal else ad.get("ExitCode", 0)
        words = f"signal {signal}" if signal else f"exit status {code}"
        return Found(state, exit_cause(code, signal), f"{words}, on {ad.get('LastRemoteHost', 'unknown host')}")
    return Found(state, cause, f"JobStatus {status}")
