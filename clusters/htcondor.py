"""HTCondor: the cluster, two connections to a schedd, and parsers for ClassAds and event logs.

This module follows the manual pages of condor_submit, condor_q, condor_history and condor_rm. The leader and the
nodes share a file system; no files are transferred. The parsers skip text that is neither a job's ClassAd nor an event,
and never raise an exception.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from toilfn.clusters.base import (
    Capabilities,
    JobId,
    JobState,
    RunContext,
    Verdict,
    ended,
    exceeded,
    exit_cause,
    queued,
    running,
    unknown,
)
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import Commands, UnavailableError, has_beginning, json_values
from toilfn.clusters.common.polled import JobReport
from toilfn.clusters.common.settings import JobSettings, Submission
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ATTRIBUTES", "AWAY", "EVENTS", "HOLDS", "STATES", "Bindings", "CommandQueue", "HTCondorCluster",
    "HTCondorSettings", "NoticesError", "Queue", "ad_key", "batch_names", "chosen_queue", "event_log", "hold",
    "job_ad", "json_ads",
]  # fmt: skip

AWAY = (
    "Failed to (connect|fetch ads|commit|query|start)|Can't (find address|connect)|Couldn't contact|communication error"
    "|timed out|[Uu]nable to (locate|connect)|SECMAN|AUTHENTICATE|Connection (refused|reset)|QMGMT|not responding"
)
"""A regular expression for the messages of a temporarily unavailable schedd."""


class HTCondorSettings(JobSettings, total=False):
    """Settings of `HTCondorCluster` besides those of `JobSettings`.

    Parameters
    ----------
    parameters : mapping
        Additional lines of the submit description, such as ``{"requirements": "TARGET.has_sse4_2 == true"}``. Default:
        ``TOILFN_HTCONDOR_PARAMS``, which has ``name = value`` pairs separated by semicolons.
    bindings : bool
        Whether to use HTCondor's Python bindings instead of its commands. Default: true if they are installed
        (``htcondor2``, from the package ``htcondor``) and find a schedd.
    """

    parameters: Mapping[str, Any]
    bindings: bool


class HTCondorCluster(CommandCluster):
    """Runs tasks as HTCondor jobs; see `JobSettings` and `HTCondorSettings` for the settings.

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
    numbers_single_jobs = True
    away = AWAY
    no_accounting = "No history file is defined|HISTORY.* (is )?not defined"
    answer = r"^\s*(\d+)\.\d+ - \1\.\d+\s*$"
    cleared = (
        r"_CONDOR_(SCRATCH_DIR|SLOT.*|JOB_.*|MACHINE_AD|CHIRP_.*|WRAPPER_.*|ANCESTOR_.*|BIN|PROCNO|NPROCS|REMOTE_.*"
        r"|ASSIGNEDGPUS|AssignedGPUs|CREDS|EXECUTE|APPEND_.*|CONDOR_Q_.*|TOOL_.*|SUBMIT_.*|DEFAULT_.*)|TOILFN_(JOB|INDEX)"
    )
    options = "_CONDOR_(APPEND|SUBMIT|DEFAULT|JOB_DEFAULT)_.*"
    files = (".sh", ".sh.events")

    def __init__(self, **settings: Unpack[HTCondorSettings]) -> None:
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict
        self._queue: Queue = CommandQueue(self.commands)

    def open(self, context: RunContext) -> None:
        """Choose between the bindings and the commands, and prepare to run batches; see `Cluster.open`."""
        self._queue = chosen_queue(self.commands, self.settings.get("bindings"))
        if isinstance(self._queue, CommandQueue):
            self.commands.expect(("condor_submit", "condor_q", "condor_rm"))
        super().open(context)

    def directives(self, submission: Submission) -> list[str]:
        """Return the lines of the submit description for a shape."""
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
            *self.setting_directives(account="accounting_group = {}"),
            f'environment = "{self.index}=$(Process)"',
            "getenv = true",
            "should_transfer_files = NO",
            "transfer_executable = false",
            "max_retries = 0",
            *(f"{name} = {value}" for name, value in given.get("parameters", _variable()).items()),
            f"queue {len(submission.batches)}",
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the condor_submit command line; condor_submit reads the description from standard input."""
        return ["condor_submit", "-terse", *self.submit_args()]

    def submit_input(self, script: Path, text: str) -> str:
        """Extract the submit description from the script."""
        lines = [line.removeprefix(self.prefix).strip() for line in text.splitlines() if line.startswith(self.prefix)]
        place = str(script).replace("$", "$(DOLLAR)")
        return "\n".join([f"executable = {place}", f"log = {place}.events", *_queue_last(lines)]) + "\n"

    def send(self, submission: Submission, script: Path, text: str) -> str:
        """Submit a script; see `CommandCluster.send`."""
        output = self._queue.submit(self.submit_input(script, text), self.submit_args())
        return self.submitted(output) or self.identified(submission.name, output)

    def arrived(self, name: str) -> str:
        """Search for a submission by its name in the queue, and, if it has left the queue, in its event log."""
        found = super().arrived(name)
        if not found and (logged := re.search(r"^\d{3} \(0*(\d+)\.", self._log(name), re.MULTILINE)):
            return logged[1]
        return found

    def remove(self, jobs: Sequence[str]) -> None:
        """End jobs; see `CommandCluster.remove`."""
        self._queue.remove(jobs)

    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query the queue; see `CommandCluster.query`.

        If the answer is text without jobs, it may be a notice of the site in place of an empty queue. It counts as such
        only if the event logs say that all live jobs have ended.
        """
        try:
            return self._judged(self._queue.queued(bases))
        except NoticesError:
            ended = self._ended_by_log(bases)
            if not ended.keys() >= {job for job in self._live if self.split(job)[0] in bases}:
                raise
            return ended

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Read the event logs. Query the history, which is slow, only for submissions without ended jobs in a log."""
        known = self._ended_by_log(bases)
        silent = [base for base in bases if base not in {self.split(job)[0] for job in known}]
        return known | (self._judged(self._queue.history(silent)) if silent else {})

    def _ended_by_log(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        known: dict[JobId, JobReport] = {}
        names = self.submission_names()
        for base in bases:
            known |= self._logged(names.get(base, ""))
        return known

    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user."""
        try:
            ads = self._queue.queued(())
        except NoticesError:
            if any(map(self._is_unfinished, self.log_directory.glob("*.sh.events"))):
                raise
            return {}
        return {self.element(*key): name for key, name in batch_names(ads).items()}

    def _is_unfinished(self, log: Path) -> bool:
        """Return whether an event log contains jobs that have not ended."""
        name = log.name.removesuffix(".sh.events")
        jobs = re.findall(r"^\d{3} \(0*(\d{1,9})\.(\d{1,9})\.", self._log(name), re.MULTILINE)
        return not self._logged(name).keys() >= {self.element(cluster, int(process)) for cluster, process in jobs}

    def _judged(self, ads: Sequence[Mapping[str, Any]]) -> dict[JobId, JobReport]:
        judged = ((ad_key(ad), job_ad(ad)) for ad in ads)
        return {self.element(*key): found for key, found in judged if key is not None and found is not None}

    def _logged(self, name: str) -> dict[JobId, JobReport]:
        return {self.element(*job): found for job, found in event_log(self._log(name)).items()}

    def _log(self, name: str) -> str:
        try:
            return (self.log_directory / f"{name}.sh.events").read_text(errors="replace")
        except OSError:
            return ""


