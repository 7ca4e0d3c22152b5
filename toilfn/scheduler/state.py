"""All data of a scheduler in one place, and the conditions that it must meet.

`SchedulerState` holds the data. The rules (`machine`, `links`, `drafting`) are built over one state, and keep
short names for the parts they use. A task changes its state through `SchedulerState.move` only, which keeps the counts,
the queues and the batches in step.

`SchedulerState.check` tests what holds between any two calls of the scheduler. Extend it for each new field.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

from toilfn.ids import TaskId
from toilfn.scheduler.packing import Pool, Shapes
from toilfn.scheduler.ready import Charges, Ready
from toilfn.scheduler.running import Durations, Policy, RunningBatches
from toilfn.scheduler.services import Services
from toilfn.scheduler.states import MOVES, Checkpoints, Holds, State, TaskState

__all__ = ["SchedulerState"]

_REMEMBERED_MOVES = 256


class SchedulerState:
    """The data of one scheduler. It can be pickled.

    The fields depend on each other: change a task's state with `move` only. All calls come from the leader's loop, so
    there is no lock; other threads may only read `counts` and a copy of `tasks`.

    Parameters
    ----------
    policy : Policy
    pool : Pool
    """

    def __init__(self, policy: Policy, pool: Pool) -> None:
        self.policy = policy
        #: The resources that the cluster has, and how many of them batches use.
        self.pool = pool
        #: Each task that is known and not complete. Of a complete one only the id is kept, in `holds.complete`.
        self.tasks: dict[TaskId, TaskState] = {}
        #: The number of tasks in each state, complete ones included; indexed by `State`.
        self.counts = [0] * len(State)
        #: The latest moves of tasks, for the report of a bug.
        self.latest_moves: deque[tuple[TaskId, State, State]] = deque(maxlen=_REMEMBERED_MOVES)
        #: One `Shape` for all tasks that ask for the same resources.
        self.shapes = Shapes()
        #: The queues of tasks that are ready.
        self.ready = Ready(policy.patience)
        #: How long tasks of each kind take.
        self.durations = Durations()
        #: The failures of tasks that may yet succeed.
        self.charges = Charges()
        #: The complete tasks, and how many others will still load each value.
        self.holds = Holds(self.tasks)
        #: A heap of (time, task): the tasks that failed, and when each is tried again. An entry whose task is no
        #: longer in the state BACKOFF is ignored when its time comes.
        self.backoff: list[tuple[float, TaskId]] = []
        #: The tasks whose requirements depend on values, and are not known yet.
        self.unresolved: set[TaskId] = set()
        #: The tasks that run alone, since each of them may have ended its worker.
        self.alone: set[TaskId] = set()
        #: For a task with several parents: all but the first, which is `TaskState.led_by`.
        self.further_parents: dict[TaskId, list[TaskId]] = {}
        #: The batches that were submitted and have not ended.
        self.running = RunningBatches(self.tasks, self.pool, policy)
        #: The services among the tasks, and their users.
        self.services = Services(self.tasks, self.pool)
        #: The tasks that can be rolled back, and the tasks that would go with each of them.
        self.checkpoints = Checkpoints()

    # Moves

    def add(self, task: TaskState) -> None:
        """Add a new task, in the state WAITING."""
        self.tasks[task.id] = task
        self.counts[task.state] += 1

    def move(self, task: TaskState, state: State) -> None:
        """Move a task to another state.

        Raises
        ------
        RuntimeError
            If that state cannot follow the present one.
        """
        old = task.state
        if state not in MOVES[old]:
            moves = [f"{old.name} to {new.name}" for moved, old, new in self.latest_moves if moved == task.id]
            raise RuntimeError(
                f"the scheduler has a bug: {task!r} cannot become {state.name.lower()}. "
                f"Its latest moves: {', '.join(moves).lower() or 'none'}"
            )
        self.latest_moves.append((task.id, old, state))
        self.counts[old] -= 1
        self.counts[state] += 1
        task.state = state
        if old is State.READY:
            self.ready.discard(task.shape)
        elif (old is State.RUNNING or old is State.SERVING) and state is not State.SERVING:
            self._stop_work(task)

    def remove(self, task: TaskState) -> None:
        """Remove a task as if it had never existed."""
        self.counts[task.state] -= 1
        if task.state is State.READY:
            self.ready.discard(task.shape)
        elif task.state.is_at_work:
            self._stop_work(task)
        del self.tasks[task.id]

    def _stop_work(self, task: TaskState) -> None:
        self.running.leave(task)
        self.services.ended(task.id)

    # Invariants

    def check(self) -> None:
        """Check that the fields agree with each other; this looks at all tasks.

        Raises
        ------
        RuntimeError
            If they do not.
        """
        wrong = [text for find in _CHECKS for text in find(self)]
        if wrong:
            raise RuntimeError(f"the scheduler has a bug: {'; '.join(wrong[:5])}")

    def _wrong_counts(self) -> Iterator[str]:
        counts = Counter(task.state for task in self.tasks.values())
        counts[State.COMPLETE] += len(self.holds.complete)
        for state in State:
            if counts[state] != self.counts[state]:
                yield f"{counts[state]} tasks are {state.name.lower()}, and {self.counts[state]} are counted"
        yield from (f"{id.hex()} is complete and is not" for id in self.tasks.keys() & self.holds.complete)

    def _wrong_links(self) -> Iterator[str]:
        children = Counter(parent for task in self.tasks.values() for parent in self._parents(task))
        for task in self.tasks.values():
            if task.state.has_outcome:
                pending = children[task.id]
            else:
                needs = [need for id in task.needs if (need := self.tasks.get(id)) is not None]
                pending = sum(need.id not in self.services for need in needs)
                if any(task.id not in need.followers for need in needs):
                    yield f"{task!r} needs a task that does not know about it"
            if task.pending != pending:
                yield f"{task!r} has {pending} tasks to wait for"

    def _parents(self, task: TaskState) -> tuple[TaskId, ...]:
        return () if task.led_by is None else (task.led_by, *self.further_parents.get(task.id, ()))

    def _wrong_queues(self) -> Iterator[str]:
        ready = [task for task in self.tasks.values() if task.state is State.READY]
        counts = Counter(task.shape for task in ready)
        for shape in {*counts, *self.ready.shapes()}:
            if counts[shape] != self.ready.count(shape):
                yield f"{counts[shape]} tasks of {shape} are ready, and {self.ready.count(shape)} are counted"
        yield from (f"{task!r} is ready and waits for others" for task in ready if task.pending)
        due = {id for _, id in self.backoff}
        for task in self.tasks.values():
            if task.state is State.BACKOFF and task.id not in due:
                yield f"{task!r} is never tried again"

    def _wrong_batches(self) -> Iterator[str]:
        at_work = Counter(task.batch for task in self.tasks.values() if task.state.is_at_work)
        yield from (f"batch {batch} has tasks and has ended" for batch in at_work.keys() - set(self.running))
        for batch in self.running:
            if self.running.count_left(batch) != at_work[batch]:
                yield f"batch {batch} runs {at_work[batch]} tasks, and {self.running.count_left(batch)} are counted"

    def _left_behind(self) -> Iterator[str]:
        """Find tasks with an outcome, or unknown ones, in places for tasks without an outcome."""
        for name, ids in (("unresolved", self.unresolved), ("alone", self.alone)):
            open_ = (id for id in ids if (task := self.tasks.get(id)) is None or task.state.has_outcome)
            yield from (f"{id.hex()} is still among those that are {name}" for id in open_)
        yield from (f"{id.hex()} still has parents" for id in self.further_parents.keys() - self.tasks.keys())


_CHECKS: tuple[Callable[[SchedulerState], Iterator[str]], ...] = (
    SchedulerState._wrong_counts,
    SchedulerState._wrong_links,
    SchedulerState._wrong_queues,
    SchedulerState._wrong_batches,
    SchedulerState._left_behind,
)
