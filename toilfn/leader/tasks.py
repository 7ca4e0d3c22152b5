"""Records and names of tasks."""

from __future__ import annotations

from toilfn.ids import TaskId
from toilfn.leader.loading import Loader
from toilfn.model import records
from toilfn.model.index import Index

__all__ = ["Tasks"]


class Tasks:
    """Looks tasks up, first among those that have no outcome.

    Parameters
    ----------
    index : Index
    loader : Loader
    """

    def __init__(self, index: Index, loader: Loader) -> None:
        self._index = index
        self._loader = loader

    def encoded(self, id_: TaskId) -> bytes:
        """Return the record of a task that has no outcome, as workers get it."""
        return self._loader.encoded[id_]

    def is_open(self, id_: TaskId) -> bool:
        """Return whether a task is known and has no outcome."""
        return id_ in self._loader.encoded

    def get(self, id_: TaskId) -> records.Task:
        """Return a task's record.

        Raises
        ------
        KeyError
            If it has an outcome since this leader has run it.
        """
        data = self._loader.encoded.get(id_)
        task = records.decode(data) if data else self._index.task(id_)
        assert isinstance(task, records.Task)
        return task

    def function(self, task: records.Task) -> records.Function:
        """Return the record of a task's function."""
        return self._index.functions[task.function]

    def name(self, id_: TaskId) -> str:
        """Return the name of a task's function, for people; of one that this leader has finished, its id."""
        try:
            task = self.get(id_)
        except KeyError:
            return f"task {id_.hex()[:12]}"
        return str(task.options.get("name") or self.function(task).name)

    def is_service(self, id_: TaskId) -> bool:
        """Return whether a task is a service."""
        return self._loader.is_service(self.get(id_))