def _variable() -> dict[str, str]:
    """Parse ``TOILFN_HTCONDOR_PARAMS``."""
    pairs = [pair for pair in os.environ.get("TOILFN_HTCONDOR_PARAMS", "").split(";") if pair.strip()]
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"TOILFN_HTCONDOR_PARAMS: {wrong[0]!r} does not have the form 'name = value'")
    return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in pairs)}


def _queue_last(lines: list[str]) -> list[str]:
    """Move the line ``queue N`` to the end, since lines after it, such as the user's directives, have no effect."""
    queue = [line for line in lines if line.startswith("queue ")]
    return [line for line in lines if line not in queue] + queue


Ad: TypeAlias = dict[str, Any]


class NoticesError(UnavailableError):
    """The answer contains text, but no job.

    HTCondor prints nothing if there are no jobs. So the text is either a notice of the site or a failure.
    """


class Queue(Protocol):
    """A connection to a schedd.

    HTCondor calls the jobs of one submission a cluster. Methods take clusters by their ids, such as ``4711``, and jobs
    as ``4711.3``.
    """

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """Submit a description with the user's additional arguments; return the answer, such as ``4711.0 - 4711.3``."""

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """Return the ClassAds of the queued jobs of some clusters, or, if `clusters` is empty, of this user."""

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """Return the ClassAds of those jobs of some clusters that have left the queue."""

    def remove(self, jobs: Sequence[str]) -> None:
        """End jobs or whole clusters."""


