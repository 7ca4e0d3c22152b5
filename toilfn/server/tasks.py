"""The tasks of a run, read from its log into a SQLite file beside it: of a run with many, only a page is in memory."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.errors import StoreNotFoundError
from toilfn.model.records import Epoch, Failure, Forget, Function, Outcome, Record, Started, Stats, TaskRecord, decode
from toilfn.stores import BlobRef, Store, open_store
from toilfn.stores.log import Position

__all__ = ["TaskIndex", "TaskRow", "Tasks"]

_TABLES = """
create table if not exists tasks (
    number integer primary key, id blob not null unique, name text not null, state text not null, started real,
    ended real, attempts integer not null, host text not null, cause text not null, error text not null
);
create table if not exists functions (digest blob primary key, name text not null) without rowid;
create table if not exists attempts (
    id blob not null, attempt integer not null, segment text not null, offset integer not null, size integer not null,
    primary key (id, attempt)
) without rowid;
create table if not exists place (store text not null, segment integer not null);
"""
_BLOCK = 20_000
"""Records between two commits."""
_OPEN = 32
"""How many runs' files are kept open."""


class TaskRow(NamedTuple):
    """The state of one task. Times are seconds since the epoch."""

    number: int
    id: bytes
    name: str
    state: str
    """``waiting``, ``running``, ``done`` or ``failed``."""
    started: float | None
    ended: float | None
    attempts: int
    """Those that have ended."""
    host: str
    cause: str
    error: str


_COLUMNS = ", ".join(TaskRow._fields)


class TaskIndex:
    """The tasks of one run.

    Parameters
    ----------
    path : Path
        The SQLite file, which can be made again.
    store_url : str
    **options
        How to reach the job store.
    """

    def __init__(self, path: Path, store_url: str, **options: Any) -> None:
        self._path = path
        self._url = store_url
        self._options = options
        self._lock = threading.Lock()
        self._seen: object = None

    def page(self, size: int, after: int = 0) -> list[TaskRow]:
        """List tasks in the order in which they came into being.

        Parameters
        ----------
        size : int
            The most tasks to return.
        after : int
            The number of the last task of the page before.
        """
        return self._rows("where number > ? order by number limit ?", (after, size))

    def task(self, id: bytes) -> TaskRow | None:
        """Return one task; None if there is none of this id."""
        return next(iter(self._rows("where id = ?", (id,))), None)

    def log_of(self, id: bytes) -> Iterator[bytes]:
        """Iterate over what the attempts of a task have printed, in pieces."""
        with self._lock:
            store = self._refresh()
            if store is None:
                return
            with closing(self._open()) as database:
                places = database.execute(
                    "select segment, offset, size from attempts where id = ? order by attempt", (id,)
                ).fetchall()
        for place in places:
            position = Position(*place)
            record = decode(store.log.fetch(position), position)
            assert isinstance(record, (Outcome, Failure))
            yield store.get_blob(record.log) if isinstance(record.log, BlobRef) else record.log
            if isinstance(record, Failure):
                yield f"{record.traceback or record.message}\n".encode(errors="replace")

    def _rows(self, query: str, values: Iterable[Any]) -> list[TaskRow]:
        with self._lock:
            if self._refresh() is None:
                return []
            with closing(self._open()) as database:
                found = database.execute(f"select {_COLUMNS} from tasks {query}", tuple(values)).fetchall()  # noqa: S608
        return [TaskRow(*row) for row in found]

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, isolation_level=None, timeout=60)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=off")
        return database

    def _refresh(self) -> Store | None:
        """Read what is new in the log; None if there is no job store yet."""
        try:
            store = open_store(self._url, create=False, **self._options)
        except StoreNotFoundError:
            return None
        now = sorted(name for folder in ("snapshots/", "log/") for name in store.objects.list(folder))
        if now == self._seen:
            return store
        with closing(self._open()) as database:
            try:
                self._read_on(database, store)
            except sqlite3.DatabaseError:
                database.close()
                self._path.unlink()
                raise
        self._seen = now
        return store

    def _read_on(self, database: sqlite3.Connection, store: Store) -> None:
        database.executescript(_TABLES)
        database.execute("begin immediate")  # two servers may share the file
        place = database.execute("select store, segment from place").fetchone()
        records = store.log.read_after(place[1]) if place and place[0] == store.id else None
        if records is None:
            for table in ("tasks", "functions", "attempts", "place"):
                database.execute(f"delete from {table}")  # noqa: S608 - constants
            records = store.log.read()
        last = place[1] if place else 0
        fold = _Fold(database)
        for count, (position, data) in enumerate(records, 1):
            fold.add(decode(data, position), position)
            last = int(position.segment.partition("/")[2].partition(".")[0])
            if count % _BLOCK == 0:
                fold.flush()
        fold.flush()
        database.execute("delete from place")
        database.execute("insert into place values (?, ?)", (store.id, last))
        database.execute("commit")


