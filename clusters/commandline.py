"""The base of clusters that are driven by commands, such as ``sbatch`` and ``squeue``.

A system is its directives, its commands, and the parsing of their answers; all loops, retries, limits,
files and decisions are here. A new system defines what `CommandCluster` marks as abstract, and runs
`toilfn.clusters.testing` against it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import sys
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from toilfn.clusters.base import Batch, Capabilities, Cluster, JobId, JobState, Session, Update
from toilfn.clusters.commands import AwayError, Commands, pauses, portions
from toilfn.clusters.jobscript import Submission, batch_names, filtered, render
from toilfn.clusters.jobsettings import JobSettings, resolved
from toilfn.errors import ClusterError, InputError
from toilfn.events import Capacity, Cause
from toilfn.resources import Resources
from toilfn.units import format_duration, parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CommandCluster", "Found"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_TAIL = 1000
"""How many bytes of a failed job's log are shown."""


class Found(NamedTuple):
    """What the system says of one job."""

    state: JobState
    cause: Cause | None = None
    detail: str = ""
    is_stuck: bool = False
    """Whether it stays in the queue although it will not run, until it is killed."""


_Question: TypeAlias = Callable[[Sequence[str]], dict[JobId, Found]]


@dataclass(slots=True)
class _Live:
    """A job that has not ended."""

    name: str
    """Its submission's."""
    log: Path
    state: JobState = JobState.QUEUED
    missing_since: float | None = None
    is_killed: bool = False


