"""The leader: joins scheduler, store and cluster in one loop.

It decides nothing. News from the cluster become events for the scheduler and records for the
log; the scheduler's commands become batches for the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from toilfn import records
from toilfn.clusters.base import Batch, Cluster, JobId, JobState, Update
from toilfn.errors import ResourceError
from toilfn.events import (
    Adopted,
    BatchId,
    Cause,
    Command,
    Complete,
    Deadlock,
    Event,
    Failed,
    Finished,
    GaveUp,
    Kept,
    Kill,
    Lost,
    Recall,
    Release,
    Resolve,
    Retry,
    Returned,
    RollBack,
    ServiceStarted,
    Shaped,
    StopService,
    Submit,
    TaskId,
)
from toilfn.lead import messages
from toilfn.lead.committer import Committer
from toilfn.lead.failures import too_large
from toilfn.lead.index import Index
from toilfn.lead.loading import Loader
from toilfn.lead.rollback import Kept as Checkpointed
from toilfn.lead.rollback import descendants, files_of
from toilfn.lead.services import Services, never_ran
from toilfn.lead.valuecache import Values
from toilfn.records import encode
from toilfn.resources import Resources
from toilfn.scheduler import Scheduler

__all__ = ["Answers", "Leader", "Out", "Watch"]

_POLL = 0.2
"""The longest wait for news, in seconds, so that flags and progress are looked at."""


@dataclass(slots=True)
class Watch:
    """What the world outside may ask of a leader, looked at a few times a second.

    Attributes
    ----------
    should_drain : callable
        Whether to start nothing more and wait for what runs.
    should_stop : callable
        Whether to end at once.
    tick : callable
        Called with the scheduler's counts, and a function that names the tasks that are running, for progress.
    victims : callable
        Given the jobs that the cluster has, chooses some to be killed: to try a workflow out.
    ended : callable or None
        Called with a task's name and the record of each attempt that ended.
    said : callable
        Called with a task's name and id, and what its running attempt has printed since the last time.
    """

    should_drain: Callable[[], bool] = lambda: False
    should_stop: Callable[[], bool] = lambda: False
    tick: Callable[[dict[str, int], Callable[[], list[str]]], None] = lambda *_: None
    victims: Callable[[Collection[JobId]], Sequence[JobId]] = lambda _: ()
    ended: Callable[[str, records.Outcome | records.Failure], None] | None = None
    said: Callable[[str, TaskId, bytes], None] = lambda *_: None


class Answers:
    """Where a cluster that is not direct leaves messages: none for a direct one."""

    def put(self, name: str, message: bytes) -> None:
        """Keep a batch's message for its worker."""

    def take(self, name: str, *, ended_well: bool) -> Sequence[bytes]:
        """Read the answers of a batch that ended."""
        return ()

    def left(self) -> dict[str, int]:
        """Count the answers of each batch that earlier leaders have not read."""
        return {}

    def tasks(self, name: str) -> tuple[TaskId, ...]:
        """Give the tasks of a batch, from its message."""
        return ()

    def so_far(self, name: str) -> Sequence[bytes]:
        """Read what a batch that runs has answered."""
        return ()

    def stop(self, name: str) -> None:
        """Tell the service of a batch to stop."""

    def forget(self, name: str, count: int) -> None:
        """Delete a batch's message and its answers: what they say is durable."""


@dataclass(slots=True)
class Out:
    """A batch that the cluster has."""

    id: BatchId
    name: str
    job: JobId
    recalled: bool = False
    running: TaskId | None = None
    """The task that its worker has been at for a while."""
    service: TaskId | None = None
    """The service that it runs."""
    dead_service: TaskId | None = None
    """The service whose death is the reason why it was killed."""
    kept: TaskId | None = None
    """The newest task that its worker went on with by itself."""
    owed: set[TaskId] | None = None
    """The tasks that it may still speak of, after a roll-back; None: any."""


@dataclass(slots=True)
class _Tally:
    attempts: dict[TaskId, int] = field(default_factory=dict)
    failures: dict[TaskId, records.Failure] = field(default_factory=dict)
    last: dict[TaskId, records.Failure] = field(default_factory=dict)

    def forget(self, id_: TaskId) -> None:
        """Forget what happened to a task."""
        for kept in (self.attempts, self.failures, self.last):
            kept.pop(id_, None)