class CommandQueue:
    """A connection through HTCondor's commands."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """Run condor_submit; see `Queue.submit`."""
        return self._commands.run(["condor_submit", "-terse", *arguments], description)

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """Run condor_q; see `Queue.queued`."""
        return self._ads("condor_q", clusters)

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """Run condor_history; see `Queue.history`."""
        return self._ads("condor_history", clusters)

    def remove(self, jobs: Sequence[str]) -> None:
        """Run condor_rm; see `Queue.remove`."""
        self._commands.run(["condor_rm", *jobs])

    def _ads(self, command: str, clusters: Sequence[str]) -> list[Ad]:
        output = self._commands.ask([command, *clusters, "-json", "-attributes", ",".join(ATTRIBUTES)])
        ads = json_ads(output)
        if ads is None:
            kind = UnavailableError if has_beginning(output) else NoticesError
            raise kind(f"{command} -json returned invalid JSON: {output[:300]!r}")
        return ads


class Bindings:
    """A connection through version 2 of HTCondor's Python bindings, which start no process for each query.

    Raises
    ------
    ImportError
        If the module ``htcondor2`` is not installed.
    """

    def __init__(self) -> None:
        import htcondor2

        self._module = htcondor2

    def finds_schedd(self) -> bool:
        """Return whether HTCondor's configuration on this machine names a schedd."""
        try:
            self._module.Schedd()
        except self._module.HTCondorException:
            return False
        return True

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """See `Queue.submit`. Arguments must be ``name=value``, as for ``condor_submit -append``."""
        wrong = [word for word in arguments if "=" not in word or word.startswith("-")]
        if wrong:
            raise ClusterError(
                f"submit_args: the Python bindings do not accept {wrong[0]!r}",
                hint="set bindings=False, or use name=value",
            )
        lines = "".join(f"{word}\n" for word in arguments)
        result = self._call(lambda: self._module.Schedd().submit(self._module.Submit(lines + description)))
        return f"{result.cluster()}.0 - {result.cluster()}.0\n"

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """See `Queue.queued`."""
        options = self._module.QueryOpt.Default if clusters else self._module.QueryOpt.DefaultMyJobsOnly
        return self._ads(lambda: self._module.Schedd().query(_any(clusters), list(ATTRIBUTES), opts=options))

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """See `Queue.history`."""
        return self._ads(lambda: self._module.Schedd().history(_any(clusters), list(ATTRIBUTES)))

    def remove(self, jobs: Sequence[str]) -> None:
        """See `Queue.remove`."""
        constraint = " || ".join(map(_is, jobs))
        self._call(lambda: self._module.Schedd().act(self._module.JobAction.Remove, constraint))

    def _ads(self, ask: Any) -> list[Ad]:
        try:
            found = list(ask())
        except self._module.HTCondorException as error:  # a failed query says nothing about jobs
            raise UnavailableError(f"htcondor: {error}") from error
        return [{name: ad[name] for name in ATTRIBUTES if name in ad} for ad in found]

    def _call(self, ask: Any) -> Any:
        try:
            return ask()
        except self._module.HTCondorException as error:
            kind = UnavailableError if re.search(AWAY, str(error)) else ClusterError
            raise kind(f"htcondor: {error}") from error


def chosen_queue(commands: Commands, wanted: bool | None) -> Queue:
    """Return the bindings if they are wanted, or if they are installed and find a schedd; else the commands.

    Raises
    ------
    ClusterError
        If the bindings are wanted and not installed.
    """
    if wanted is False:
        return CommandQueue(commands)
    try:
        bindings = Bindings()
    except ImportError as error:
        if wanted:
            raise ClusterError(
                f"bindings=True needs optional packages: {error}", hint="pip install 'toilfn[htcondor]'"
            ) from error
        return CommandQueue(commands)
    return bindings if wanted or bindings.finds_schedd() else CommandQueue(commands)


