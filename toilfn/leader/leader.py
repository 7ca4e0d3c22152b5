"""The leader's loop, and the story of a run on one page.

**The graph.** A script calls `@task` functions. Each call returns a promise and runs nothing. `toilfn.compute` gives
the promises to a `WorkflowRun` (`leader/run.py`), which opens the store, computes an id for each task, and compares the
ids with the outcomes in the store's log. If all are there, it loads the values and is done, without a leader.

**The lease.** Otherwise this process becomes the leader of the store: it takes the lease, appends an `Epoch` record,
and writes the new tasks to the log. From here on no other leader can write. `leader/drive.py` opens the cluster and
builds the `Leader`. So there are two objects on the way: `WorkflowRun` knows the store, `Leader` knows what runs now.

**The loop** (`Leader.run`) joins three parts that do not know each other. It decides nothing itself.

* The *scheduler* (`toilfn/scheduler/`) is a state machine without clock, threads or files. It takes in events, such as
  `Submitted` and `Finished`, and returns commands, such as `Submit` and `Retry`.
* The *cluster* (`toilfn/clusters/`) turns batches into jobs and knows nothing of tasks. `BatchBuilder` builds them from
  `Submit` commands: each has a message with records, values and functions. `Jobs` knows which of them the cluster has,
  and `Cluster.poll` returns news of them.
* The *committer* is a thread that appends records to the log. A task is done when its outcome is in the log.

Each turn dispatches what can start, submits it, waits up to 0.2 s for news, and turns each message of a worker into an
event (`_hear`), whose commands it obeys (`_obey`). Outcomes bring new tasks, which join the graph in the same way.

**The worker** (`worker/main.py`) is another process. It decodes the batch, which runs its tasks one after the other
(`Batch.run`): for each, `AttemptRunner.run` (`worker/execute.py`) makes a directory, loads the function and the
arguments, calls the function, and returns the outcome or the failure, which the worker sends to the leader.

**The end.** When nothing is ready or runs, the loop ends; `drive.lead` closes the cluster and raises what went wrong;
`WorkflowRun` writes an `End` record and loads the values of the roots. If this process dies before that, the log says
what is done: the next leader adopts the jobs that still run (`leader/abandoned.py`) and continues in the same loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain

from toilfn import protocol
from toilfn.clusters.base import Cluster, JobState, Update
from toilfn.errors import ClusterError, ResourceError
from toilfn.graph.values import Values
from toilfn.ids import BatchId, Cause, TaskId
from toilfn.leader.abandoned import Earlier, adopt
from toilfn.leader.batches import BatchBuilder, Names
from toilfn.leader.callbacks import Callbacks
from toilfn.leader.committer import Ledger
from toilfn.leader.failures import Failures, too_large
from toilfn.leader.intermediates import CheckpointRecords, Drops, descendants, files_of
from toilfn.leader.jobs import Jobs, Queued, SubmittedBatch, Waiting
from toilfn.leader.loading import TaskRecords
from toilfn.leader.mailbox import LostJobAnswers, Mailbox, OutputMessages, ServiceMessages, never_ran
from toilfn.model import records
from toilfn.model.records import encode
from toilfn.protocol import Done, Log, Records, Running, Started, Warnings
from toilfn.resources import Capacity
from toilfn.scheduler import Scheduler
from toilfn.scheduler.events import (
    Command,
    Complete,
    Deadlock,
    Event,
    Failed,
    Finished,
    GaveUp,
    JobStarted,
    Kill,
    Lost,
    Recall,
    Release,
    RequirementsResolved,
    ResolveRequirements,
    Retry,
    Returned,
    RollBack,
    ServiceStarted,
    StopService,
    Submit,
    TailCallStarted,
)
from toilfn.scheduler.states import State

__all__ = ["Leader"]

_POLL = 0.2
"""The longest wait for news in seconds, after which the loop looks at flags and shows progress."""

_DROP_INTERVAL = 0.02
"""Seconds between two groups of files that are removed because nothing needs them, as between segments of the log."""

_SOON = 0.02
"""The same while there is news about a job that the leader does not know yet."""


class Leader:
    """Runs the tasks of a scheduler until nothing more can run.

    Parameters
    ----------
    ledger : Ledger
        The content of the store, and how it grows.
    scheduler : Scheduler
    cluster : Cluster
        Opened.
    mailbox : Mailbox
        For clusters that are not direct.
    callbacks : Callbacks
    names : Names
    capacity : callable
        Returns the capacity, given the number of jobs that the system had accepted when it refused more.
    worker_memory : int
        The bytes that a job requests on top of its tasks' memory.
    """

    def __init__(
        self,
        ledger: Ledger,
        scheduler: Scheduler,
        cluster: Cluster,
        mailbox: Mailbox,
        callbacks: Callbacks,
        names: Names,
        capacity: Callable[[int | None], Capacity],
        worker_memory: int = 0,
    ) -> None:
        index, loader, committer = ledger.index, ledger.loader, ledger.committer
        self._index, self._loader, self._committer, self._remove = index, loader, committer, ledger.remove
        self._scheduler, self._cluster, self._mailbox = scheduler, cluster, mailbox
        self._callbacks = callbacks
        self._workflow = names.workflow
        self._capacity = capacity
        self._drops = Drops(ledger.intermediates, committer, ledger.remove, loader.encoded, _DROP_INTERVAL)
        self._limit: int | None = None
        self._waiting = Waiting(callbacks.service_patience, callbacks.warn)
        self._queued = Queued(committer)
        self._lost_jobs = LostJobAnswers(mailbox.so_far)
        self._early: list[Update] = []
        """News about jobs that the cluster knows and the leader does not know yet."""
        self._temporary: dict[TaskId, tuple[str, ...]] = {}
        self._services = ServiceMessages(cluster, mailbox)
        self._streams = OutputMessages(mailbox, is_wanted=callbacks.said is not None)
        self._checkpoints = CheckpointRecords()
        self._news_since = 0.0
        self._roots: set[TaskId] = set()
        self._done_before: set[TaskId] = set()
        self.tasks = TaskRecords(index, loader)
        self.values = Values(index.value)
        self._failures = Failures(committer, self._report_failure, self._too_large, scheduler.shape, worker_memory)
        self._builder = BatchBuilder(
            self.tasks, self.values, self._failures.attempts, scheduler.shape,
            mailbox, names.batches, cluster.capabilities.direct, worker_memory,
        )  # fmt: skip
        self._jobs = Jobs(cluster, committer, self._builder)

    @property
    def failures(self) -> tuple[records.Failure, ...]:
        """The last failure of each task that was given up."""
        return tuple(self._failures.final.values())

    def run(self, roots: Iterable[TaskId], earlier: Earlier = Earlier()) -> None:  # noqa: B008 - it is immutable
        """Run until the roots are complete, or nothing more can run.

        Parameters
        ----------
        roots : iterable of TaskId
            The tasks whose values are wanted.
        earlier : Earlier
            Jobs and messages of earlier leaders.

        Raises
        ------
        ClusterError
            If the cluster refuses, or does not know jobs of earlier leaders that live.
        StoreError
            If the log cannot be written, for one because another leader took over.
        """
        # This loop is the only caller of scheduler, index, jobs and values, so these have no locks. Other threads
        # submit jobs (`Submitting`), write records (`Committer`) and show progress. Each gets its work through a queue
        # of its own; methods that it may call say so ("another thread may ask").
        self._roots = set(roots)
        self._done_before = {root for root in self._roots if self._index.is_complete(root)}
        # Adoption comes after loading: the scheduler must know a task before it learns that a job is running it.
        self._bring(self._loader.load(self._roots))
        self._adopt(earlier)
        self._news_since = time.monotonic()
        while not self._is_over():
            if not self._callbacks.should_drain():
                self._obey(self._scheduler.dispatch(time.monotonic(), holds=self._callbacks.should_hold()))
            else:
                self._withdraw()
                self._services.stop_the_last(self._jobs)
            self._send()
            for update in self._updates():
                self._take(update)
            for batch, message in chain(self._services.news(self._jobs), self._streams.news(self._jobs)):
                self._hear(batch, message)
            for batch, why in list(self._waiting.stuck(self._jobs, time.monotonic())):
                self._fail(batch, why)
            if not self._cluster.capabilities.direct:
                self._queued.write(self._jobs, time.monotonic())
            for name, message in self._lost_jobs.news(time.monotonic()):
                self._hear_stray(name, message)
            # The committer's thread cannot raise here. A leader that can no longer write has to stop before it submits
            # more, because another leader may have taken over.
            self._committer.check()
            if victims := self._callbacks.victims(self._jobs.names()):
                self._cluster.kill(victims)
            self._callbacks.tick(self._scheduler.counts(), self._running_names)
            self._drops.write(time.monotonic())
        self._drops.write(None)
        self._stop_listening()

    def _fail(self, batch: SubmittedBatch, text: str) -> None:
        """Fail the tasks of a batch that can never run."""
        for id_ in self._scheduler.left(batch.id):
            self._failures.describe_impossible(id_, text)
            self._handle(Failed(id_, Cause.INPUT, time.monotonic()))
        if batch.job is not None:
            batch.is_withdrawn = True
            self._cluster.kill([batch.job])

    def _hear_stray(self, name: str, message: bytes) -> None:
        """Take the outcomes of a job that was lost; its failures are ignored, since the tasks were charged already."""
        if isinstance(said := protocol.decode(message), Records | Done):
            for data in said.records:
                if isinstance(records.decode(data), records.Outcome):
                    self._record(None, data, name)

    def _stop_listening(self) -> None:
        for name, heard in self._lost_jobs.drop().items():
            self._forget(name, heard)

    def _updates(self) -> list[Update]:
        early, self._early = self._early, []
        if self._callbacks.worked is not None:
            self._callbacks.worked(time.monotonic() - self._news_since)
        news = [*early, *self._cluster.poll(_SOON if early else self._patience())]
        self._news_since = time.monotonic()
        return news if self._mailbox.late is None else [*news, *self._mailbox.late.due()]

    @property
    def jobs(self) -> Jobs:
        """The batches that the cluster was given."""
        return self._jobs

    def open_tasks(self) -> list[tuple[TaskId, State]]:
        """Return the tasks that are not complete, and their states; another thread may ask."""
        return self._scheduler.open_tasks()

    @property
    def has_jobs(self) -> bool:
        """Whether the cluster has jobs of this leader."""
        return bool(self._jobs)

    def finish(self) -> None:
        """Wait until the cluster knows all jobs that it was given, so that it can end them."""
        self._jobs.close()

    def _withdraw(self) -> None:
        """Cancel the jobs that wait in the cluster's queue: nothing more may start."""
        for batch in self._jobs.withdraw():
            self._drop(batch)

    def _drop(self, batch: SubmittedBatch) -> None:
        """Forget a batch that never became a job."""
        self._forget(batch.name, 0)
        self._jobs.remove(batch)
        self._handle(Lost(batch.id, None, time.monotonic()))

    def _send(self) -> None:
        """Submit ready batches, and fail those that the cluster refuses permanently."""
        for refused in self._jobs.send(time.monotonic()):
            batch = self._jobs.batch(refused.parcel.id)
            self._fail(batch, refused.text)
            self._drop(batch)
        if self._jobs.limit != self._limit:
            self._limit = self._jobs.limit
            self._handle(self._capacity(self._limit))

    def _adopt(self, earlier: Earlier) -> None:
        """Continue with the jobs and messages that earlier leaders have left."""
        live = self._cluster.list(self._workflow)
        if strange := sorted(earlier.jobs.keys() - live.keys()):
            raise ClusterError(
                f"jobs of this store run on another cluster of the same kind: {', '.join(strange[:5])}",
                hint="resume with the settings that the run had, or cancel the jobs first with toilfn kill",
            )
        # Some systems do not return the names of jobs; the log has them.
        live |= {job: name for job, name in earlier.jobs.items() if not live[job]}
        mailbox = earlier.mailbox or self._mailbox
        # Answers of jobs that still run are read when those jobs are polled; the rest have no job to report them.
        for name in mailbox.left().keys() - live.values():
            answers = mailbox.so_far(name)
            for message in answers:
                self._hear(None, message, name)
            self._forget(name, len(answers), mailbox)
        if useless := adopt(live, self._mailbox, self._index.is_void, self._scheduler, self._jobs):
            self._cluster.kill(useless)

    def _forget(self, name: str, count: int, mailbox: Mailbox | None = None) -> None:
        # Not before the outcomes are in the log: a leader that dies in between would lose finished work.
        self._committer.then(lambda: (mailbox or self._mailbox).forget(name, count))

    def _is_over(self) -> bool:
        if self._callbacks.should_stop():
            return True
        return not self._jobs if self._callbacks.should_drain() else self._scheduler.idle

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
                    self._drops.completed(id_)
                    deleted = self._checkpoints.complete(id_, self._index)
                    self._delete((*self._temporary.pop(id_, ()), *deleted))
                case Retry(id_, cause, attempt):
                    self._failures.retry(id_, cause, attempt)
                case GaveUp(id_, cause):
                    self._failures.give_up(id_, cause)
                case _:
                    self._obey_for_now(command)
        if submits:
            self._jobs.submit(submits)

    def _obey_for_now(self, command: Command) -> None:
        """Obey the rarer commands; apart from `_obey` because those above come for each task."""
        match command:
            case RollBack():
                self._roll_back(command)
            case ResolveRequirements(id_):
                self._shape(id_)
            case Recall(batch):
                self._jobs.recall(batch)
            case Kill(batch, service):
                self._jobs.kill(batch, service)
            case StopService(id_, place):
                self._stop(id_, place)
            case Deadlock(id_, services):
                self._failures.describe_impossible(id_, self._services.deadlock(list(map(self.tasks.name, services))))

    def _shape(self, id_: TaskId) -> None:
        """Compute the requirements of a task that come from values."""
        try:
            shape = self._loader.late_shape(self.tasks.get(id_), self.values.closure)
        except Exception as error:  # values are unpickled, and that may call user code
            message = (
                str(error)
                if isinstance(error, ResourceError)
                else f"its resource requirements could not be evaluated: {error!r}"
            )
            self._failures.describe_impossible(id_, message)
            shape = None
        self._handle(RequirementsResolved(id_, shape))

    def _stop(self, id_: TaskId, batch: BatchId | None) -> None:
        """Stop a service. One that is not running, and that no task needs any longer, is done."""
        if batch is not None:
            self._services.stop(self._jobs.batch(batch))
            return
        self._failures.write_described(id_)
        outcome = never_ran(id_)
        self._outcome(outcome, encode(outcome))

    def _roll_back(self, command: RollBack) -> None:
        """Forget a task's outcome and everything that followed from it."""
        self._stop_listening()  # lost jobs may report outcomes that are void now
        top = self._scheduler.outermost_checkpoint(command.id) or command.id
        record = self._checkpoints.record(command.id) or encode(self._index.task(command.id))
        void = descendants(self._index, (command.id, *command.family))
        what = "died" if command.cause is Cause.LOST else "failed permanently"
        text = f"rolled back: {self.tasks.name(command.failed)} (task {command.failed.hex()[:12]}) {what}"
        files = list(self._checkpoints.forget(top, void))
        for id_ in void:
            if id_ in self._index.outcomes:
                files += files_of(self._index.outcome(id_))
                self._index.forget(id_)
            self._loader.encoded.pop(id_, None)
            self._temporary.pop(id_, None)
            self._failures.forget(id_)
        self.values.drop(void)
        # Restrict the running batches before the record names the newest of them: no batch up to it can bring a void
        # outcome back, and batches after it have a right to report the same tasks again.
        self._jobs.restrict(self._scheduler.left, set(void))
        self._committer.add(encode(records.Forget(tuple(void), self._builder.newest)))
        self._remove_later(tuple(files))
        self._loader.encoded[command.id] = record
        self._drops.rolled_back(void, self.tasks.get(command.id))
        self._failures.roll_back(command, text)

    @property
    def is_done(self) -> bool:
        """Whether all requested tasks are complete."""
        return all(map(self._scheduler.is_complete, self._roots - self._done_before))

    def stuck(self) -> list[TaskId]:
        """List the tasks that wait for each other and will never start."""
        return [id_ for id_ in self._scheduler.stuck() if self.tasks.is_open(id_)]

    def _take(self, update: Update) -> None:
        batch = self._jobs.of(update.job)
        if batch is None:
            if self._jobs.is_submitting:  # the cluster may know the job before its submission has returned
                self._early.append(update)
            return
        for message in update.answers:
            self._hear(batch, message)
        if not self._cluster.capabilities.direct:
            batch.note(update, time.monotonic())
            if update.state is JobState.RUNNING and not update.is_ending:
                self._handle(JobStarted(batch.id, time.monotonic()))
        if update.state is JobState.ENDED or self._is_done(batch, update):
            # Process all messages of the job first, and then its end, with which tasks without an outcome fail.
            answers = self._mailbox.so_far(batch.name)
            if self._mailbox.late is not None:
                if self._mailbox.late.is_late(update, answers):
                    return
                update = self._mailbox.late.explained(update, answers)
            for message in self._streams.rest(batch.name, answers):
                self._hear(batch, message)
            if not self._cluster.capabilities.direct:
                if update.cause is Cause.LOST:
                    self._lost_jobs.add(batch.name, len(answers))
                else:
                    self._forget(batch.name, len(answers))
            self._jobs.remove(batch)
            self._end(batch, update)

    def _is_done(self, batch: SubmittedBatch, update: Update) -> bool:
        """Return whether a job that has not ended has done its work; a site's epilog may still run."""
        if not (update.is_ending or update.state is JobState.UNKNOWN):
            return False
        return protocol.is_done(self._mailbox.so_far(batch.name))

    def _end(self, batch: SubmittedBatch, update: Update) -> None:
        now = time.monotonic()
        if batch.is_withdrawn:
            update = replace(update, cause=None)  # it never began, so this is not an attempt
        # The task that was running is charged with the failure; the others of the batch return to the queue. If it is
        # not known which one that was (`is_sure` is false), the scheduler may run each of them alone to find out.
        left = self._scheduler.left(batch.id)
        known = update.running or batch.running
        known = known if known in left else None
        running = known or (left[0] if left else None)
        is_sure = known is not None or len(left) == 1 or self._cluster.capabilities.direct
        if update.cause is not None and running is not None:
            detail = (
                f"its service {self.tasks.name(batch.dead_service)} has died" if batch.dead_service else update.detail
            )
            log = update.log or batch.output_of(running)
            self._failures.describe_lost(running, update.cause, detail, log, update.since)
        self._handle(Lost(batch.id, update.cause, now, running, is_sure))

    def _hear(self, batch: SubmittedBatch | None, message: bytes, name: str = "") -> None:
        said = protocol.decode(message)
        if isinstance(said, Records | Done):
            for data in said.records:
                self._record(batch, data, name)
            if batch is not None and said.records:
                self._note_tail_calls(batch, said.tail_calls)
            return
        if batch is None:
            return
        match said:
            case Started(id_, value):
                self._service_started(batch, id_, value)
            case protocol.Returned(ids):
                self._handle(Returned(batch.id, tuple(ids)))
            case Running(id_, since):
                self._runs(batch, id_, since)
            case Warnings(lines):
                for name_of_task, text in lines:
                    self._callbacks.warned(name_of_task, text)
            case Log(id_, text):
                batch.note_output(id_, text)
                if self._callbacks.said is not None:
                    self._callbacks.said(self.tasks.name(id_), id_, text)

    def _note_tail_calls(self, batch: SubmittedBatch, tail_calls: Sequence[TaskId]) -> None:
        """Note that the worker of a batch runs another task now, which may be one that the worker has created."""
        batch.running = None
        for id_ in tail_calls:
            if batch.owed is None or id_ in batch.owed:
                self._handle(TailCallStarted(batch.id, id_))
                batch.tail_call = id_

    def _runs(self, batch: SubmittedBatch, id_: TaskId, start: float) -> None:
        """Note the task that a worker has been running for a while; a tail call has not been noted before."""
        batch.running = id_
        if id_ == batch.tail_call:
            self._committer.add(encode(records.Started((id_,), batch.job or "", start)))

    def _running_names(self) -> list[str]:
        ids = (batch.running for batch in self._jobs)
        return [self.tasks.name(id_) for id_ in ids if id_ is not None and self.tasks.is_open(id_)]

    def _service_started(self, batch: SubmittedBatch, id_: TaskId, value: protocol.Value) -> None:
        self.values.put(id_, records.payload_or_ref(value), ())
        self._handle(ServiceStarted(batch.id, id_))

    def _record(self, batch: SubmittedBatch | None, data: bytes, name: str) -> None:
        record = records.decode(data)
        if not isinstance(record, records.Outcome | records.Failure) or not self._counts(batch, record, name):
            return
        if isinstance(record, records.Outcome) and self._scheduler.is_wanted(record.id):
            if batch is not None:  # it has stopped for now
                self._handle(Returned(batch.id, (record.id,)))
        elif isinstance(record, records.Outcome):
            self._outcome(record, data)
        elif self.tasks.is_open(record.id):
            self._failures.describe(record)
            self._handle(Failed(record.id, Cause(record.cause), time.monotonic()))

    def _counts(self, batch: SubmittedBatch | None, record: records.Outcome | records.Failure, name: str) -> bool:
        """Return whether a record counts, because no roll-back has made its attempt void."""
        if batch is None:
            return not self._index.is_void(record.id, name)
        if batch.owed is None:
            return True
        counts = record.id in batch.owed
        if counts and isinstance(record, records.Outcome):
            batch.owed.update(task.id for task in record.tasks)
        return counts

    def _outcome(self, outcome: records.Outcome, data: bytes) -> None:
        if self._callbacks.ended and self.tasks.is_open(outcome.id):
            self._callbacks.ended(self.tasks.name(outcome.id), outcome)
        record = self._loader.encoded.pop(outcome.id, None)
        if record is None:
            return  # a second outcome: the first one counts
        self._committer.add(data)
        outermost = self._scheduler.outermost_checkpoint(outcome.id)
        if outermost is None:
            self._delete(outcome.deleted)
        else:
            self._checkpoints.keep(outermost, outcome, record)
        if outcome.temporary:
            self._temporary[outcome.id] = outcome.temporary
        for function in outcome.functions:
            self._index.functions.setdefault(function.digest, function)
        known = self._bring_known(outcome) if outcome.tasks or outcome.refs else ()
        self.values.put(outcome.id, outcome.value, outcome.refs)
        fresh = tuple(self._loader.admit(task) for task in outcome.tasks if task.id not in self._index.outcomes)
        self._drops.finished(outcome, record)
        waits = tuple(id_ for id_ in known if not self._index.is_complete(id_))
        self._failures.succeed(outcome.id)
        self._handle(Finished(outcome.id, fresh, waits, outcome.stats.wall))

    def _bring_known(self, outcome: records.Outcome) -> set[TaskId]:
        """Pass the tasks that an outcome refers to and did not create to the scheduler; return their ids."""
        self._loader.prepare(outcome)
        known = [task.id for task in outcome.tasks if task.id in self._index.outcomes]
        self._bring(self._loader.load(known) if known else ())
        created = {task.id for task in outcome.tasks}
        return {*known, *(ref for ref in outcome.refs if ref not in created)}

    def _delete(self, blobs: tuple[str, ...]) -> None:
        """Remove files that tasks deleted, and record this for later leaders."""
        if blobs:
            self._committer.add(encode(records.Deleted(blobs)))
            self._remove_later(blobs)

    def _remove_later(self, blobs: tuple[str, ...]) -> None:
        """Remove blobs from the store as soon as the records added so far are durable."""
        if blobs:
            self._committer.then(lambda: self._remove(blobs))

    def _bring(self, events: Iterable[Event]) -> None:
        """Pass on the loaded tasks; values of finished tasks keep the values that they refer to in memory."""
        events = list(events)
        forgotten = self._loader.stale.take_forgotten()
        for reason in sorted(set(forgotten.values())):
            ids = tuple(id_ for id_, why in forgotten.items() if why == reason)
            self._committer.add(encode(records.Forget(ids, reason=reason)))
        self._drops.loaded(forgotten, events)
        for event in events:
            if isinstance(event, Finished):
                outcome = self._index.outcome(event.id)
                self.values.put(event.id, outcome.value, outcome.refs)
                if outcome.temporary:
                    self._temporary[event.id] = outcome.temporary
            self._handle(event)

    def _report_failure(self, failure: records.Failure) -> None:
        if self._callbacks.ended:
            self._callbacks.ended(self.tasks.name(failure.id), failure)

    def _too_large(self, id_: TaskId) -> str:
        return too_large(self._scheduler.shape(id_), self._scheduler.largest, self._capacity(None))
