"""HTCondor.

This module follows the manual pages of condor_submit, condor_q, condor_history and condor_rm. The leader and the nodes
share a file system; no files are transferred.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from toilfn.clusters.base import Capabilities, JobId, RunContext
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import Commands, UnavailableError, has_beginning
from toilfn.clusters.common.jobscript import Submission
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import JobSettings
from toilfn.clusters.htcondor.answers import ATTRIBUTES, ad_key, batch_names, event_log, job_ad, json_ads
from toilfn.errors import ClusterError, InputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "AWAY",
    "Bindings",
    "CommandQueue",
    "HTCondorCluster",
    "HTCondorSettings",
    "NoticesError",
    "Queue",
    "chosen_queue",
]


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

    parameters: Mapping[str, str]
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
    numbers_all = True
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
        """Choose how to talk to the schedd, and prepare to run batches; see `Cluster.open`."""
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

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query the queue; see `CommandCluster.query`."""
        try:
            return self._judged(self._queue.queued(bases))
        except NoticesError:
            ended = self._ended_by_log(bases)
            if not ended.keys() >= {job for job in self._live if self.split(job)[0] in bases}:
                raise
            return ended

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Read the event logs, and query the history, which is slow, only for submissions without a log."""
        known = self._ended_by_log(bases)
        silent = [base for base in bases if base not in {self.split(job)[0] for job in known}]
        return known | (self._judged(self._queue.history(silent)) if silent else {})

    def _ended_by_log(self, bases: Sequence[str]) -> dict[JobId, Found]:
        known: dict[JobId, Found] = {}
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

    def _judged(self, ads: Sequence[Mapping[str, Any]]) -> dict[JobId, Found]:
        judged = ((ad_key(ad), job_ad(ad)) for ad in ads)
        return {self.element(*key): found for key, found in judged if key is not None and found is not None}

    def _logged(self, name: str) -> dict[JobId, Found]:
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
    queue = [line for line in lines if line.startswith("queue ")]
    return [line for line in lines if line not in queue] + queue


Ad: TypeAlias = dict[str, Any]


class NoticesError(UnavailableError):
    """The answer is text without any job: either a notice of the site, since HTCondor prints nothing if there are no
    jobs, or a failure."""


class Queue(Protocol):
    """A connection to a schedd. A submission is the id of an HTCondor cluster; a job is such an id, or ``4711.3``."""

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """Submit a description with the user's additional arguments; return the answer, ``4711.0 - 4711.3``."""

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """Return the ads of the jobs of some clusters in the queue, or, without clusters, of all jobs of this user."""

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """Return the ads of jobs that have left the queue."""

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
