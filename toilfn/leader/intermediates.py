"""Which files and records of a store are no longer needed.

`Intermediates` serves the setting ``intermediates="drop"``: it removes files during the run. A file is named in values
and in arguments, by the name of its blob. It is held by each task without an outcome whose arguments name it, or whose
needed values do, also through the values that these refer to; and by what runs return. Decision 025 says why this is
enough. `CheckpointRecords` holds records back while checkpoints may still be rolled back. `live_blobs` finds what the
records of a store refer to; `remove_garbage` removes the rest.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from toilfn.graph.options import SERVICE, is_checkpoint
from toilfn.ids import TaskId
from toilfn.leader.committer import Committer
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.model.records import BlobRef, Outcome, decode, encode
from toilfn.scheduler.events import Event, Finished, Submitted
from toilfn.stores import Store, is_local

__all__ = [
    "FILE", "CheckpointRecords", "Drops", "Intermediates", "descendants", "file_names", "files_of", "gone",
    "live_blobs", "remove_garbage",
]  # fmt: skip

FILE = re.compile(rb"blobs/[0-9a-f]{2}/[0-9a-f]{32}")
"""How the name of a file's blob begins in a pickled value; no other blob begins like it."""

_LENGTH = len("blobs/00/") + 32
_CHUNK = 2**20
_AT_ONCE = 1000
"""How many files one record names."""


def file_names(payload: bytes | BlobRef, open_blob: Callable[[BlobRef], BinaryIO]) -> frozenset[bytes]:
    """Find the files that a payload names, by the beginnings of their names; a large one is read piece by piece."""
    if isinstance(payload, bytes):
        return frozenset(FILE.findall(payload))
    found: set[bytes] = set()
    rest = b""
    with open_blob(payload) as stream:
        while chunk := stream.read(_CHUNK):
            found.update(FILE.findall(rest + chunk))
            rest = (rest + chunk)[1 - _LENGTH :]
    return frozenset(found)


def _key(name: str) -> bytes:
    return name[:_LENGTH].encode()


class _Value(NamedTuple):
    files: frozenset[bytes]
    refs: tuple[TaskId, ...]


class _Open(NamedTuple):
    files: frozenset[bytes]
    needs: tuple[TaskId, ...]


