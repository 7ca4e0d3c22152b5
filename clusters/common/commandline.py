"""The base of clusters that are driven by commands, such as ``sbatch`` and ``squeue``.

A system is its directives, its commands, and the parsing of their answers; all loops, retries, limits,
files and decisions are here. A new system defines what `CommandCluster` marks as abstract, and runs
`toilfn.clusters.testing` against it.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from toilfn.clusters.base import Batch, Capabilities, JobId, JobState, Refusal, RunContext, worker_command
from toilfn.clusters.common.commands import AwayError, Commands, portions
from toilfn.clusters.common.jobscript import Submission, batch_names, filtered, is_preemptible, render
from toilfn.clusters.common.polled import COMMAND, Found, LiveJob, PolledCluster
from toilfn.clusters.common.settings import JobSettings, job_name, resolved, word
from toilfn.clusters.local.output import read_output
from toilfn.errors import ClusterError, InputError
from toilfn.ids import Cause
from toilfn.resources import Resources
from toilfn.units import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CommandCluster"]

_log = logging.getLogger(__name__)

_TAIL = 1000
"""How many bytes of a failed job's log are shown."""

_LOOK = 30.0
"""Seconds for which a submission is looked for by its name when the answer does not tell its id."""

_Question: TypeAlias = Callable[[Sequence[str]], dict[JobId, Found]]


@dataclass(slots=True)
class _Live(LiveJob):
    name: str = ""
    """Its submission's."""
    log: Path = field(default_factory=Path)