class _Fold:
    """Brings records into the tables."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._names: dict[bytes, str] = dict(database.execute("select digest, name from functions").fetchall())
        self._statements: list[tuple[str, tuple[Any, ...]]] = []

    def flush(self) -> None:
        """Write what was added, statements of one kind together."""
        for query, values in self._statements:
            self._database.execute(query, values)
        self._statements = []

    def add(self, record: Record, position: Position) -> None:
        """Take a record."""
        match record:
            case Function():
                self._function(record)
            case TaskRecord():
                self._task(record)
            case Started():
                for id in record.ids:
                    self._do("update tasks set state = 'running', started = ? where id = ? and state != 'done'",
                             record.time, id)  # fmt: skip
            case Outcome():
                self._attempt(record.id, position)
                for function in record.functions:
                    self._function(function)
                for task in record.tasks:
                    self._task(task)
                self._ended(record.id, "done", record.stats, "", "")
            case Failure():
                self._attempt(record.id, position)
                state = "failed" if record.final else "waiting"
                self._ended(record.id, state, record.stats, record.cause, record.message)
            case Forget():
                for id in record.ids:
                    self._do("update tasks set state = 'waiting', ended = null where id = ?", id)
            case Epoch():
                self._do("update tasks set state = 'waiting' where state in ('running', 'failed')")

    def _do(self, query: str, *values: Any) -> None:
        self._statements.append((query, values))

    def _function(self, function: Function) -> None:
        self._names[function.digest] = _clean(function.name)
        self._do("insert or replace into functions values (?, ?)", function.digest, _clean(function.name))

    def _task(self, task: TaskRecord) -> None:
        name = _clean(str(task.options.get("name") or self._names.get(task.function, "?")))
        self._do("insert or ignore into tasks (id, name, state, attempts, host, cause, error)"
                 " values (?, ?, 'waiting', 0, '', '', '')", task.id, name)  # fmt: skip

    def _attempt(self, id: bytes, position: Position) -> None:
        self._do("insert or ignore into attempts select ?, coalesce((select attempts from tasks where id = ?), 0) + 1,"
                 " ?, ?, ?", id, id, *position)  # fmt: skip

    def _ended(self, id: bytes, state: str, stats: Stats, cause: str, error: str) -> None:
        self._do("update tasks set state = ?, started = ?, ended = ?, attempts = attempts + 1, host = ?, cause = ?,"
                 " error = ? where id = ? and state != 'done'", state, stats.start, stats.start + stats.wall,
                 _clean(stats.host), cause, _clean(error), id)  # fmt: skip


class Tasks:
    """The tasks of runs; the files of those that were asked for last are remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, TaskIndex] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, id: str, folder: Path, store_url: str, **options: Any) -> TaskIndex:
        """Return the tasks of a run."""
        with self._lock:
            if id not in self._known:
                self._known[id] = TaskIndex(folder / "tasks.sqlite", store_url, **options)
            self._known.move_to_end(id)
            while len(self._known) > _OPEN:
                self._known.popitem(last=False)
            return self._known[id]


def _clean(text: str) -> str:
    """Return a text that SQLite can hold."""
    return text.encode(errors="backslashreplace").decode()