class Intermediates:
    """Counts, for each file, the tasks that will still read it.

    The numbers of files that are held are kept in step by `opened`, `finished`, `completed` and `forgotten`, in any
    order: a file goes only by `take`, which looks at the numbers at that moment.

    Parameters
    ----------
    index : Index
        The records that earlier leaders have left in the store.
    run : records.Run
        The run that is led.
    encoded : mapping
        The records of tasks that have no outcome and may be new.
    open_blob : callable
        Opens a large payload.
    drops : bool
        Whether files of tasks are removed that do not choose it themselves.
    """

    def __init__(
        self,
        index: Index,
        run: records.Run,
        encoded: Mapping[TaskId, bytes],
        open_blob: Callable[[BlobRef], BinaryIO],
        *,
        drops: bool,
    ) -> None:
        self._index = index
        self._encoded = encoded
        self._open_blob = open_blob
        self._drops = drops
        self._files: dict[bytes, BlobRef] = {}
        self._held: Counter[bytes] = Counter()
        self._needed: Counter[TaskId] = Counter()
        self._values: dict[TaskId, _Value] = {}
        self._alive: dict[TaskId, _Value] = {}
        self._open: dict[TaskId, _Open] = {}
        self._free: set[bytes] = set()
        self._delivered: set[TaskId] = set()
        self._services: set[TaskId] = set()
        self._load(run)

    def _load(self, current: records.Run) -> None:
        """Note the existing files, the values and deliveries of runs, and the unfinished tasks."""
        for id_ in self._index.outcomes:
            task = self._index.task(id_)
            self._note_service(task)
            self._add_files(task, self._index.outcome(id_))
        runs = [*(run for run in self._index.runs if run.number != current.number), current]
        newest = {run.workflow: run.number for run in runs}
        for run in runs:
            is_done = run is not current and self._index.ended.get(run.number) == "done"
            if is_done or newest[run.workflow] == run.number:  # else the script was edited before that run was done
                self._held.update(FILE.findall(run.results))
                self._need(run.roots)
                self._walk(run.roots)

    def _walk(self, roots: Iterable[TaskId]) -> None:
        """Note the tasks behind some roots that will run, may run again, or deliver what they read."""
        stack, seen = list(roots), set(roots)
        found = []
        while stack:
            id_ = stack.pop()
            task = _task(self._encoded[id_]) if id_ in self._encoded else self._index.task(id_)
            found.append(task)
            self._note_service(task)
            ends = id_ in self._index.outcomes
            more = (*task.needs, *task.after, *(self._index.leads_to(id_) if ends else ()))
            stack += [other for other in more if other not in seen]
            seen.update(more)
        for task in found:  # now that all services are known
            ends = task.id in self._index.outcomes
            may_run_again = self._may_run_again(task) and not self._index.is_complete(task.id)
            if not ends or self._delivers(task) or may_run_again:
                self.opened(task)

    def opened(self, task: records.TaskRecord) -> None:
        """Note that a task will run."""
        self._note_service(task)
        self._close(task.id)
        entry = _Open(file_names(task.args, self._open_blob), task.needs)
        self._open[task.id] = entry
        self._held.update(entry.files)
        self._need(entry.needs)

    def finished(self, task: records.TaskRecord, outcome: records.Outcome) -> None:
        """Note that a task has an outcome, after its children were opened."""
        self._add_files(task, outcome)
        self._values[task.id] = _Value(file_names(outcome.value, self._open_blob), outcome.refs)
        if self._needed[task.id]:
            self._revive([task.id])
        if self._delivers(task):
            self._delivered.add(task.id)
        elif not self._may_run_again(task):
            self._close(task.id)

    def reopened(self, id_: TaskId) -> None:
        """Note that a task with an outcome of an earlier leader's time is not complete: perhaps it runs again."""
        task = self._index.task(id_)
        if self._may_run_again(task):
            self.opened(task)

    def completed(self, id_: TaskId) -> None:
        """Note that a task and all that it led to is complete: it never runs again."""
        if id_ not in self._delivered:
            self._close(id_)

    def forgotten(self, ids: Iterable[TaskId]) -> None:
        """Note that outcomes are void; those to run again are opened after that."""
        for id_ in ids:
            self._close(id_)
            self._values.pop(id_, None)
            if id_ in self._alive:
                self._lay_down(id_)

    def renewed(self, ids: Iterable[TaskId]) -> None:
        """Note that tasks with an outcome run again; files that their values named are held as long as this leader.

        An earlier run may have returned them.
        """
        for id_ in ids:
            self._close(id_)
            self._values.pop(id_, None)
            self._alive.pop(id_, None)

    def take(self) -> list[BlobRef]:
        """Return the files that are no longer needed, each once."""
        gone = [key for key in self._free if not self._held[key]]
        self._free.clear()
        return [self._files.pop(key) for key in gone if key in self._files]

    def _may_run_again(self, task: records.TaskRecord) -> bool:
        """Return whether a task with an outcome may be rolled back: checkpoints, and clients of services."""
        function = self._index.functions.get(task.function)
        if function is not None and is_checkpoint(function.options, task.options):
            return True
        return not self._services.isdisjoint((*task.needs, *task.after))

    def _note_service(self, task: records.TaskRecord) -> None:
        """Remember which tasks are services: the index does not have those that were created since it was loaded."""
        if SERVICE in self._index.functions[task.function].options:
            self._services.add(task.id)

    def _delivers(self, task: records.TaskRecord) -> bool:
        """Return whether the files that a task reads are outputs of the run."""
        return bool(self._option(task, "delivers"))

    def _option(self, task: records.TaskRecord, name: str) -> Any:
        own = task.options.get(name)
        return self._index.functions[task.function].options.get(name) if own is None else own

    def _add_files(self, task: records.TaskRecord, outcome: records.Outcome) -> None:
        own = self._option(task, "intermediates")
        if (own == "drop") if own else self._drops:
            names = set(files_of(outcome)) - self._index.deleted - set(outcome.deleted)
            for blob in outcome.blobs:
                if blob.name in names:
                    self._files[_key(blob.name)] = blob
                    self._free.add(_key(blob.name))

    def _close(self, id_: TaskId) -> None:
        entry = self._open.pop(id_, None)
        if entry is not None:
            self._let_go(entry.files)
            self._need_no_more(entry.needs)

    def _need(self, ids: Iterable[TaskId]) -> None:
        fresh = []
        for id_ in ids:
            self._needed[id_] += 1
            if self._needed[id_] == 1:
                fresh.append(id_)
        self._revive(fresh)

    def _revive(self, ids: Iterable[TaskId]) -> None:
        """Hold the files that needed values name, and the values to which these refer."""
        stack = list(ids)
        while stack:
            id_ = stack.pop()
            value = None if id_ in self._alive else self._value(id_)
            if value is None:
                continue
            self._alive[id_] = value
            self._held.update(value.files)
            for ref in value.refs:
                self._needed[ref] += 1
                if self._needed[ref] == 1:
                    stack.append(ref)

    def _value(self, id_: TaskId) -> _Value | None:
        if id_ not in self._values and id_ in self._index.outcomes:
            payload, refs = self._index.value(id_)
            self._values[id_] = _Value(file_names(payload, self._open_blob), refs)
        return self._values.get(id_)

    def _need_no_more(self, ids: Iterable[TaskId]) -> None:
        for id_ in ids:
            self._needed[id_] -= 1
            if not self._needed[id_]:
                del self._needed[id_]
                if id_ in self._alive:
                    self._lay_down(id_)

    def _lay_down(self, id_: TaskId) -> None:
        """Release the files of a value that no task needs, and of the values to which only it refers."""
        stack = [id_]
        while stack:
            value = self._alive.pop(stack.pop())
            self._let_go(value.files)
            for ref in value.refs:
                self._needed[ref] -= 1
                if not self._needed[ref]:
                    del self._needed[ref]
                    if ref in self._alive:
                        stack.append(ref)

    def _let_go(self, files: Iterable[bytes]) -> None:
        for key in files:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
                self._free.add(key)