class CommandCluster(PolledCluster[_Live]):
    """A batch system behind commands; see `JobSettings` for its settings."""

    capabilities: ClassVar[Capabilities] = Capabilities(arrays=True, memory_limits=True, walltime_limits=True)
    settings_type: ClassVar[type] = JobSettings
    name: ClassVar[str]
    """The system's name in configuration."""
    prefix: ClassVar[str]
    """Beginning of a directive's line."""
    away: ClassVar[str]
    """A regular expression for what commands print when the controller is briefly away."""
    absent: ClassVar[str] = ""
    """A regular expression for the system's own words for "there is no such job"."""
    no_accounting: ClassVar[str] = ""
    """A regular expression for the words by which a site says that it keeps no accounting."""
    needed: ClassVar[tuple[str, ...]] = ()
    """The commands without which nothing can be done."""
    cleared: ClassVar[str] = ""
    """A regular expression for the environment variables that commands do not get, because they would change what a
    command does or what it prints, or belong to a job that the leader itself runs in."""
    options: ClassVar[str] = ""
    """A regular expression for those of them with which users mean to set options of their jobs."""
    answer: ClassVar[str]
    """A regular expression for what the submitting command prints; its group is the submission's id."""
    final: ClassVar[str] = (
        r"invalid|unknown|unrecogni[sz]ed|illegal|no such|not (?:permitted|allowed|available|a valid|found|on this)"
        r"|cannot be satisfied|can not be satisfied|denied|failed to parse|unable to open|incorrect|nonexist"
        r"|does not exist|more processors requested|requested node|not a member|has no "
    )
    """A regular expression for the words with which a system refuses a job for good."""
    full: ClassVar[str] = (
        r"limit|exceed|too many|maximum|MaxJobCount|QOSMax|QOSGrp|Assoc(?:Max|Grp)|only \d+ jobs|quota"
    )
    """The same where it takes no more jobs now."""
    marks: ClassVar[tuple[str, str]] = (".", "")
    """The text before and after the number in an element's id."""
    killer: tuple[str, ...]
    """The command that ends jobs; their ids come after it."""
    index: ClassVar[str] = ""
    """The variable that holds an array element's number."""
    first: ClassVar[int] = 0
    """The number of an array's first element."""
    array_limit: ClassVar[int] = 1000
    """The most elements of an array where the site does not say."""
    log_causes: ClassVar[Mapping[str, Cause]] = {}
    """Regular expressions for what the system itself writes into a job's output."""
    lost_nodes: ClassVar[str] = ""
    """A regular expression for what is said of a job that was lost with its node."""
    unknown: ClassVar[str] = "neither queue nor accounting knows it"
    query_limit: ClassVar[int] = 500
    """The most submissions that one query names."""
    kill_limit: ClassVar[int] = 500
    """The most jobs that one command ends."""
    numbers_all: ClassVar[bool] = False
    """Whether a submission of one job has a number, too."""
    room: ClassVar[float] = 10.0
    """Seconds that a job may take longer than its tasks, for Python to start and outcomes to be written."""
    files: ClassVar[tuple[str, ...]] = (".sh",)
    """How the names of the files end that each submission has in the log directory, besides its jobs' output."""

    def __init__(self, **settings: Unpack[JobSettings]) -> None:
        super().__init__(resolved(type(self).__name__, self.name, self.settings_type, settings))
        self.commands = Commands(self.away, self.absent, cleared=self.cleared)
        self.log_directory = Path()
        self._alive: Counter[str] = Counter()
        self._array_limit = self.array_limit
        self._no_records_since: float | None = None
        self._told: set[tuple[str, str]] = set()
        self._repeated: set[str] = set()
        """The names of submissions that have been sent more than once, and of which nothing else is known yet."""
        job_name(self.settings.get("job_name", ""))
        self.job_script()

    # Subclasses define these.

    @abstractmethod
    def directives(self, submission: Submission) -> list[str]:
        """Return the script's directives, without prefix."""

    @abstractmethod
    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Return the command that submits a script."""

    def submit_input(self, script: Path, text: str) -> str:
        """Return what the submitting command reads: the script itself."""
        return text

    def send(self, submission: Submission, script: Path, text: str) -> str:
        """Submit a script; return the submission's id.

        If the answer holds no id, or may hold several, the job is not submitted again: it is looked up by its name.
        """
        command = self.submit_command(submission, script)
        output = self.commands.run(command, self.submit_input(script, text))
        return self.submitted(output) or self.identified(submission.name, output)

    def submitted(self, output: str) -> str:
        """Read the submission's id from what the submitting command printed; empty if that is not certain."""
        matches = re.finditer(self.answer, output, re.MULTILINE)
        ids = {next(filter(None, match.groups()), "") for match in matches}
        return ids.pop() if len(ids) == 1 else ""

    def identified(self, name: str, output: str) -> str:
        """Find the id of a submission by its name, because what the submitting command printed does not tell it.

        While the system does not answer, nothing is known; the question is repeated for as long as patience lasts.
        """
        end = time.monotonic() + _LOOK
        while True:
            if base := self.patiently(lambda: self.arrived(name)):
                return base
            if time.monotonic() > end:
                raise ClusterError(
                    f"the output of the submission contains no job id, and no job is named {name}; the output was:"
                    f" {output[-_TAIL:]!r}"
                )
            time.sleep(1.0)

    def arrived(self, name: str) -> str:
        """Ask for the id of a submission by its name, also when its jobs have ended; empty if there is none."""
        return self._listed(name)

    def _listed(self, name: str) -> str:
        return next((self._base(job) for job, other in self.names().items() if other == name), "")

    def element(self, base: str, number: int) -> JobId:
        """Return the id of an array's element."""
        opening, closing = self.marks
        return JobId(f"{base}{opening}{number}{closing}")

    def split(self, job: JobId) -> tuple[str, int | None]:
        """Return the id of the submission that a job belongs to, and its number if that is an array."""
        opening, closing = self.marks
        base, _, number = job.removesuffix(closing).partition(opening)
        return base, int(number) if number else None

    @abstractmethod
    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask once for the states of all jobs of some submissions. A job that is missing from the answer is unknown."""

    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask the accounting for jobs that the queue does not know any more; nothing where there is none."""
        return {}

    def remove(self, jobs: Sequence[str]) -> None:
        """End jobs and whole submissions."""
        self.commands.run([*self.killer, *jobs])

    @abstractmethod
    def names(self) -> dict[JobId, str]:
        """Return the names of all live jobs of this user."""

    def has_other_machines(self) -> bool | None:
        """Return None: the system is not asked about its nodes; see `Cluster.has_other_machines`."""
        return None

    def site_array_limit(self) -> int:
        """Ask for the most elements that an array may have here."""
        return self.array_limit

    def output_word(self, submission: Submission) -> str | None:
        """Return the shell word for a job's output; None if the system learns it by other means."""
        if not self.keeps_output:
            return "/dev/null"
        number = f'."${self.index}"' if submission.is_array or self.numbers_all else ""
        return f"{shlex.quote(submission.log)}{number}.log"

    # The cluster's interface.

    def open(self, context: RunContext) -> None:
        """Get ready; see `Cluster.open`."""
        super().open(context)
        self.commands.expect(self.needed)
        if unused := [name for name in self.commands.ignored() if re.fullmatch(self.options, name)]:
            variable = f"TOILFN_{self.name.upper()}_ARGS"
            _log.warning("not used: %s of the environment; write what jobs need into %s", ", ".join(unused), variable)
        self.log_directory = self._place(context)
        self.log_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._no_records_since = None
        limit = self.patiently(self.site_array_limit)
        self._array_limit = max(1, min(limit, int(self.settings.get("max_array_size", limit))))

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs; those of one shape go out as an array. See `Cluster.submit`."""
        jobs = self.one_by_one(self._parts(batches), lambda portion: self._submit(portion[0].resources, portion))
        return [jobs[batch.name] for batch in batches]

    def _parts(self, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        """Set batches apart by shape; those that may have been submitted together already stay together."""
        waiting = {batch.name: batch for batch in batches}
        for names in list(self._doubtful):
            if waiting.keys() >= set(names):
                yield [waiting.pop(name) for name in names]
            elif not waiting.keys().isdisjoint(names):
                self._end_doubtful(names)
        shapes: dict[Resources, list[Batch]] = {}
        for batch in waiting.values():
            shapes.setdefault(batch.resources, []).append(batch)
        most = self._array_limit if self.capabilities.arrays else 1
        for group in shapes.values():
            yield from portions(group, most)

    def _end_doubtful(self, names: tuple[str, ...]) -> None:
        """End a submission that may have come through, because its batches go out in others."""
        if base := self.patiently(lambda: self._listed(self._doubtful[names])):
            self.remove([base])
        del self._doubtful[names]

    def refusal(self, error: ClusterError | InputError, words: str) -> Refusal:
        """Judge a refused submission by the system's words."""
        if isinstance(error, AwayError):
            return Refusal.AWAY
        if isinstance(error, InputError) or re.search(self.final, words, re.IGNORECASE):
            return Refusal.FINAL
        return Refusal.FULL if re.search(self.full, words, re.IGNORECASE) else Refusal.PASSING

    def look(self, jobs: Sequence[JobId]) -> dict[JobId, Found]:
        """Ask queue and accounting; see `PolledCluster.look`."""
        try:
            known = self._ask(self.query, jobs)
        except AwayError:
            raise
        except ClusterError as error:  # a question is never a reason to end what runs
            raise AwayError(str(error)) from None
        self._warn(known)
        gone = [job for job in jobs if job not in known]
        return self._recorded(gone) | known if gone else known

    def _end_twins(self) -> None:
        """End jobs of submissions that came through late, after they had been sent again."""
        now = time.monotonic()
        self._sent_again = {name: (base, end) for name, (base, end) in self._sent_again.items() if end > now}
        if not self._sent_again:
            return
        twins = {
            self._base(job): name
            for job, name in self.names().items()
            if name in self._sent_again and self._base(job) != self._sent_again[name][0]
        }
        if twins:
            _log.warning("ending %s, which was submitted a second time: its answer came late", " ".join(sorted(twins)))
            self.remove(sorted(twins))

    def _warn(self, known: Mapping[JobId, Found]) -> None:
        """Name jobs in states that are not known, one of each submission and once; the leader names those held."""
        for job, found in known.items():
            told = (self._base(job), found.detail)
            if job in self._live and told not in self._told and found.state is JobState.UNKNOWN:
                self._told.add(told)
                _log.warning("job %s is in a state that toilfn does not know, and is waited for: %s", job, found.detail)

    def still_there(self, jobs: Sequence[JobId]) -> set[JobId]:
        """Look for jobs by the names of their submissions; see `PolledCluster.still_there`."""
        listed = self.names()
        left, to_end = set(), dict.fromkeys(jobs)
        for job in jobs:
            name, place = self._live[job].name, self.split(job)[1]
            twins = {
                other
                for other, called in listed.items()
                if called == name and (other == job or (other not in self._live and self.split(other)[1] == place))
            }
            if twins:
                _log.warning("job %s is in no answer but is still listed, as %s", job, " ".join(sorted(twins)))
                left.add(job)
                to_end.update(dict.fromkeys(twins))
            if job in listed and not self._live[job].is_killed:
                self._live[job].missing_since = None
                to_end.pop(job)
        if to_end:
            self.end(list(to_end))
        return left

    def end(self, jobs: Sequence[JobId]) -> None:
        """End jobs; arrays of which nothing else lives by their own id. See `PolledCluster.end`."""
        kept = set(map(self._base, self._live.keys() - set(jobs)))
        targets = dict.fromkeys(job if self._base(job) in kept else self._base(job) for job in jobs)
        for portion in portions(list(targets), self.kill_limit):
            try:
                self.remove(portion)
            except AwayError:
                raise
            except ClusterError as error:
                _log.info("%s", error)  # a job that has ended is not an error, and polls show what holds
                self.has_left_jobs = True

    def ended(self, job: JobId, live: _Live, found: Found) -> Found:
        """Add the end of the job's log; the files of a submission go with its last job."""
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
        """End all jobs; of those of which only the system's own work was left, nothing stays. See `Cluster.close`."""
        done = [(job, live) for job, live in self._live.items() if live.is_ending]
        with contextlib.suppress(ClusterError):
            self._end_twins()
            for name in self._doubtful.values():
                if base := self._listed(name):
                    self.remove([base])
        self._doubtful.clear()
        super().close()
        for job, live in done:
            self.ended(job, live, Found(JobState.ENDED))

    # How it is done.

    def script(self, submission: Submission) -> str:
        """Write the script of a submission, as `submit` does."""
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
        """Show a script as it would be submitted for one ordinary task: settings are checked by making it."""
        batch = Batch("BATCH", "example", Resources())
        return self.script(Submission("toilfn-example", (batch,), batch.resources, "LOG"))

    def submit_args(self) -> list[str]:
        """Return the user's own words for the submitting command."""
        variable = f"TOILFN_{self.name.upper()}_ARGS"
        return list(self.settings.get("submit_args", shlex.split(os.environ.get(variable, ""))))

    def given(self, **templates: str) -> list[str]:
        """Write a directive for each setting that was given: ``account="-P {}"``."""
        given = {key: word(key, self.settings[key]) for key in templates if key in self.settings}
        return [templates[key].format(value) for key, value in given.items()]

    def walltime(self, resources: Resources) -> float | None:
        """Return a job's time limit in seconds: more than what its tasks may take, so that these have all of it."""
        if resources.walltime is not None:
            return resources.walltime + self.room
        default = self.settings.get("walltime")
        return None if default is None else parse_duration(default)

    @property
    def keeps_output(self) -> bool:
        """Whether what jobs print is kept."""
        asked = self._context is None or self._context.keep_output
        return bool(self.settings.get("keep_output", asked))

    def _place(self, context: RunContext) -> Path:
        given = self.settings.get("log_directory") or context.log_directory
        local = context.store.removeprefix("file://")
        if given:
            place = Path(given)
        elif "://" not in local and "::" not in local:
            place = Path(local, "jobs")
        else:
            place = Path.home() / ".toilfn" / context.workflow
        if "\n" in str(place):
            raise InputError(f"log directory {str(place)!r}: its name contains a line break")
        return place.absolute()

    def _watch(self, job: JobId, name: str) -> None:
        with self.lock:
            if job not in self._live:
                number = self.split(job)[1]
                suffix = "" if number is None else f".{number}"
                self._live[job] = _Live(name=name, log=self.log_directory / f"{name}{suffix}.log")
                self._alive[name] += 1

    def _script(self, name: str) -> str:
        """Read the script of a submission; empty if it is gone."""
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
        script.write_bytes(text.encode(errors="surrogateescape"))  # names of folders need not be Unicode
        base = self.patiently(lambda: self.arrived(name)) if earlier else ""
        base = base or self._send(submission, script, text, key)
        self._doubtful.pop(key, None)
        numbers = range(self.first, self.first + len(batches))
        jobs = [self.element(base, n) for n in numbers] if submission.is_array or self.numbers_all else [JobId(base)]
        with self.lock:
            for job in jobs:
                self._watch(job, name)
            if earlier or name in self._repeated:
                self._repeated.discard(name)
                self._sent_again[name] = (base, time.monotonic() + self.patience)
        return {batch.name: job for batch, job in zip(batches, jobs, strict=True)}

    def _send(self, submission: Submission, script: Path, text: str, key: tuple[str, ...]) -> str:
        """Submit, also while the controller is briefly away, and never twice as far as the system can tell."""
        tries = itertools.count()

        def send() -> str:
            if next(tries):
                self._repeated.add(submission.name)
            return self.send(submission, script, text)

        try:
            return self.surely(send, lambda: self.arrived(submission.name))
        except ClusterError as said:
            # Refused, and yet there: the command may have failed after its work.
            with contextlib.suppress(ClusterError):
                if base := self._listed(submission.name):
                    return base
            if self.refusal(said, str(said)) in (Refusal.AWAY, Refusal.PASSING):
                self._doubtful[key] = submission.name
            script.unlink(missing_ok=True)
            command = self.submit_command(submission, script)
            kind = AwayError if isinstance(said, AwayError) else ClusterError
            raise kind(f"{said}{COMMAND}{shlex.join(command)}\nThe script was:\n{text}") from None

    def submission_names(self) -> dict[str, str]:
        """Return the name of each submission of which something lives, by its id."""
        return {self._base(job): live.name for job, live in self._live.items()}

    def _base(self, job: JobId) -> str:
        return self.split(job)[0]

    def _recorded(self, gone: Iterable[JobId]) -> dict[JobId, Found]:
        """Ask the accounting. While that does not answer, what it would say is not known; a site may have none."""
        jobs = list(gone)
        try:
            known = self._ask(self.account, jobs)
        except ClusterError as error:
            none = self.no_accounting and re.search(self.no_accounting, str(error), re.IGNORECASE)
            is_away = isinstance(error, AwayError) and not none
            if self._no_records_since is None:
                self._no_records_since = time.monotonic()
                _log.warning("%s; the ends of some jobs are not known", error)
            if is_away and time.monotonic() - self._no_records_since < self.patience:
                return {job: Found(JobState.UNKNOWN, None, "the accounting does not answer") for job in jobs}
            return {}  # such jobs are judged as unknown ones
        self._no_records_since = None
        return known

    def _ask(self, question: _Question, jobs: Iterable[JobId]) -> dict[JobId, Found]:
        bases = list(dict.fromkeys(map(self._base, jobs)))
        known: dict[JobId, Found] = {}
        for portion in portions(bases, self.query_limit):
            known |= question(portion)
        return known

    def _excused(self, live: _Live, found: Found) -> Found:
        """Judge a job that was lost with its node: a task that agreed to lose its node has not failed when it does."""
        if found.cause is not Cause.LOST or not self.lost_nodes or not re.search(self.lost_nodes, found.detail):
            return found
        return found._replace(cause=Cause.PREEMPTED) if is_preemptible(self._script(live.name)) else found

    def _explained(self, live: _Live, found: Found) -> Found:
        """Add the end of the job's log, and what the system itself wrote there."""
        if not self.keeps_output:
            return found
        try:
            with live.log.open("rb") as file:
                log = read_output(file.fileno(), 0)
        except OSError:
            hint = f"there is no output in {self.log_directory}: can the nodes write there? See log_directory."
            return found._replace(detail=f"{found.detail}; {hint}")
        text = log[-_TAIL:].decode(errors="replace").strip()
        causes = [cause for pattern, cause in self.log_causes.items() if re.search(pattern, text, re.MULTILINE)]
        said = f"; {live.log} ends with:\n{text}" if text else ""
        return found._replace(cause=(*causes, found.cause)[0], detail=found.detail + said, log=log)

    def address(self) -> dict[str, Any]:
        """Return where the scripts are that say which job runs what, and what jobs are called."""
        return {name: str(self.settings[name]) for name in ("log_directory", "job_name") if self.settings.get(name)}

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find live jobs of a workflow, and take them over: polls tell of them from now on.

        A job whose script is gone has the empty name instead of its batch's.
        """
        found: dict[JobId, str] = {}
        tables: dict[str, list[str]] = {}
        for job, name in self.patiently(self.names).items():
            if f"-{name}".rpartition("-")[0].endswith(f"-{workflow}"):
                table = tables[name] if name in tables else tables.setdefault(name, batch_names(self._script(name)))
                place = (self.split(job)[1] or self.first) - self.first
                found[job] = table[place] if place < len(table) else ""
                self._watch(job, name)
        return found