def _any(clusters: Sequence[str]) -> str:
    return " || ".join(map(_is, clusters)) or "true"


def _is(job: str) -> str:
    """Return a ClassAd expression that matches this job, or all jobs of this cluster."""
    cluster, _, process = job.partition(".")
    return f"(ClusterId == {int(cluster)} && ProcId == {int(process)})" if process else f"ClusterId == {int(cluster)}"


ATTRIBUTES = (
    "ClusterId", "ProcId", "JobStatus", "JobBatchName", "ExitCode", "ExitBySignal", "ExitSignal", "HoldReasonCode",
    "HoldReasonSubCode", "HoldReason", "RemoveReason", "RemoteHost", "LastRemoteHost",
)  # fmt: skip
"""The attributes to request for each job."""

_STATUS = 'HTCondor manual, "Job ClassAd Attributes", JobStatus'
_HOLD = 'HTCondor manual, "Hold Reason Codes"'
_OLD_HOLD = "HTCondor, src/condor_includes/condor_holdcodes.h"
_EVENTS = 'HTCondor manual, "Job Event Log Codes"'

STATES: dict[int, Verdict] = {
    0: unknown("not yet a complete job", _STATUS),
    1: queued("idle", _STATUS),
    2: running("running", _STATUS),
    3: ended(Cause.LOST, "removed", _STATUS),
    4: ended(None, "completed", _STATUS),
    5: queued("held", _STATUS),
    6: running("transferring output", _STATUS),
    7: running("suspended", _STATUS),
}
"""The values of JobStatus. For 4 (completed), the exit code decides; for 5 (held), the hold reason code."""

