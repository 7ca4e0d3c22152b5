"""The base class of clusters that are controlled by commands, such as ``sbatch`` and ``squeue``.

A subclass defines a system's directives and commands, and parses the output of the commands. `CommandCluster` does
everything else: it groups batches, writes scripts, retries, limits requests and decides how a job ended. To add a
system, implement its abstract methods, and test the subclass with `toilfn.clusters.testing`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import secrets
import shlex
import sys
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, Refusal, RunContext, read_output, worker_command
from toilfn.clusters.common.commands import Commands, UnavailableError, portions
from toilfn.clusters.common.polled import COMMAND, JobReport, LiveJob, PolledCluster
from toilfn.clusters.common.settings import (
    JobSettings,
    Submission,
    batch_names,
    filtered,
    is_preemptible,
    job_name,
    render,
    resolved,
    word,
)
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CommandCluster"]

_log = logging.getLogger(__name__)

_TAIL = 1000
"""Number of bytes of a failed job's log to show."""

_LOOK = 30.0
"""Seconds to search for a submission by its name if the command's output does not contain its id."""

_Question: TypeAlias = Callable[[Sequence[str]], dict[JobId, JobReport]]


@dataclass(slots=True)
class _Live(LiveJob):
    name: str = ""
    """The name of the job's submission."""
    log: Path = field(default_factory=Path)


