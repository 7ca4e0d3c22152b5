"""Records that a leader keeps while checkpoints may be rolled back, and the tasks and files of a roll-back."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from toilfn.graph.options import is_checkpoint
from toilfn.ids import TaskId
from toilfn.model.index import Index
from toilfn.model.records import BlobRef, Outcome

__all__ = ["CheckpointRecords", "descendants", "files_of", "gone"]


class _Effects(NamedTuple):
    made: tuple[str, ...]
    deleted: tuple[str, ...]


class CheckpointRecords:
    """Records of checkpoints that have run, and what their families did to files.

    A file that is deleted below a checkpoint is removed when the outermost checkpoint is complete: until then
    it may be needed once more.
    """

    def __init__(self) -> None:
        self._records: dict[TaskId, bytes] = {}
        self._effects: dict[TaskId, dict[TaskId, _Effects]] = {}

    def keep(self, outermost: TaskId, outcome: Outcome, record: bytes) -> None:
        """Keep an outcome's effects and its task's record."""
        self._records[outcome.id] = record
        effects = _Effects(files_of(outcome), outcome.deleted)
        self._effects.setdefault(outermost, {})[outcome.id] = effects

    def complete(self, id_: TaskId, index: Index) -> tuple[str, ...]:
        """Note that a task is complete; return the files to remove if it was an outermost checkpoint."""
        done = self._effects.pop(id_, None)
        if done is None:
            return ()
        for member in done:
            self._records.pop(member, None)
        deleted = [effects.deleted for effects in done.values()]
        deleted += [index.outcome(member).deleted for member in descendants(index, [id_]) if member in index.outcomes]
        return tuple(chain.from_iterable(deleted))

    def forget(self, outermost: TaskId, ids: Iterable[TaskId]) -> tuple[str, ...]:
        """Note that outcomes are void; return the files that they made."""
        kept = self._effects.get(outermost, {})
        gone = [kept.pop(id_) for id_ in ids if id_ in kept]
        return tuple(name for effects in gone for name in effects.made)

    def record(self, id_: TaskId) -> bytes | None:
        """Return the record of a task that has run in this leader's time."""
        return self._records.get(id_)


def files_of(outcome: Outcome) -> tuple[str, ...]:
    """Return the names of the files that an attempt made; other blobs are named by content and may be shared."""
    return tuple(blob.name for blob in outcome.blobs if not _is_shared(blob))


def _is_shared(blob: BlobRef) -> bool:
    return blob.name.endswith(blob.digest.hex())


def descendants(index: Index, ids: Iterable[TaskId]) -> list[TaskId]:
    """Return some tasks, and all that they led to in earlier leaders' time."""
    found = dict.fromkeys(ids)
    stack = list(found)
    while stack:
        id_ = stack.pop()
        if id_ in index.outcomes:
            fresh = [other for other in index.leads_to(id_) if other not in found]
            found.update(dict.fromkeys(fresh))
            stack += fresh
    return list(found)


def gone(index: Index, outcome: Outcome) -> tuple[str, ...]:
    """Return the files that an outcome deleted, and those with `cleanup` whose task and descendants are done."""
    temporary = outcome.temporary if outcome.temporary and index.is_complete(outcome.id) else ()
    return temporary if outcome.deleted and _may_be_undone(index, outcome.id) else (*outcome.deleted, *temporary)


def _may_be_undone(index: Index, id_: TaskId | None) -> bool:
    """Return whether a task is, or is below, a checkpoint that is not complete."""
    while id_ is not None:
        task = index.task(id_)
        if is_checkpoint(index.functions[task.function].options, task.options) and not index.is_complete(id_):
            return True
        id_ = task.parent
    return False