HOLDS: dict[tuple[int, int | None], Verdict] = {
    (1, None): queued("held by condor_hold, until a user releases it", _HOLD),
    (2, None): ended(Cause.LOST, "held by an error of Globus", _OLD_HOLD),
    (3, None): ended(Cause.ERROR, "held by the policy in its submit description", _HOLD),
    (4, None): ended(Cause.LOST, "its credentials are not valid", _HOLD),
    (5, None): ended(Cause.ERROR, "the policy in its submit description is undefined", _HOLD),
    (6, None): ended(Cause.LOST, "the node could not start it", _HOLD),
    (7, None): ended(Cause.LOST, "the node could not open its output", _HOLD),
    (8, None): ended(Cause.LOST, "the node could not open its input", _HOLD),
    (9, None): ended(Cause.LOST, "its output stream could not be opened", _HOLD),
    (10, None): ended(Cause.LOST, "its input stream could not be opened", _HOLD),
    (11, None): ended(Cause.LOST, "an error of the file transfer protocol", _HOLD),
    (12, None): ended(Cause.LOST, "its output could not be transferred", _HOLD),
    (13, None): ended(Cause.LOST, "its input could not be transferred", _HOLD),
    (14, None): ended(Cause.LOST, "the node cannot access its working directory", _HOLD),
    (15, None): queued("submitted on hold, until a user releases it", _HOLD),
    (16, None): queued("its input is being spooled", _HOLD),
    (17, None): ended(Cause.LOST, "its shadow has an incompatible version", _HOLD),
    (18, None): ended(Cause.LOST, "an error of the file transfer protocol", _HOLD),
    (19, None): ended(Cause.LOST, "the node's hook that prepares jobs failed", _HOLD),
    (20, None): ended(Cause.LOST, "it missed its start time", _HOLD),
    (21, None): ended(Cause.LOST, "held by the policy of the node", _HOLD),
    (21, 102): ended(Cause.MEMORY, "held by the policy of the node, exceeding its memory", _HOLD),
    (21, 104): ended(Cause.ERROR, "held by the policy of the node, exceeding its disk space", _HOLD),
    (22, None): ended(Cause.LOST, "its event log could not be opened", _HOLD),
    (23, None): ended(Cause.LOST, "its user's account is not available", _HOLD),
    (24, None): ended(Cause.LOST, "no shadow daemon suits the job", _HOLD),
    (25, None): ended(Cause.ERROR, "its cron times are not valid", _HOLD),
    (26, None): ended(Cause.ERROR, "held by the policy of the site", _HOLD),
    (26, 102): ended(Cause.MEMORY, "held by the policy of the site, exceeding its memory", _HOLD),
    (26, 104): ended(Cause.ERROR, "held by the policy of the site, exceeding its disk space", _HOLD),
    (27, None): ended(Cause.LOST, "the policy of the site is undefined", _HOLD),
    (28, None): ended(Cause.LOST, "its folder could not be given to its user", _OLD_HOLD),
    (29, None): ended(Cause.LOST, "its folder could not be given to its user", _OLD_HOLD),
    (30, None): ended(Cause.LOST, "its folder could not be taken back from its user", _OLD_HOLD),
    (31, None): ended(Cause.LOST, "its folder could not be taken back from its user", _OLD_HOLD),
    (32, None): ended(Cause.ERROR, "its input exceeds the transfer limit", _HOLD),
    (33, None): ended(Cause.ERROR, "its output exceeds the transfer limit", _HOLD),
    (34, None): ended(Cause.MEMORY, "exceeding its request", _HOLD),
    (34, 102): ended(Cause.MEMORY, "exceeding its memory", _HOLD),
    (34, 104): ended(Cause.ERROR, "exceeding its disk space", _HOLD),
    (35, None): ended(Cause.ERROR, "its Docker image is not valid", _HOLD),
    (36, None): ended(Cause.ERROR, "it failed to write a checkpoint", _HOLD),
    (37, None): ended(Cause.ERROR, "an error in its settings for EC2", _HOLD),
    (38, None): ended(Cause.LOST, "an internal error with EC2", _HOLD),
    (39, None): ended(Cause.LOST, "an error in the site's settings for EC2", _HOLD),
    (40, None): ended(Cause.LOST, "EC2 was unreachable", _HOLD),
    (41, None): ended(Cause.LOST, "an error of the EC2 server", _HOLD),
    (42, None): ended(Cause.LOST, "its EC2 instance may be lost", _HOLD),
    (43, None): ended(Cause.ERROR, "the script before the job failed", _HOLD),
    (44, None): ended(Cause.ERROR, "the script after the job failed", _HOLD),
    (45, None): ended(Cause.LOST, "the node's test of Singularity failed", _HOLD),
    (46, None): ended(Cause.WALLTIME, "exceeding its allowed duration", _HOLD),
    (47, None): ended(Cause.WALLTIME, "exceeding its allowed execution time", _HOLD),
    (48, None): ended(Cause.LOST, "the shadow's hook that prepares jobs failed", _HOLD),
}
"""HoldReasonCode and HoldReasonSubCode (None: any other). A job whose hold is permanent is removed from the queue."""

_SPOOLING = 16
_RESOURCES = 34
"""The code of holds because a job exceeded its request; releases before 9.10 have no subcode."""

_POLICIES = (3, 21, 26)
"""Codes of holds by the expression of a policy, whose reason may name the limit that was exceeded."""

EVENTS: dict[str, Verdict] = {
    "000": queued("submitted", _EVENTS),
    "001": running("executing", _EVENTS),
    "002": unknown("error in the executable", _EVENTS),
    "003": unknown("checkpoint written", _EVENTS),
    "004": queued("evicted", _EVENTS),
    "005": ended(Cause.LOST, "terminated", _EVENTS),
    "006": unknown("size of the image", _EVENTS),
    "007": queued("its shadow failed", _EVENTS),
    "008": unknown("generic", _EVENTS),
    "009": ended(Cause.LOST, "aborted", _EVENTS),
    "010": running("suspended", _EVENTS),
    "011": running("unsuspended", _EVENTS),
    "012": queued("held", _EVENTS),
    "013": queued("released", _EVENTS),
    "014": unknown("a node of a parallel job is running", _EVENTS),
    "015": unknown("a node of a parallel job terminated", _EVENTS),
    "016": unknown("a script after the job terminated", _EVENTS),
    "021": unknown("error of the node", _EVENTS),
    "022": unknown("its node is unreachable", _EVENTS),
    "023": running("its node was reached again", _EVENTS),
    "024": queued("its node could not be reached again", _EVENTS),
    "025": unknown("a resource of a grid is up", _EVENTS),
    "026": unknown("a resource of a grid is down", _EVENTS),
    "027": unknown("submitted to a grid", _EVENTS),
    "028": unknown("information on the ClassAd", _EVENTS),
    "029": unknown("its state on a grid is unknown", _EVENTS),
    "030": unknown("its state on a grid is known again", _EVENTS),
    "031": unknown("input of a grid job is transferred", _EVENTS),
    "032": unknown("output of a grid job is transferred", _EVENTS),
    "033": unknown("an attribute changed", _EVENTS),
    "034": unknown("skipped by a script before the job, in a DAG", _EVENTS),
    "035": unknown("cluster submitted", _EVENTS),
    "036": unknown("cluster removed", _EVENTS),
    "037": unknown("factory of jobs paused", _EVENTS),
    "038": unknown("factory of jobs resumed", _EVENTS),
    "039": unknown("nothing", _EVENTS),
    "040": unknown("files are transferred", _EVENTS),
    "041": unknown("space reserved", _EVENTS),
    "042": unknown("space released", _EVENTS),
    "043": unknown("file complete", _EVENTS),
    "044": unknown("file used", _EVENTS),
    "045": unknown("file removed", _EVENTS),
    "046": ended(Cause.LOST, "skipped as a dataflow job", _EVENTS),
}
"""The events of a job's log. Those with an unknown state do not change the job's state. For 005 (terminated), the
return value decides."""