class CommandCluster(PolledCluster[_Live]):
    """A batch system that is controlled by commands; see `JobSettings` for its settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(arrays=True, memory_limits=True, walltime_limits=True)
    settings_type: ClassVar[type] = JobSettings
    name: ClassVar[str]
    """The system's name in the configuration."""
    prefix: ClassVar[str]
    """The text with which the system's directives begin in a script, such as ``#SBATCH``."""
    away: ClassVar[str]
    """A regular expression for the messages of commands while the controller is temporarily unavailable."""
    absent: ClassVar[str] = ""
    """A regular expression for the system's message "no such job"."""
    no_accounting: ClassVar[str] = ""
    """A regular expression for the message that a site has no accounting."""
    needed: ClassVar[tuple[str, ...]] = ()
    """The commands that must be installed."""
    cleared: ClassVar[str] = ""
    """A regular expression for environment variables that are not passed to commands: they would change a command's
    behaviour or output, or they belong to a job in which the leader itself runs."""
    options: ClassVar[str] = ""
    """A regular expression for those of the `cleared` variables with which users set options of their jobs. If one is
    set, a warning says that it is ignored."""
    answer: ClassVar[str]
    """A regular expression for the output of the submit command; its group is the submission's id."""
    final: ClassVar[str] = (
        r"invalid|unknown|unrecogni[sz]ed|illegal|no such|not (?:permitted|allowed|available|a valid|found|on this)"
        r"|cannot be satisfied|can not be satisfied|denied|failed to parse|unable to open|incorrect|nonexist"
        r"|does not exist|more processors requested|requested node|not a member|has no "
        r"|hard limit|(?:exceeds|violates) queue (?:and/or server )?resource limit"
        r"|Max\w+Per(?:Job|Node)(?:Limit)?\b|QOSMin"
    )
    """A regular expression for the messages with which a system refuses a job permanently."""
    full: ClassVar[str] = (
        r"limit|exceed|too many|maximum|MaxJobCount|QOSMax|QOSGrp|Assoc(?:Max|Grp)|only \d+ (?:jobs|tasks)|quota"
    )
    """A regular expression for the messages that the system accepts no more jobs at present. It is tried only if
    `final` does not match, since both can match words such as "exceed"."""
    marks: ClassVar[tuple[str, str]] = (".", "")
    """The text before and after the number in the id of an array element."""
    kill_command: tuple[str, ...]
    """The command that ends jobs; the ids are appended."""
    index: ClassVar[str] = ""
    """The environment variable with the number of an array element."""
    first: ClassVar[int] = 0
    """The number of an array's first element."""
    array_limit: ClassVar[int] = 1000
    """Maximum number of elements of an array, if the site does not define it."""
    log_causes: ClassVar[Mapping[str, Cause]] = {}
    """Regular expressions for messages that the system itself writes into a job's output, and the causes they mean."""
    lost_nodes: ClassVar[str] = ""
    """A regular expression for the detail of a job that was lost with its node."""
    unknown: ClassVar[str] = "neither queue nor accounting knows the job"
    query_limit: ClassVar[int] = 500
    """Maximum number of submissions in one query."""
    kill_limit: ClassVar[int] = 500
    """Maximum number of jobs to end by one command."""
    numbers_single_jobs: ClassVar[bool] = False
    """Whether the id of a job contains a number even if its submission is not an array."""
    walltime_margin: ClassVar[float] = 10.0
    """Seconds added to the walltime of the tasks, for starting Python and writing outcomes."""
    files: ClassVar[tuple[str, ...]] = (".sh",)
    """Suffixes of a submission's files in the log directory, besides the output of its jobs."""

    def __init__(self, **settings: Unpack[JobSettings]) -> None:
        super().__init__(resolved(type(self).__name__, self.name, self.settings_type, settings))
        self.commands = Commands(self.away, self.absent, cleared=self.cleared)
        self.log_directory = Path()
        self._alive: Counter[str] = Counter()
        self._array_limit = self.array_limit
        self._no_records_since: float | None = None
        self._warned: set[tuple[str, str]] = set()
        self._repeated: set[str] = set()
        """Names of submissions that were sent more than once and whose id is not known yet."""
        job_name(self.settings.get("job_name", ""))
        self.job_script()

    # Methods for subclasses to define.

    @abstractmethod
    def directives(self, submission: Submission) -> list[str]:
        """Return the directives of a script, without the prefix."""

    @abstractmethod
    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the command that submits a script."""

    def submit_input(self, script: Path, text: str) -> str:
        """Return the submit command's standard input; by default, the script."""
        return text

    def send(self, submission: Submission, script: Path, text: str) -> str:
        """Submit a script, and return the submission's id.

        If the output contains no id, or possibly several, the job is not submitted again but looked up by its name.
        """
        command = self.submit_command(submission, script)
        output = self.commands.run(command, self.submit_input(script, text))
        return self.submitted(output) or self.identified(submission.name, output)

    def submitted(self, output: str) -> str:
        """Return the submission's id from the output of the submit command; empty if it has none, or several."""
        matches = re.finditer(self.answer, output, re.MULTILINE)
        ids = {next(filter(None, match.groups()), "") for match in matches}
        return ids.pop() if len(ids) == 1 else ""

    def identified(self, name: str, output: str) -> str:
        """Find the id of a submission by its name, because the output of the submit command does not contain it.

        While the system does not answer, the query is repeated until `patience` runs out.
        """
        end = time.monotonic() + _LOOK
        while True:
            if base := self.retry_until_answered(lambda: self.arrived(name)):
                return base
            if time.monotonic() > end:
                raise ClusterError(
                    f"the output of the submission contains no job id, and no job is named {name}; the output was:"
                    f" {output[-_TAIL:]!r}"
                )
            time.sleep(1.0)

    def arrived(self, name: str) -> str:
        """Return the id of a submission with a name, even if its jobs have ended; empty if there is none."""
        return self._listed(name)

    def _listed(self, name: str) -> str:
        return next((self._base(job) for job, other in self.names().items() if other == name), "")

    def element(self, base: str, number: int) -> JobId:
        """Return the id of an array element."""
        opening, closing = self.marks
        return JobId(f"{base}{opening}{number}{closing}")

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Return the id of a job's submission, and the job's number if it is an array element."""
        opening, closing = self.marks
        base, _, number = job.removesuffix(closing).partition(opening)
        return base, int(number) if number else None

    @abstractmethod
    def query(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query the states of all jobs of some submissions. A job missing from the answer is unknown."""

    def account(self, bases: Sequence[str]) -> dict[JobId, JobReport]:
        """Query the accounting for jobs that have left the queue; empty if the system has no accounting."""
        return {}

    def remove(self, jobs: Sequence[str]) -> None:
        """End jobs or whole submissions."""
        self.commands.run([*self.kill_command, *jobs])

    @abstractmethod
    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user."""

    def has_other_machines(self) -> bool | None:
        """Return None, since the nodes of the system are not queried; see `Cluster.has_other_machines`."""
        return None

    def site_array_limit(self) -> int:
        """Return the site's maximum number of array elements."""
        return self.array_limit

    def output_word(self, submission: Submission) -> str | None:
        """Return the shell word for the file of a job's output; None if a directive names the file."""
        if not self.keeps_output:
            return "/dev/null"
        number = f'."${self.index}"' if submission.is_array or self.numbers_single_jobs else ""
        return f"{shlex.quote(submission.log)}{number}.log"

    # The interface of clusters.

    def open(self, context: RunContext) -> None:
        """Prepare to run batches; see `Cluster.open`."""
        super().open(context)
        self.commands.expect(self.needed)
        if unused := [name for name in self.commands.ignored() if re.fullmatch(self.options, name)]:
            variable = f"TOILFN_{self.name.upper()}_ARGS"
            _log.warning("ignoring environment variables %s; set options of jobs in %s", ", ".join(unused), variable)
        self.log_directory = self._place(context)
        self.log_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._no_records_since = None
        limit = self.retry_until_answered(self.site_array_limit)
        self._array_limit = max(1, min(limit, int(self.settings.get("max_array_size", limit))))

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs, those of one shape as an array. See `Cluster.submit`."""
        most = self._array_limit if self.capabilities.arrays else 1
        parts = self.parts(batches, lambda group: portions(group, most))
        jobs = self.one_by_one(parts, lambda portion: self._submit(portion[0].resources, portion))
        return [jobs[batch.name] for batch in batches]

    def end_doubtful(self, names: tuple[str, ...]) -> None:
        """End a doubtful submission. See `PolledCluster.end_doubtful`."""
        if base := self.retry_until_answered(lambda: self._listed(self._doubtful[names])):
            self._end_duplicates([base])
        del self._doubtful[names]

    def refusal(self, error: ClusterError | InputError, words: str) -> Refusal:
        """Classify a refused submission by the system's message."""
        if isinstance(error, UnavailableError):
            return Refusal.AWAY
        if isinstance(error, InputError) or re.search(self.final, words, re.IGNORECASE):
            return Refusal.FINAL
        return Refusal.FULL if re.search(self.full, words, re.IGNORECASE) else Refusal.PASSING

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, JobReport]:
        """Query the queue and the accounting; see `PolledCluster.look`."""
        try:
            known = self._ask(self.query, jobs)
        except UnavailableError:
            raise
        except ClusterError as error:  # a failed query must not end the run
            raise UnavailableError(str(error)) from None
        self._warn(known)
        gone = [job for job in jobs if job not in known]
        return self._recorded(gone) | known if gone else known

    def _end_late_duplicates(self) -> None:
        """End jobs of submissions that succeeded late, after they had been submitted again."""
        now = time.monotonic()
        self._sent_again = {name: (base, end) for name, (base, end) in self._sent_again.items() if end > now}
        if not self._sent_again:
            return
        duplicates = {
            self._base(job): name
            for job, name in self.names().items()
            if name in self._sent_again and self._base(job) != self._sent_again[name][0]
        }
        if duplicates:
            names = sorted(duplicates)
            _log.warning("cancelling %s, a duplicate submission whose response arrived late", " ".join(names))
            self._end_duplicates(names)

    def _end_duplicates(self, submissions: Sequence[str]) -> None:
        """End submissions whose batches are also part of others.

        If the system refuses, that is only logged: the jobs may have ended just before.
        """
        try:
            self.remove(submissions)
        except UnavailableError:
            raise
        except ClusterError as error:
            _log.info("%s", error)

    def _warn(self, known: Mapping[JobId, JobReport]) -> None:
        """Warn once of each submission with a job in an unknown state; the leader reports held jobs."""
        for job, found in known.items():
            told = (self._base(job), found.detail)
            if job in self._live and told not in self._warned and found.state is JobState.UNKNOWN:
                self._warned.add(told)
                _log.warning("job %s is in a state unknown to toilfn; waiting for it to change: %s", job, found.detail)

    def found_by_name(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Search for jobs by the names of their submissions; see `PolledCluster.found_by_name`."""
        listed = self.names()
        left, to_end = set(), dict.fromkeys(jobs)
        for job in jobs:
            name, place = self._live[job].name, self.split(job)[1]
            duplicates = {
                other
                for other, called in listed.items()
                if called == name and (other == job or (other not in self._live and self.split(other)[1] == place))
            }
            if duplicates:
                _log.warning(
                    "job %s is missing from the answers but still listed, as %s", job, " ".join(sorted(duplicates))
                )
                left.add(job)
                to_end.update(dict.fromkeys(duplicates))
            # The queue still lists the job itself, so it is not lost: let it run. Only its duplicates are ended.
            if job in listed and not self._live[job].is_killed:
                self._live[job].missing_since = None
                to_end.pop(job)
        if to_end:
            self.end(list(to_end))
        return left

    def end(self, jobs: Sequence[JobId]) -> None:
        """End jobs; if all live elements of an array are to end, end it by its id. See `PolledCluster.end`."""
        kept = set(map(self._base, self._live.keys() - set(jobs)))
        targets = dict.fromkeys(job if self._base(job) in kept else self._base(job) for job in jobs)
        for portion in portions(list(targets), self.kill_limit):
            try:
                self.remove(portion)
            except UnavailableError:
                raise
            except ClusterError as error:
                _log.info("%s", error)  # the job may have ended; the next poll shows its state
                self.has_left_jobs = True

    def ended(self, job: JobId, live: _Live, found: JobReport) -> JobReport:
        """Add the end of the job's log to the details, and remove a submission's files after its last job."""
        if found.cause is None or (live.is_killed and not live.is_late):
            live.log.unlink(missing_ok=True)
        else:
            found = self._excused(live, self._explained(live, found))
        self._alive[live.name] -= 1
        if not self._alive[live.name]:
            for suffix in self.files:
                (self.log_directory / f"{live.name}{suffix}").unlink(missing_ok=True)
        return found

    def close(self) -> None:
        """End all jobs, and remove the files of jobs that were already ending. See `Cluster.close`."""
        done = [(job, live) for job, live in self._live.items() if live.is_ending]
        with contextlib.suppress(ClusterError):
            self._end_late_duplicates()
            for name in self._doubtful.values():
                if base := self._listed(name):
                    self._end_duplicates([base])
        self._doubtful.clear()
        super().close()
        for job, live in done:
            self.ended(job, live, JobReport(JobState.ENDED))

    # Implementation.

    def script(self, submission: Submission) -> str:
        """Return the script that `submit` writes for a submission."""
        given = self.settings
        own = filtered(self.directives(submission), given.get("job_directives_skip", ()))
        for line in given.get("job_extra_directives", ()):
            if not line.replace("\t", " ").isprintable():
                raise InputError(
                    f"job_extra_directives: {line!r} is not one line of text", hint="pass one item for each line"
                )
            own.append(line)
        context = self._context or RunContext("STORE", "WORKFLOW")
        python = given.get("python", sys.executable)
        worker = given.get("worker_command", worker_command(python))
        return render(
            submission,
            shell=given.get("shell", "/bin/sh"),
            directives=[f"{self.prefix} {line}" for line in own],
            index=self.index,
            first=self.first,
            command=(*worker, context.store),
            environment=context.environment,
            output=self.output_word(submission),
            prologue=given.get("job_script_prologue", ()),
            epilogue=given.get("job_script_epilogue", ()),
        )

    def job_script(self) -> str:
        """Return the script for a batch with default requirements; raises `InputError` for a wrong setting."""
        batch = Batch("BATCH", "example", Resources())
        return self.script(Submission("toilfn-example", (batch,), batch.resources, "LOG"))

    def submit_args(self) -> list[str]:
        """Return the user's arguments for the submit command."""
        variable = f"TOILFN_{self.name.upper()}_ARGS"
        return list(self.settings.get("submit_args", shlex.split(os.environ.get(variable, ""))))

    def setting_directives(self, **templates: str) -> list[str]:
        """Return a directive for each given setting, from a template such as ``account="-P {}"``."""
        given = {key: word(key, self.settings[key]) for key in templates if key in self.settings}
        return [templates[key].format(value) for key, value in given.items()]

    def walltime(self, resources: Resources) -> float | None:
        """Return a job's time limit in seconds: the walltime of its tasks plus `walltime_margin`."""
        if resources.walltime is not None:
            return resources.walltime + self.walltime_margin
        default = self.settings.get("walltime")
        return None if default is None else parse_duration(default)

    @property
    def keeps_output(self) -> bool:
        """Whether the output of jobs is kept."""
        asked = self._context is None or self._context.keep_output
        return bool(self.settings.get("keep_output", asked))

    def _place(self, context: RunContext) -> Path:
        """Return the folder for scripts and output: a setting, or ``jobs`` in the store, or one in the home directory.

        A store with a URL has no folder that nodes could read, and the home directory is usually shared.
        """
        given = self.settings.get("log_directory") or context.log_directory
        local = context.store.removeprefix("file://")
        if given:
            place = Path(given)
        elif "://" not in local and "::" not in local:
            place = Path(local, "jobs")
        else:
            place = Path.home() / ".toilfn" / context.workflow
        if "\n" in str(place):
            raise InputError(f"log directory {str(place)!r}: the path contains a line break")
        return place.absolute()

    def _watch(self, job: JobId, name: str) -> None:
        with self.lock:
            if job not in self._live:
                number = self.split(job)[1]
                suffix = "" if number is None else f".{number}"
                self._live[job] = _Live(name=name, log=self.log_directory / f"{name}{suffix}.log")
                self._alive[name] += 1

    def _script(self, name: str) -> str:
        """Return the script of a submission; empty if the file no longer exists."""
        try:
            return (self.log_directory / f"{name}.sh").read_text("utf-8", errors="surrogateescape")
        except OSError:
            return ""

    def _submit(self, shape: Resources, batches: Sequence[Batch]) -> dict[str, JobId]:
        given, key = job_name(self.settings.get("job_name", "")), tuple(batch.name for batch in batches)
        earlier = self._doubtful.get(key, "")
        name = earlier or f"{f'{given}-' if given else ''}{self.context.workflow}-{secrets.token_hex(4)}"
        submission = Submission(name, tuple(batches), shape, str(self.log_directory / name))
        script = self.log_directory / f"{name}.sh"
        text = self.script(submission)
        script.touch(mode=0o700)
        script.write_bytes(text.encode(errors="surrogateescape"))  # paths need not be valid Unicode
        base = self.retry_until_answered(lambda: self.arrived(name)) if earlier else ""
        base = base or self._send(submission, script, text, key)
        self._doubtful.pop(key, None)
        numbers = range(self.first, self.first + len(batches))
        is_numbered = submission.is_array or self.numbers_single_jobs
        jobs = [self.element(base, n) for n in numbers] if is_numbered else [JobId(base)]
        with self.lock:
            for job in jobs:
                self._watch(job, name)
            if earlier or name in self._repeated:
                self._repeated.discard(name)
                self._sent_again[name] = (base, time.monotonic() + self.patience)
        return {batch.name: job for batch, job in zip(batches, jobs, strict=True)}

    def _send(self, submission: Submission, script: Path, text: str, key: tuple[str, ...]) -> str:
        """Submit a script, and retry while the controller is unavailable; return the submission's id.

        Before each retry, the submission is looked up by its name, since the command may have failed after it had
        submitted the jobs. If that remains uncertain, the name is added to `_doubtful`.
        """
        tries = itertools.count()

        def send() -> str:
            if next(tries):
                self._repeated.add(submission.name)
            return self.send(submission, script, text)

        try:
            return self.send_or_find(send, lambda: self.arrived(submission.name))
        except ClusterError as said:
            # The command may have failed after it had submitted the job.
            with contextlib.suppress(ClusterError):
                if base := self._listed(submission.name):
                    return base
            if self.refusal(said, str(said)) in (Refusal.AWAY, Refusal.PASSING):
                self._doubtful[key] = submission.name
            script.unlink(missing_ok=True)
            command = self.submit_command(submission, script)
            kind = UnavailableError if isinstance(said, UnavailableError) else ClusterError
            raise kind(f"{said}{COMMAND}{shlex.join(command)}\nThe script was:\n{text}") from None

    def submission_names(self) -> dict[str, str]:
        """Return the names of all submissions with live jobs, by their ids."""
        return {self._base(job): live.name for job, live in self._live.items()}

    def _base(self, job: JobId) -> str:
        return self.split(job)[0]

    def _recorded(self, gone: Iterable[JobId]) -> dict[JobId, JobReport]:
        """Query the accounting, which may be unavailable or, at some sites, not exist."""
        jobs = list(gone)
        try:
            known = self._ask(self.account, jobs)
        except ClusterError as error:
            none = self.no_accounting and re.search(self.no_accounting, str(error), re.IGNORECASE)
            is_away = isinstance(error, UnavailableError) and not none
            if self._no_records_since is None:
                self._no_records_since = time.monotonic()
                _log.warning("%s; cannot determine how some jobs ended", error)
            if is_away and time.monotonic() - self._no_records_since < self.patience:
                return {job: JobReport(JobState.UNKNOWN, None, "accounting does not respond") for job in jobs}
            return {}  # the jobs then count as unknown
        self._no_records_since = None
        return known

    def _ask(self, question: _Question, jobs: Iterable[JobId]) -> dict[JobId, JobReport]:
        bases = list(dict.fromkeys(map(self._base, jobs)))
        known: dict[JobId, JobReport] = {}
        for portion in portions(bases, self.query_limit):
            known |= question(portion)
        return known

    def _excused(self, live: _Live, found: JobReport) -> JobReport:
        """Change the cause of a job that was lost with its node to preemption if its tasks are preemptible.

        Preemptions have a retry limit of their own, so such a task loses none of its other retries.
        """
        if found.cause is not Cause.LOST or not self.lost_nodes or not re.search(self.lost_nodes, found.detail):
            return found
        return found._replace(cause=Cause.PREEMPTED) if is_preemptible(self._script(live.name)) else found

    def _explained(self, live: _Live, found: JobReport) -> JobReport:
        """Add the end of the job's log, and the cause that the system itself wrote there."""
        if not self.keeps_output:
            return found
        try:
            with live.log.open("rb") as file:
                log = read_output(file.fileno(), 0)
        except OSError:
            hint = f"no output found in {self.log_directory}; check that nodes can write there (setting log_directory)"
            return found._replace(detail=f"{found.detail}; {hint}")
        text = log[-_TAIL:].decode(errors="replace").strip()
        causes = [cause for pattern, cause in self.log_causes.items() if re.search(pattern, text, re.MULTILINE)]
        said = f"; {live.log} ends with:\n{text}" if text else ""
        return found._replace(cause=(*causes, found.cause)[0], detail=found.detail + said, log=log)

    def address(self) -> dict[str, Any]:
        """Return the folder of the job scripts, which contain the names of batches, and the prefix of job names."""
        return {name: str(self.settings[name]) for name in ("log_directory", "job_name") if self.settings.get(name)}

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find the live jobs of a workflow and adopt them: from now on, `poll` reports them.

        If a job's script no longer exists, the name of its batch is empty.
        """
        found: dict[JobId, str] = {}
        tables: dict[str, list[str]] = {}
        for job, name in self.retry_until_answered(self.names).items():
            if f"-{name}".rpartition("-")[0].endswith(f"-{workflow}"):
                table = tables[name] if name in tables else tables.setdefault(name, batch_names(self._script(name)))
                place = (self.split(job)[1] or self.first) - self.first
                found[job] = table[place] if place < len(table) else ""
                self._watch(job, name)
        return found