class CommandCluster(Cluster):
    """A batch system behind commands; see `JobSettings` for what it can be told."""

    capabilities: ClassVar[Capabilities] = Capabilities(arrays=True, memory_limits=True, walltime_limits=True)
    settings_type: ClassVar[type] = JobSettings
    name: ClassVar[str]
    """The system's name in configuration."""
    prefix: ClassVar[str]
    """What a directive's line begins with."""
    away: ClassVar[str]
    """A regular expression for what commands print when the controller is briefly away."""
    index: ClassVar[str] = ""
    """The variable that holds an array element's number."""
    first: ClassVar[int] = 0
    """The number of an array's first element."""
    array_limit: ClassVar[int] = 1000
    """The most elements of an array where the site does not say."""
    log_causes: ClassVar[Mapping[str, Cause]] = {}
    """Regular expressions for what the system itself writes into a job's output."""
    grace: ClassVar[float] = 60.0
    """Seconds for which a job may be known to neither queue nor accounting before it counts as lost."""
    query_limit: ClassVar[int] = 500
    """The most submissions that one query names."""
    kill_limit: ClassVar[int] = 500
    """The most jobs that one command ends."""
    numbers_all: ClassVar[bool] = False
    """Whether a submission of one job has a number, too."""

    def __init__(self, **settings: Unpack[JobSettings]) -> None:
        self.settings: dict[str, Any] = resolved(type(self).__name__, self.name, self.settings_type, settings)
        self.max_jobs: int | None = self.settings.get("max_jobs")
        self.poll_interval = parse_duration(self.settings.get("poll_interval", 2.0))
        self.commands = Commands(self.away)
        self.log_directory = Path()
        self._patience = parse_duration(self.settings.get("patience", 600.0))
        self._session: Session | None = None
        self._live: dict[JobId, _Live] = {}
        self._alive: Counter[str] = Counter()
        self._to_kill: set[JobId] = set()
        self._woken = threading.Event()
        self._next_look = 0.0
        self._away_since: float | None = None
        self._array_limit = self.array_limit
        self.job_script()

    # What a system defines.

    @abstractmethod
    def directives(self, submission: Submission) -> list[str]:
        """Give the script's directives, without prefix."""

    @abstractmethod
    def submit_command(self, submission: Submission, script: Path) -> list[str]:
        """Give the command that submits a script."""

    def submit_input(self, script: Path, text: str) -> str:
        """Give what the submitting command reads: the script itself."""
        return text

    @abstractmethod
    def submitted(self, output: str) -> str:
        """Read the submission's id from what the command printed."""

    @abstractmethod
    def element(self, base: str, number: int) -> JobId:
        """Give the id of an array's element."""

    @abstractmethod
    def split(self, job: JobId) -> tuple[str, int | None]:
        """Give the id of the submission that a job belongs to, and its number if that is an array."""

    @abstractmethod
    def query(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask once for the states of all jobs of some submissions. What is not in the answer is not known."""

    @abstractmethod
    def account(self, bases: Sequence[str]) -> dict[JobId, Found]:
        """Ask the accounting for jobs that the queue does not know any more."""

    @abstractmethod
    def kill_command(self, jobs: Sequence[str]) -> list[str]:
        """Give the command that ends jobs and whole submissions."""

    @abstractmethod
    def names(self) -> dict[JobId, str]:
        """Give the names of all live jobs of this user."""

    def site_array_limit(self) -> int:
        """Ask for the most elements that an array may have here."""
        return self.array_limit

    def output_word(self, submission: Submission) -> str | None:
        """Give the shell word for a job's output; None if the system is told by other means."""
        if not self.settings.get("keep_output", True):
            return "/dev/null"
        number = f'."${self.index}"' if submission.is_array or self.numbers_all else ""
        return f"{shlex.quote(submission.log)}{number}.log"

    # The cluster's interface.

    def open(self, session: Session) -> None:
        """Get ready; see `Cluster.open`."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", session.workflow):
            raise InputError(f"{session.workflow!r} cannot be part of a job's name: use letters, digits, '_', '.', '-'")
        self._session = session
        self.log_directory = self._place(session)
        self.log_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        limit = self._patiently(self.site_array_limit)
        self._array_limit = max(1, min(limit, int(self.settings.get("max_array_size", limit))))
        self._next_look, self._away_since = 0.0, None

    def capacity(self) -> Capacity:
        """Say that the system queues by itself; only `max_jobs` limits."""
        return Capacity(total=None, largest=None, batches=self.max_jobs)

    def submit(self, batches: Sequence[Batch]) -> list[JobId]:
        """Start jobs; those of one shape go out as an array. See `Cluster.submit`."""
        jobs: dict[str, JobId] = {}
        shapes: dict[Resources, list[Batch]] = {}
        for batch in batches:
            shapes.setdefault(batch.resources, []).append(batch)
        most = self._array_limit if self.capabilities.arrays else 1
        try:
            for shape, group in shapes.items():
                for portion in portions(group, most):
                    jobs |= self._submit(shape, portion)
        except ClusterError:
            self.kill(jobs.values())
            raise
        return [jobs[batch.name] for batch in batches]

    def poll(self, timeout: float) -> list[Update]:
        """Wait for news; asks the system once in each `poll_interval`. See `Cluster.poll`."""
        wait = min(timeout, self._next_look - time.monotonic()) if self._live else timeout
        if wait > 0:
            self._woken.wait(wait)
        self._woken.clear()
        if not (self._live or self._to_kill) or time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + self.poll_interval
        try:
            updates = self._look()
        except AwayError as error:
            self._bear(error)
            return []
        self._away_since = None
        return updates

    def kill(self, jobs: Iterable[JobId]) -> None:
        """End jobs, with as few commands as possible. See `Cluster.kill`."""
        for job in jobs:
            if job in self._live:
                self._live[job].is_killed = True
                self._to_kill.add(job)
        with contextlib.suppress(AwayError):  # the next poll tries again
            self._kill()

    def close(self) -> None:
        """End all jobs of this leader."""
        self.kill(list(self._live))
        if self._to_kill:
            _log.warning("these jobs could not be ended: %s", " ".join(sorted(self._to_kill)))
        self._live.clear()
        self._to_kill.clear()

    def wake(self) -> None:
        """Make a waiting `poll` return."""
        self._woken.set()

    # How it is done.

    def script(self, submission: Submission) -> str:
        """Write the script of a submission, as `submit` does."""
        given = self.settings
        own = [*self.directives(submission), *given.get("job_extra_directives", ())]
        session = self._session or Session("STORE", "WORKFLOW")
        python = given.get("python", sys.executable)
        worker = given.get("worker_command", (python, "-m", "toilfn.worker"))
        return render(
            submission,
            shell=given.get("shell", "/bin/sh"),
            directives=[f"{self.prefix} {line}" for line in filtered(own, given.get("job_directives_skip", ()))],
            index=self.index,
            first=self.first,
            command=(*worker, session.store),
            environment=session.environment,
            output=self.output_word(submission),
            prologue=given.get("job_script_prologue", ()),
            epilogue=given.get("job_script_epilogue", ()),
        )

    def job_script(self) -> str:
        """Show a script as it would be submitted for one ordinary task: settings are checked by making it."""
        batch = Batch("BATCH", "example", Resources())
        return self.script(Submission("toilfn-example", (batch,), batch.resources, "LOG"))

    def submit_args(self) -> list[str]:
        """Give the user's own words for the submitting command."""
        variable = f"TOILFN_{self.name.upper()}_ARGS"
        return list(self.settings.get("submit_args", shlex.split(os.environ.get(variable, ""))))

    def walltime(self, resources: Resources) -> float | None:
        """Give a job's time limit in seconds."""
        if resources.walltime is not None:
            return resources.walltime
        default = self.settings.get("walltime")
        return None if default is None else parse_duration(default)

    def _place(self, session: Session) -> Path:
        given = self.settings.get("log_directory") or os.environ.get("TOILFN_BATCH_LOGS_DIR")
        local = session.store.removeprefix("file://")
        if given:
            place = Path(given)
        elif "://" not in local and "::" not in local:
            place = Path(local, "jobs")
        else:
            place = Path.home() / ".toilfn" / session.workflow
        if "\n" in str(place):
            raise InputError(f"the log directory {str(place)!r} has a line break in its name; give another one")
        return place.absolute()

    def _watch(self, job: JobId, name: str) -> None:
        if job not in self._live:
            number = self.split(job)[1]
            suffix = "" if number is None else f".{number}"
            self._live[job] = _Live(name, self.log_directory / f"{name}{suffix}.log")
            self._alive[name] += 1

    def _table(self, name: str) -> list[str]:
        try:
            return batch_names((self.log_directory / f"{name}.sh").read_text())
        except OSError:
            return []

    def _submit(self, shape: Resources, batches: Sequence[Batch]) -> dict[str, JobId]:
        if self._session is None:
            raise ClusterError("the cluster is not open")
        given = self.settings.get("job_name")
        name = f"{f'{given}-' if given else ''}{self._session.workflow}-{secrets.token_hex(4)}"
        submission = Submission(name, tuple(batches), shape, str(self.log_directory / name))
        script = self.log_directory / f"{name}.sh"
        text = self.script(submission)
        script.touch(mode=0o700)
        script.write_text(text)
        base = self._send(submission, script, text)
        numbers = range(self.first, self.first + len(batches))
        jobs = [self.element(base, n) for n in numbers] if submission.is_array or self.numbers_all else [JobId(base)]
        for job in jobs:
            self._watch(job, name)
        return {batch.name: job for batch, job in zip(batches, jobs, strict=True)}

    def _send(self, submission: Submission, script: Path, text: str) -> str:
        """Submit, also while the controller is briefly away, and never twice."""
        command, text_in = self.submit_command(submission, script), self.submit_input(script, text)
        said: ClusterError = AwayError("")
        for pause in (0.0, *pauses(self._patience)):
            if pause:
                time.sleep(pause)
            try:
                # The answer to an earlier try may be all that was lost.
                return (pause and self._arrived(submission.name)) or self.submitted(self.commands.run(command, text_in))
            except AwayError as error:
                _log.warning("%s; trying again", error)
                said = error
            except ClusterError as error:
                said = error
                break
        script.unlink()
        raise ClusterError(f"{said}\nThe command was: {shlex.join(command)}\nThe script was:\n{text}")

    def _arrived(self, name: str) -> str:
        return next((self._base(job) for job, other in self.names().items() if other == name), "")

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask until the controller answers."""
        for pause in pauses(self._patience):
            try:
                return ask()
            except AwayError as error:
                _log.warning("%s; trying again", error)
                time.sleep(pause)
        return ask()

    def _bear(self, error: AwayError) -> None:
        """Go on without an answer for a while."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        away = now - self._away_since
        if away > self._patience:
            raise ClusterError(f"{error}\nNo answer for {format_duration(away)}. The jobs go on: resume the run later.")
        _log.warning("%s; asking again", error)
        self._next_look = now + max(self.poll_interval, min(away, 30.0))

    def _look(self) -> list[Update]:
        """Ask for all jobs and tell what is new."""
        self._kill()
        known = self._ask(self.query, self._live)
        gone = [job for job in self._live if job not in known]
        if gone:
            known = self._recorded(gone) | known
        updates = [self._news(job, live, known.get(job)) for job, live in list(self._live.items())]
        return [update for update in updates if update is not None]

    def _base(self, job: JobId) -> str:
        return self.split(job)[0]

    def _recorded(self, gone: Iterable[JobId]) -> dict[JobId, Found]:
        try:
            return self._ask(self.account, gone)
        except AwayError:
            raise
        except ClusterError as error:  # a site without accounting: such jobs are judged as unknown ones
            _log.warning("%s", error)
            return {}

    def _ask(self, question: _Question, jobs: Iterable[JobId]) -> dict[JobId, Found]:
        bases = list(dict.fromkeys(map(self._base, jobs)))
        known: dict[JobId, Found] = {}
        for portion in portions(bases, self.query_limit):
            known |= question(portion)
        return known

    def _news(self, job: JobId, live: _Live, found: Found | None) -> Update | None:
        if found is None:
            found = self._missing(live)
        else:
            live.missing_since = None
        if found.state is JobState.ENDED:
            del self._live[job]
            (self._to_kill.add if found.is_stuck else self._to_kill.discard)(job)
            return self._ended(job, live, found)
        is_new, live.state = found.state is not live.state, found.state
        return Update(job, found.state, None, found.detail) if is_new else None

    def _missing(self, live: _Live) -> Found:
        """Judge a job that nothing knows. That is never success."""
        if live.is_killed:
            return Found(JobState.ENDED, Cause.LOST, "killed")
        live.missing_since = live.missing_since or time.monotonic()
        if time.monotonic() - live.missing_since < self.grace:
            return Found(JobState.UNKNOWN, None, "neither queue nor accounting know it now")
        return Found(JobState.ENDED, Cause.LOST, f"neither queue nor accounting knew it for {self.grace:g} s")

    def _ended(self, job: JobId, live: _Live, found: Found) -> Update:
        if found.cause is None or live.is_killed:
            live.log.unlink(missing_ok=True)
        else:
            found = self._explained(live, found)
        self._alive[live.name] -= 1
        if not self._alive[live.name]:
            (self.log_directory / f"{live.name}.sh").unlink(missing_ok=True)
        return Update(job, JobState.ENDED, found.cause, found.detail)

    def _explained(self, live: _Live, found: Found) -> Found:
        """Add the end of the job's log, and what the system itself wrote there."""
        if not self.settings.get("keep_output", True):
            return found
        try:
            text = live.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        except OSError:
            hint = f"there is no output in {self.log_directory}: can the nodes write there? See log_directory."
            return found._replace(detail=f"{found.detail}; {hint}")
        causes = [cause for pattern, cause in self.log_causes.items() if re.search(pattern, text, re.MULTILINE)]
        said = f"; {live.log} ends with:\n{text}" if text else ""
        return found._replace(cause=(*causes, found.cause)[0], detail=found.detail + said)

    def _kill(self) -> None:
        """End what is to be ended; arrays of which nothing else lives by their own id."""
        if not self._to_kill:
            return
        kept = set(map(self._base, self._live.keys() - self._to_kill))
        targets = dict.fromkeys(job if self._base(job) in kept else self._base(job) for job in sorted(self._to_kill))
        for portion in portions(list(targets), self.kill_limit):
            try:
                self.commands.run(self.kill_command(portion))
            except AwayError:
                raise
            except ClusterError as error:
                _log.info("%s", error)  # a job that is gone is no error, and polls tell the truth
        self._to_kill.clear()

    def list(self, workflow: str) -> dict[JobId, str]:
        """Find live jobs of a workflow, and take them over: polls tell of them from now on.

        A job whose script is gone has the empty name instead of its batch's.
        """
        found: dict[JobId, str] = {}
        tables: dict[str, list[str]] = {}
        for job, name in self._patiently(self.names).items():
            if f"-{name}".rpartition("-")[0].endswith(f"-{workflow}"):
                table = tables[name] if name in tables else tables.setdefault(name, self._table(name))
                place = (self.split(job)[1] or self.first) - self.first
                found[job] = table[place] if place < len(table) else ""
                self._watch(job, name)
        return found