def json_ads(text: str) -> list[dict[str, Any]] | None:
    """Parse the output of ``condor_q -json``, which is empty if there are no jobs; None if it is invalid JSON."""
    if not text.strip():
        return []
    for ads in json_values(text):
        if isinstance(ads, list) and (not ads or any(isinstance(ad, dict) for ad in ads)):
            return [ad for ad in ads if isinstance(ad, dict)]
    return None


def ad_key(ad: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the cluster and the process of a job from its ClassAd."""
    cluster, process = _whole(ad, "ClusterId"), _whole(ad, "ProcId")
    return None if cluster is None or process is None else (str(cluster), process)


def job_ad(ad: Mapping[str, Any]) -> JobReport | None:
    """Interpret a job's ClassAd; None if it has no status."""
    status = _whole(ad, "JobStatus")
    if status is None:
        return None
    if status == 4:
        return _completed(ad)
    code, reason = _whole(ad, "HoldReasonCode"), _words(ad, "HoldReason")
    if status == 5:
        return hold(code, _whole(ad, "HoldReasonSubCode"), reason)
    if status == 3:
        why = _words(ad, "RemoveReason")
        removed = JobReport(JobState.ENDED, _removal(why), f"removed: {why or 'no reason given'}")
        return _removed(removed, None if code is None else hold(code, _whole(ad, "HoldReasonSubCode"), reason))
    known = STATES.get(status)
    return JobReport(known.state if known else JobState.UNKNOWN, None, f"JobStatus {status}")


def hold(code: int | None, subcode: int | None, reason: str) -> JobReport:
    """Interpret a hold. A job that a user has held waits to be released; one that was held for a failure never runs."""
    said = f"held: {reason or 'no reason given'}"
    if not code:
        return JobReport(JobState.QUEUED, None, said, is_held=True)
    precise = None if subcode is None else HOLDS.get((code, subcode))
    row = precise or HOLDS.get((code, None)) or ended(Cause.LOST, "held for an unknown reason", _HOLD)
    cause = row.cause
    if code in _POLICIES and precise is None:
        cause = exceeded(reason) or cause
    elif code == _RESOURCES and precise is None and re.search(r"\bdisk\b", reason, re.IGNORECASE):
        cause = Cause.ERROR
    detail = f"{said} (code {code}{'' if subcode is None else f'/{subcode}'}: {row.meaning})"
    is_over = row.state is JobState.ENDED
    return JobReport(row.state, cause, detail, is_stuck=is_over, is_held=not is_over and code != _SPOOLING)


def _removal(reason: str) -> Cause:
    """Return the cause for a removal. If the site's policy removed the job, the reason may name the exceeded limit."""
    by_policy = re.search(r"PERIODIC_?REMOVE|policy|exceed", reason, re.IGNORECASE)
    return (exceeded(reason) if by_policy else None) or Cause.LOST


def _removed(removed: JobReport, held: JobReport | None) -> JobReport:
    """Interpret a removal: if the job was held for a failure, that failure is the reason."""
    if held is None or held.state is not JobState.ENDED:
        return removed
    return JobReport(JobState.ENDED, held.cause, f"{held.detail}; {removed.detail}")


def _completed(ad: Mapping[str, Any]) -> JobReport:
    host = _words(ad, "LastRemoteHost") or "unknown host"
    by_signal = ad.get("ExitBySignal")
    if by_signal is True or str(by_signal).lower() == "true":
        return _ended(None, _whole(ad, "ExitSignal"), host)
    return _ended(_whole(ad, "ExitCode"), None, host)


def _whole(ad: Mapping[str, Any], name: str) -> int | None:
    value = ad.get(name)
    if isinstance(value, (bool, Enum)):  # in the bindings, "undefined" and "error" are also ints
        return None
    match = re.fullmatch(r"-?\d{1,18}", str(value).strip()) if isinstance(value, (int, str)) else None
    return int(match[0]) if match else None


def _words(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return "" if value is None or isinstance(value, Enum) else " ".join(str(value).split())


# Event logs.

_EVENT = re.compile(r"^(\d{3}) \((\d{1,9})\.(\d{1,9})\.\d{1,9}\) (.*?)^\.\.\.\s*?$", re.MULTILINE | re.DOTALL)
_HOST = re.compile(r"executing on host: (\S+)(?:.*SlotName: (\S+))?", re.DOTALL)


@dataclass(slots=True)
class _Job:
    host: str = "unknown host"
    held: JobReport | None = None
    end: JobReport | None = None


def event_log(text: str) -> dict[tuple[str, int], JobReport]:
    """Parse an event log, complete or truncated, and return how jobs ended, by cluster and process."""
    jobs: dict[tuple[str, int], _Job] = {}
    for code, cluster, process, said in _EVENT.findall(text):
        if code in EVENTS:
            _event(jobs.setdefault((str(int(cluster)), int(process)), _Job()), code, said)
    return {key: job.end for key, job in jobs.items() if job.end is not None}


def _event(job: _Job, code: str, said: str) -> None:
    """Update the state of a job by one event."""
    row = EVENTS.get(code)
    if row is None or row.state is JobState.UNKNOWN:
        return
    if row.state is not JobState.ENDED:
        job.held = job.end = None
    if code == "001" and (match := _HOST.search(said)):
        job.host = match[2] or match[1]
    elif code == "012":
        job.held = _held_event(said)
    elif code == "009":
        reason = " ".join(said.split("\n", 1)[-1].split())
        found = JobReport(JobState.ENDED, _removal(reason), f"removed: {reason}")
        job.end = _removed(found, job.held)
    elif code == "005":
        job.end = _terminated(said, job.host)
    elif row.state is JobState.ENDED:
        job.end = JobReport(row.state, row.cause, row.meaning)


def _held_event(said: str) -> JobReport:
    code = re.search(r"^\s*Code (-?\d{1,9}) Subcode (-?\d{1,9})", said, re.MULTILINE)
    reason = [line.strip() for line in said.split("\n")[1:] if line.strip() and not line.strip().startswith("Code ")]
    return hold(int(code[1]) if code else None, int(code[2]) if code else None, " ".join(reason))


def _terminated(said: str, host: str) -> JobReport:
    status = re.search(r"Normal termination \(return value (-?\d{1,9})\)", said)
    signal = re.search(r"Abnormal termination \(signal (\d{1,9})\)", said)
    return _ended(int(status[1]) if status else None, int(signal[1]) if signal and not status else None, host)


def _ended(status: int | None, signal: int | None, host: str) -> JobReport:
    """Interpret the end of a process; without an exit status, it was not successful."""
    if signal:
        return JobReport(JobState.ENDED, exit_cause(0, signal), f"signal {signal}, on {host}")
    if status is None:
        return JobReport(JobState.ENDED, Cause.LOST, f"ended without an exit status, on {host}")
    return JobReport(JobState.ENDED, exit_cause(status), f"exit status {status}, on {host}")


def batch_names(ads: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Return the batch names of jobs that have not ended, by cluster and process."""
    live = [ad for ad in ads if (found := job_ad(ad)) is not None and found.state is not JobState.ENDED]
    return {key: _words(ad, "JobBatchName") for ad in live if (key := ad_key(ad)) is not None}
