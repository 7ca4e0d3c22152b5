"""IBM Spectrum LSF.

This module follows the reference pages of bsub, bjobs, bhist, bkill, bqueues and bparams of LSF 10.1, whose bjobs
supports ``-json``. bjobs shows ended jobs for CLEAN_PERIOD, by default an hour; after that, bhist knows them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toilfn.clusters.base import Capabilities, JobId
from toilfn.clusters.common.commandline import CommandCluster
from toilfn.clusters.common.commands import AwayError
from toilfn.clusters.common.jobscript import Submission
from toilfn.clusters.common.polled import Found
from toilfn.clusters.common.settings import JobSettings
from toilfn.clusters.lsf.answers import history, job_key, json_records, queue_record
from toilfn.clusters.lsf.site import memory_unit, read_parameters
from toilfn.errors import ClusterError
from toilfn.resources import Accelerator

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LSFCluster", "LSFSettings"]

_log = logging.getLogger(__name__)


class LSFSettings(JobSettings, total=False):
    """Settings of `LSFCluster` besides those of `JobSettings`.

    Parameters
    ----------
    units : str
        Unit of memory: ``KB``, ``MB``, ``GB`` or ``TB``. Default: LSF_UNIT_FOR_LIMITS in lsf.conf.
    memory_per_core : bool
        Whether memory is reserved per core. Default: RESOURCE_RESERVE_PER_TASK (or _PER_SLOT) in lsb.params.
    """

    units: str
    memory_per_core: bool


class LSFCluster(CommandCluster):
    """Runs tasks as LSF jobs; see `JobSettings` and `LSFSettings` for the settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True, memory_limits=True, walltime_limits=True, accelerators=True
    )
    settings_type: ClassVar[type] = LSFSettings
    name = "lsf"
    prefix = "#BSUB"
    index = "LSB_JOBINDEX"
    answer = r"Job <(\d+)> is submitted"
    marks = ("[", "]")
    kill_command = ("bkill",)
    needed = ("bsub", "bjobs", "bkill")
    absent = r"Job <\d+(\[\d+\])?> is not found|No (matching |unfinished |running |pending |suspended )?job(s)? found"
    cleared = (
        r"BSUB_.*|LSB_(?!(CONFDIR|SHAREDIR)$).*|LSF_(?!(\w+DIR|TOP|VERSION|SERVER_HOSTS|MASTER_LIST)$).*|TOILFN_JOB"
    )
    options = "BSUB_.*|LSB_(DEFAULT|SUB_|BSUB_).*"
    room = 0.0  # LSF rounds up to minutes
    first = 1
    array_limit = 1000
    away = (
        "LSF is down|Please wait|not respond|Cannot connect to LSF|still trying|communication time ?out"
        "|authentication (failed|error)|Failed in (an LSF library call|sending|receiving)|Unable to contact"
        "|(master|management) (LIM|host) (is )?(unknown|down)|Connection (refused|reset|timed out)|Bad XDR"
        "|Batch library internal error|mbatchd (is )?(too )?busy|Protocol error|Resource temporarily unavailable"
    )

    def __init__(self, **settings: Unpack[LSFSettings]) -> None:
        self._site = read_parameters("")
        super().__init__(**settings)  # type: ignore[misc]  # mypy cannot pass on a wider TypedDict

    def directives(self, submission: Submission) -> list[str]:
        """Return the bsub options for a shape."""
        resources, given = submission.resources, self.settings
        cores = math.ceil(resources.cores)
        unit = memory_unit(given.get("units"))
        share = cores if given.get("memory_per_core", self._site.is_per_core) else 1
        walltime = self.walltime(resources)
        elements = f"[1-{len(submission.batches)}]" if submission.is_array else ""
        return [
            f'-J "{submission.name}{elements}"',
            "-rn",  # the leader decides what runs again
            "-o /dev/null",
            f"-n {cores}",
            '-R "span[hosts=1]"',
            f'-R "rusage[mem={max(1, math.ceil(resources.memory / share / unit))}]"',
            f"-M {max(1, math.ceil(resources.memory / unit))}",
            *([f"-W {math.ceil(walltime / 60)}"] if walltime is not None else []),
            *(f'-gpu "{_gpu(accelerator)}"' for accelerator in resources.accelerators),
            *self.setting_directives(queue="-q {}", account="-P {}"),
        ]

    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the bsub command line; bsub reads the script from standard input."""
        return ["bsub", *self.submit_args()]

    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query jobs with bjobs, which also reports those that ended recently."""
        records = self._jobs("jobid jobindex stat exit_code exit_reason exec_host", "-a", *bases)
        found = {job: queue_record(record) for job, record in records.items()}
        return {job: verdict for job, verdict in found.items() if verdict is not None}

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Query all event logs with bhist, which fails if it knows none of the jobs."""
        output = self.commands.ask(["bhist", "-l", "-UF", "-n", "0", *bases])
        return {self._id(*key): found for key, found in history(output).items() if key[0] in bases}

    def arrived(self, name: str) -> str:
        """Search for a submission by its name with bjobs, even if its jobs ended recently."""
        return next((self.split(job)[0] for job, called in self._named("-a").items() if called == name), "")

    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user, from bjobs."""
        return self._named()

    def _named(self, *options: str) -> dict[JobId, str]:
        records = self._jobs("jobid jobindex job_name", *options).items()
        return {job: str(record.get("JOB_NAME") or "").partition("[")[0] for job, record in records}

    def site_array_limit(self) -> int:
        """Read the site's parameters, check that the queue exists, and return the limit."""
        if "queue" in self.settings:
            self._check_queue(self.settings["queue"])
        self._site = read_parameters(self.commands.consult(["bparams", "-a"]))
        return self._site.array_limit

    def _check_queue(self, name: str) -> None:
        """Refuse a queue that does not exist. If bqueues fails for another reason, bsub will decide."""
        try:
            self.commands.run(["bqueues", name])
        except AwayError:
            raise
        except ClusterError as error:
            if "No such queue" in str(error):
                raise
            _log.info("%s", error)

    def _jobs(self, fields: str, *arguments: str) -> dict[JobId, Mapping[str, Any]]:
        answer = self.commands.answer(["bjobs", "-json", "-o", fields, *arguments])
        records = json_records(answer.text, answer.is_absent)
        if records is None:
            raise AwayError(f"bjobs -json returned invalid JSON: {answer.text[:300]!r}")
        keys = ((job_key(record), record) for record in records)
        return {self._id(*key): record for key, record in keys if key is not None}

    def _id(self, base: str, index: int) -> JobId:
        return self.element(base, index) if index else JobId(base)


def _gpu(accelerator: Accelerator) -> str:
    model = f":gmodel={accelerator.model}" if accelerator.model else ""
    return f"num={accelerator.count}{model}"