class Drops:
    """Removes files that are no longer needed, and records this: if they are needed later, their tasks run again.

    Parameters
    ----------
    readers : Intermediates or None
        None if all files are kept.
    committer : Committer
    remove : callable
        Deletes objects of the store by their names.
    encoded : mapping
        The records of the tasks that have no outcome.
    interval : float
        Seconds between two groups.
    """

    def __init__(
        self,
        readers: Intermediates | None,
        committer: Committer,
        remove: Callable[[Iterable[str]], None],
        encoded: Mapping[TaskId, bytes],
        interval: float,
    ) -> None:
        self._readers = readers
        self._committer = committer
        self._remove = remove
        self._encoded = encoded
        self._interval = interval
        self._wrote = 0.0

    def loaded(self, forgotten: Iterable[TaskId], events: Iterable[Event]) -> None:
        """Note the outcomes that no longer hold, and the tasks that were passed to the scheduler."""
        if self._readers is None:
            return
        self._readers.renewed(forgotten)
        given = list(events)
        for new in (new for event in given if isinstance(event, Submitted) for new in event.tasks):
            if new.id in self._encoded:
                self._readers.opened(_task(self._encoded[new.id]))
        for event in given:
            if isinstance(event, Finished):  # after the services were opened that it may be a client of
                self._readers.reopened(event.id)

    def finished(self, outcome: records.Outcome, record: bytes) -> None:
        """Note an outcome of the task of a record; the tasks that it created are among those without an outcome."""
        if self._readers is None:
            return
        for task in outcome.tasks:
            if task.id in self._encoded:
                self._readers.opened(task)
        self._readers.finished(_task(record), outcome)

    def completed(self, id_: TaskId) -> None:
        """Note that a task and all that it led to is complete."""
        if self._readers is not None:
            self._readers.completed(id_)

    def rolled_back(self, void: Iterable[TaskId], task: records.TaskRecord) -> None:
        """Note that outcomes are void, and that a task runs again."""
        if self._readers is not None:
            self._readers.forgotten(void)
            self._readers.opened(task)

    def write(self, now: float | None) -> None:
        """Remove files that are not needed, periodically; at once without a time."""
        if self._readers is None or (now is not None and now < self._wrote + self._interval):
            return
        self._wrote = now or 0.0
        files = self._readers.take()
        for start in range(0, len(files), _AT_ONCE):
            self._write(files[start : start + _AT_ONCE])

    def _write(self, group: list[BlobRef]) -> None:
        names = tuple(file.name for file in group)
        size = sum(file.size for file in group)
        self._committer.add(encode(records.Deleted(names, dropped=True, size=size, time=time.time())))
        self._committer.then(lambda: self._remove(names))


def _task(data: bytes) -> records.TaskRecord:
    task = decode(data)
    assert isinstance(task, records.TaskRecord)
    return task


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


def remove_garbage(store: Store) -> None:
    """Remove the blobs that nothing refers to and those that were only partly written; no task may be running."""
    live, _ = live_blobs(store)
    garbage = [name for name in store.objects.list("blobs/") if name not in live]
    store.objects.delete(garbage)
    if is_local(store.url):  # elsewhere, parts of uploads are not told from those of others
        store.objects.below("blobs").sweep(0)


def live_blobs(store: Store) -> tuple[set[str], set[str]]:
    """List the blobs that records refer to, except those that were deleted or rolled back.

    Returns
    -------
    set of str
        Their names.
    set of str
        Names of files that tasks deleted, of which the log does not say yet that they are removed.
    """
    index = Index.load(store.log)
    referred: set[str] = set()
    deleted: set[str] = set()
    for position, data in store.log.read():
        record = decode(data, position)
        if isinstance(record, Outcome):
            if index.outcomes.get(record.id) != position:  # of what it made, later attempts use the functions only
                referred.update(ref.name for ref in _refs(record.functions))
                continue
            deleted.update(gone(index, record))
        referred.update(ref.name for ref in _refs(record))
    return referred - deleted - index.deleted, deleted - index.deleted


def _refs(value: object) -> Iterator[BlobRef]:
    """Find the references in a record, at any depth."""
    if isinstance(value, BlobRef):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _refs(part)