class Leader:
    """Runs what a scheduler holds, until nothing more can run.

    Parameters
    ----------
    index : Index
        What the store has.
    loader : Loader
        Brings tasks of the store to the scheduler.
    scheduler : Scheduler
    cluster : Cluster
        Opened.
    workflow : str
        The name under which the cluster has this workflow's jobs.
    committer : Committer
        Writes records.
    answers : Answers
        For clusters that are not direct.
    name : str
        What batches' names begin with: unique to this leader.
    watch : Watch
    remove : callable
        Deletes objects of the store by their names.
    """

    def __init__(
        self,
        index: Index,
        loader: Loader,
        scheduler: Scheduler,
        cluster: Cluster,
        workflow: str,
        committer: Committer,
        answers: Answers,
        name: str,
        watch: Watch,
        remove: Callable[[Iterable[str]], None],
    ) -> None:
        self._index = index
        self._loader = loader
        self._scheduler = scheduler
        self._cluster = cluster
        self._workflow = workflow
        self._committer = committer
        self._answers = answers
        self._name = name
        self._newest = f"{name}-0"
        self._watch = watch
        self._remove = remove
        self._out: dict[BatchId, Out] = {}
        self._jobs: dict[JobId, Out] = {}
        self._tally = _Tally()
        self._temporary: dict[TaskId, tuple[str, ...]] = {}
        self._services = Services(cluster, answers)
        self._kept = Checkpointed()
        self._roots: set[TaskId] = set()
        self._done_before: set[TaskId] = set()
        self.values = Values(index.value)

    @property
    def failures(self) -> tuple[records.Failure, ...]:
        """The last failure of each task that was given up."""
        return tuple(self._tally.failures.values())

    def run(self, roots: Iterable[TaskId]) -> None:
        """Run until the roots are complete, or nothing more can run.

        Parameters
        ----------
        roots : iterable of TaskId
            The tasks whose values are wanted.

        Raises
        ------
        StoreError
            If the log cannot be written, for one because another leader took over.
        """
        self._roots = set(roots)
        self._done_before = {root for root in self._roots if self._index.is_complete(root)}
        self._bring(self._loader.load(self._roots))
        self._adopt()
        while not self._is_over():
            if not self._watch.should_drain():
                self._obey(self._scheduler.dispatch(time.monotonic()))
            else:
                self._services.stop_the_last(self._out.values())
            for update in self._cluster.poll(self._patience()):
                self._take(update)
            for out, message in self._services.news(self._out.values()):
                self._hear(out, message)
            self._committer.check()
            if victims := self._watch.victims(self._jobs):
                self._cluster.kill(victims)
            self._watch.tick(self._scheduler.counts(), self._running_names)

    def _adopt(self) -> None:
        """Go on with what earlier leaders have left in the cluster and in the store."""
        live = self._cluster.list(self._workflow)
        for name in self._answers.left().keys() - live.values():
            answers = self._answers.take(name, ended_well=False)
            for message in answers:
                self._hear(None, message, name)
            self._forget(name, len(answers))
        for job, name in live.items():
            tasks = self._answers.tasks(name)
            valid = tuple(id_ for id_ in tasks if not self._index.is_void(id_, name))
            adopted = self._scheduler.handle(Adopted(valid, time.monotonic()))
            for command in adopted:
                if isinstance(command, Submit):
                    self._out[command.batch] = self._jobs[job] = Out(command.batch, name, job)
                    self._out[command.batch].owed = None if valid == tasks else set(valid)
            if not adopted:
                self._cluster.kill([job])

    def _forget(self, name: str, count: int) -> None:
        self._committer.then(lambda: self._answers.forget(name, count))

    def _is_over(self) -> bool:
        if self._watch.should_stop():
            return True
        return not self._out if self._watch.should_drain() else self._scheduler.idle

    def _patience(self) -> float:
        wake_at = self._scheduler.wake_at
        return _POLL if wake_at is None else min(_POLL, max(0.0, wake_at - time.monotonic()))

    def _handle(self, event: Event) -> None:
        self._obey(self._scheduler.handle(event))

    def _obey(self, commands: Iterable[Command]) -> None:
        submits = []
        for command in commands:
            match command:
                case Submit():
                    submits.append(command)
                case Release(id_):
                    if id_ not in self._roots:
                        self.values.release(id_)
                case Complete(id_):
                    self._delete((*self._temporary.pop(id_, ()), *self._kept.complete(id_)))
                case Retry(id_, cause, attempt):
                    self._tally.attempts[id_] = attempt
                    self._note_failure(id_, cause, final=False)
                case GaveUp(id_, cause):
                    self._note_failure(id_, cause, final=True)
                case _:
                    self._obey_for_now(command)
        if submits:
            self._submit(submits)

    def _obey_for_now(self, command: Command) -> None:
        """Obey what concerns one batch that runs, or one task that is not to run now."""
        match command:
            case RollBack():
                self._roll_back(command)
            case Resolve(id_):
                self._shape(id_)
            case Recall(batch):
                self._cluster.recall(self._out[batch].job)
            case Kill(batch, service):
                self._out[batch].dead_service = service
                self._cluster.kill([self._out[batch].job])
            case StopService(id_, place):
                self._stop(id_, place)
            case Deadlock(id_, services):
                text = self._services.deadlock(list(map(self.task_name, services)))
                self._tally.last[id_] = _impossible(id_, text)

    def _shape(self, id_: TaskId) -> None:
        """Find out what a task asks for whose requirements come from values."""
        try:
            shape = self._loader.late_shape(self.task(id_), self.values.closure)
        except Exception as error:  # values are unpickled, and that may call user code
            message = (
                str(error) if isinstance(error, ResourceError) else f"its requirements are not to be read: {error!r}"
            )
            self._tally.last[id_] = _impossible(id_, message)
            shape = None
        self._handle(Shaped(id_, shape))

    def _stop(self, id_: TaskId, batch: BatchId | None) -> None:
        """Stop a service; one that nobody needs any more, and that does not run, is done."""
        if batch is not None:
            self._services.stop(self._out[batch])
            return
        if (failure := self._tally.last.pop(id_, None)) is not None:
            self._committer.add(encode(failure))
        outcome = never_ran(id_)
        self._outcome(outcome, encode(outcome))

    def _roll_back(self, command: RollBack) -> None:
        """Forget what followed from a checkpoint's outcome, and that itself."""
        top = self._scheduler.outermost_checkpoint(command.id) or command.id
        record = self._kept.record(command.id) or encode(self._index.task(command.id))
        void = descendants(self._index, (command.id, *command.family))
        text = f"rolled back: {self.task_name(command.failed)} (task {command.failed.hex()[:12]}) failed for good"
        files = list(self._kept.forget(top, void))
        for id_ in void:
            if id_ in self._index.outcomes:
                files += files_of(self._index.outcome(id_))
                self._index.forget(id_)
            self._loader.encoded.pop(id_, None)
            self._temporary.pop(id_, None)
            self._tally.forget(id_)
        self.values.drop(void)
        self._restrict(set(void))
        self._committer.add(encode(records.Forget(tuple(void), self._newest)))
        self._delete(tuple(files))
        self._loader.encoded[command.id] = record
        self._tally.attempts[command.id] = command.attempt
        self._tally.last[command.id] = records.Failure(
            command.id, command.attempt, Cause.ERROR.value, text, "", b"", records.Stats()
        )
        self._note_failure(command.id, Cause.ERROR, final=False)

    def _restrict(self, void: set[TaskId]) -> None:
        """Have the batches that are out speak only of what they still have to do, and of what that leads to."""
        for out in self._out.values():
            out.owed = set(self._scheduler.left(out.id)) - void

    def _submit(self, submits: list[Submit]) -> None:
        direct = self._cluster.capabilities.direct
        batches = []
        for submit in submits:
            name = self._newest = f"{self._name}-{submit.batch}"
            message = self._message(submit)
            if not direct:
                self._answers.put(name, message)
            is_service = self._loader.is_service(self.task(submit.ids[0]))
            batches.append(Batch(name, self._label(submit), self._job(submit), message if direct else b"", is_service))
        jobs = self._cluster.submit(batches)
        for submit, batch, job in zip(submits, batches, jobs, strict=True):
            out = Out(submit.batch, batch.name, job, service=submit.ids[0] if batch.is_service else None)
            self._out[submit.batch] = self._jobs[job] = out
            self._committer.add(encode(records.Started(submit.ids, job, time.time())))

    def _job(self, submit: Submit) -> Resources:
        """Say what the job asks for: its tasks run one after the other, so their times add up."""
        if submit.shape.walltime is None or len(submit.ids) == 1:
            return submit.shape
        times = (self._scheduler.shape(id_).walltime or 0.0 for id_ in submit.ids)
        return replace(submit.shape, walltime=sum(times))

    def _message(self, submit: Submit) -> bytes:
        within = set(submit.ids)
        tasks, needs, functions = [], [], {}
        for id_ in submit.ids:
            data = self._loader.encoded[id_]
            task = records.decode(data)
            assert isinstance(task, records.Task)
            tasks.append((data, self._tally.attempts.get(id_, 0) + 1, self._scheduler.shape(id_)))
            needs += [need for need in task.needs if need not in within]
            functions[task.function] = self._index.functions[task.function]
        return messages.run_batch(tasks, self.values.closure(needs), map(encode, functions.values()))

    def _label(self, submit: Submit) -> str:
        first = self.task_name(submit.ids[0])
        return first if len(submit.ids) == 1 else f"{first} and {len(submit.ids) - 1} more"

    @property
    def is_done(self) -> bool:
        """Whether all that was wanted is complete."""
        return all(map(self._scheduler.is_complete, self._roots - self._done_before))

    def stuck(self) -> list[TaskId]:
        """List the tasks that wait for each other and will never start."""
        return [id_ for id_ in self._scheduler.stuck() if id_ in self._loader.encoded]

    def task(self, id_: TaskId) -> records.Task:
        """Give a task's record."""
        data = self._loader.encoded.get(id_)
        task = records.decode(data) if data else self._index.task(id_)
        assert isinstance(task, records.Task)
        return task

    def task_name(self, id_: TaskId) -> str:
        """Give the name of a task's function, for people; of one that this leader has finished, its id."""
        try:
            task = self.task(id_)
        except KeyError:
            return f"task {id_.hex()[:12]}"
        return str(task.options.get("name") or self._index.functions[task.function].name)

    def _take(self, update: Update) -> None:
        out = self._jobs.get(update.job)
        if out is None:
            return
        for message in update.answers:
            self._hear(out, message)
        if update.state is JobState.ENDED:
            answers = self._answers.take(out.name, ended_well=update.cause is None)
            for message in answers:
                self._hear(out, message)
            if not self._cluster.capabilities.direct:
                self._forget(out.name, len(answers))
            del self._jobs[update.job], self._out[out.id]
            self._end(out, update)

    def _end(self, out: Out, update: Update) -> None:
        now = time.monotonic()
        left = self._scheduler.left(out.id)
        running = update.running if out.owed is None or update.running in left else None
        running = running or (left[0] if left else None)
        if update.cause is not None and running is not None:
            detail = f"its service {self.task_name(out.dead_service)} has died" if out.dead_service else update.detail
            self._tally.last[running] = records.Failure(
                running, self._tally.attempts.get(running, 0) + 1, update.cause.value, detail, "", update.log,
                records.Stats(start=time.time()),
            )  # fmt: skip
        self._handle(Lost(out.id, update.cause, now, running))

    def _hear(self, out: Out | None, message: bytes, name: str = "") -> None:
        kind, rest = messages.read(message)
        if kind == "records":
            for data in rest[0]:
                self._record(out, data, name)
            if out is not None:
                self._go_on(out, rest[1])
        elif out is None:
            return
        elif kind == "started":
            self._service_started(out, *rest)
        elif kind == "returned":
            self._handle(Returned(out.id, rest[0]))
        elif kind == "running":
            self._runs(out, *rest)
        elif kind == "log":
            self._watch.said(self.task_name(rest[0]), *rest)

    def _go_on(self, out: Out, kept: Sequence[TaskId]) -> None:
        """Note that a batch's worker is at something else now, with tasks of its own making perhaps."""
        out.running = None
        for id_ in kept:
            if out.owed is None or id_ in out.owed:
                self._handle(Kept(out.id, id_))
                out.kept = id_

    def _runs(self, out: Out, id_: TaskId, start: float) -> None:
        """Note what a worker has been at for a while; a task that it went on with has not been noted before."""
        out.running = id_
        if id_ == out.kept:
            self._committer.add(encode(records.Started((id_,), out.job, start)))

    def _running_names(self) -> list[str]:
        ids = (out.running for out in self._out.values())
        return [self.task_name(id_) for id_ in ids if id_ is not None and id_ in self._loader.encoded]

    def _service_started(self, out: Out, id_: TaskId, value: bytes | Sequence[Any]) -> None:
        self.values.put(id_, value if isinstance(value, bytes) else records.BlobRef(*value), ())
        self._handle(ServiceStarted(out.id, id_))

    def _record(self, out: Out | None, data: bytes, name: str) -> None:
        record = records.decode(data)
        if not isinstance(record, records.Outcome | records.Failure) or not self._counts(out, record, name):
            return
        if isinstance(record, records.Outcome) and self._scheduler.is_wanted(record.id):
            if out is not None:  # it has stopped for now
                self._handle(Returned(out.id, (record.id,)))
        elif isinstance(record, records.Outcome):
            self._outcome(record, data)
        elif record.id in self._loader.encoded:
            self._tally.last[record.id] = record
            self._handle(Failed(record.id, Cause(record.cause), time.monotonic()))

    def _counts(self, out: Out | None, record: records.Outcome | records.Failure, name: str) -> bool:
        """Whether a record is none of an attempt that a roll-back has made void."""
        if out is None:
            return not self._index.is_void(record.id, name)
        if out.owed is None:
            return True
        counts = record.id in out.owed
        if counts and isinstance(record, records.Outcome):
            out.owed.update(task.id for task in record.tasks)
        return counts

    def _outcome(self, outcome: records.Outcome, data: bytes) -> None:
        if self._watch.ended and outcome.id in self._loader.encoded:
            self._watch.ended(self.task_name(outcome.id), outcome)
        record = self._loader.encoded.pop(outcome.id, None)
        if record is None:
            return  # a second outcome: the first one counts
        self._committer.add(data)
        outermost = self._scheduler.outermost_checkpoint(outcome.id)
        if outermost is None:
            self._delete(outcome.deleted)
        else:
            self._kept.keep(outermost, outcome, record)
        if outcome.temporary:
            self._temporary[outcome.id] = outcome.temporary
        for function in outcome.functions:
            self._index.functions.setdefault(function.digest, function)
        known = [task.id for task in outcome.tasks if task.id in self._index.outcomes]
        self._bring(self._loader.load(known) if known else ())
        self.values.put(outcome.id, outcome.value, outcome.refs)
        fresh = tuple(self._loader.admit(task) for task in outcome.tasks if task.id not in self._index.outcomes)
        created = {task.id for task in outcome.tasks}
        waits = {*known, *(ref for ref in outcome.refs if ref not in created)}
        self._tally.attempts.pop(outcome.id, None)
        self._handle(
            Finished(
                outcome.id,
                fresh,
                tuple(id_ for id_ in waits if not self._index.is_complete(id_)),
                outcome.stats.wall,
            )
        )

    def _delete(self, blobs: tuple[str, ...]) -> None:
        """Remove blobs from the store when what has been committed so far is durable."""
        if blobs:
            self._committer.then(lambda: self._remove(blobs))

    def _bring(self, events: Iterable[Event]) -> None:
        """Hand over what was loaded; the values of finished tasks keep those that they refer to in memory."""
        events = list(events)
        if forgotten := self._loader.take_forgotten():
            self._committer.add(encode(records.Forget(forgotten)))
        for event in events:
            if isinstance(event, Finished):
                self.values.put(event.id, *self._index.value(event.id))
            self._handle(event)

    def _note_failure(self, id_: TaskId, cause: Cause, *, final: bool) -> None:
        failure = self._tally.last.pop(id_, None) or self._unheard(id_, cause)
        failure = failure._replace(final=final)
        self._committer.add(encode(failure))
        if self._watch.ended:
            self._watch.ended(self.task_name(id_), failure)
        if final:
            self._tally.failures[id_] = failure

    def _unheard(self, id_: TaskId, cause: Cause) -> records.Failure:
        """Describe a failure that no worker and no cluster has described."""
        if cause is Cause.INPUT:
            text = too_large(self._scheduler.shape(id_), self._scheduler.largest)
        else:
            text = f"ended without an answer ({cause.value})"
        return records.Failure(id_, self._tally.attempts.get(id_, 1), cause.value, text, "", b"", records.Stats())


def _impossible(id_: TaskId, message: str) -> records.Failure:
    """Describe the failure of a task that cannot even be started."""
    return records.Failure(id_, 1, Cause.INPUT.value, message, "", b"", records.Stats())
