"""The tasks that are not complete, and their moves from state to state."""

from __future__ import annotations

from collections import deque

from toilfn.ids import TaskId
from toilfn.scheduler.ready import Ready
from toilfn.scheduler.running import Running
from toilfn.scheduler.services import Services
from toilfn.scheduler.states import MOVES, State, Task

__all__ = ["Board"]

_STORY = 256
"""How many moves are remembered, for the report of a bug."""


class Board:
    """Moves tasks, and tells those who keep an account of them.

    Parameters
    ----------
    tasks : dict
        The tasks that are not complete.
    ready : Ready
    running : Running
    services : Services

    Attributes
    ----------
    counts : list of int
        How many tasks each state has.
    """

    def __init__(self, tasks: dict[TaskId, Task], ready: Ready, running: Running, services: Services) -> None:
        self._tasks = tasks
        self._ready = ready
        self._running = running
        self._services = services
        self.counts = [0] * len(State)
        self._story: deque[tuple[TaskId, State, State]] = deque(maxlen=_STORY)

    def add(self, task: Task) -> None:
        """Take in a new task: it waits."""
        self._tasks[task.id] = task
        self.counts[task.state] += 1

    def move(self, task: Task, state: State) -> None:
        """Move a task to another state.

        Raises
        ------
        RuntimeError
            If there is no such move.
        """
        old = task.state
        if state not in MOVES[old]:
            raise RuntimeError(
                f"the scheduler has a bug: {task!r} cannot become {state.name.lower()}. {self._tell(task.id)}"
            )
        self._story.append((task.id, old, state))
        self.counts[state] += 1
        task.state = state
        self._leave(task, old, is_still_at_work=state is State.SERVING)

    def remove(self, task: Task) -> None:
        """Take a task away as if it had never been."""
        self._leave(task, task.state, is_still_at_work=False)
        del self._tasks[task.id]

    def _leave(self, task: Task, old: State, *, is_still_at_work: bool) -> None:
        self.counts[old] -= 1
        if old is State.READY:
            self._ready.discard(task.shape)
        elif old.is_at_work and not is_still_at_work:
            self._running.leave(task)
            self._services.ended(task.id)

    def _tell(self, id: TaskId) -> str:
        moves = [f"{old.name} to {new.name}" for moved, old, new in self._story if moved == id]
        return f"Its latest moves: {', '.join(moves).lower() or 'none'}"
