"""The index of runs: a SQLite file for lists and searches. It is a cache, and can be rebuilt from the records."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.server.records import Notes, Place, Run, State, state_of
from toilfn.stores import MissingObjectError

__all__ = ["Filter", "Index", "Summary"]

_ORDER = {state.value: number for number, state in enumerate(State)}

_TABLES = """
create table if not exists runs (
    id text primary key, owner text not null, state text not null, rank integer not null, submitted real not null,
    started real, ended real, kind text not null, name text not null, tags text not null, reason text not null,
    labels text not null, archived integer not null, params text not null
) without rowid;
create index if not exists runs_of_owner on runs (owner, id);
create index if not exists runs_in_state on runs (state, id);
"""
_LONGEST = 4000
"""Maximum number of characters of a run's inputs to keep for searches."""
_READERS = 8
"""Number of threads that read records: in a bucket, each record takes several requests."""
_BLOCK = 500
"""Number of runs to add in one transaction while the index is rebuilt."""


class Summary(NamedTuple):
    """A run in a list. Times are seconds since the epoch."""

    id: str
    owner: str
    state: str
    submitted: float
    started: float | None
    ended: float | None
    kind: str
    name: str
    """The name of the document."""
    reason: str
    """Why the run failed, in one line; empty if it did not fail."""
    archived: bool
    tags: dict[str, str]
    labels: dict[str, str]


class Filter(NamedTuple):
    """Selects the runs of a list. A field that is None selects all."""

    owner: str | None = None
    state: str | None = None
    kind: str | None = None
    text: str | None = None
    """A text that the id, the document, the tags, labels or inputs, or the reason must contain, ignoring case."""
    archived: bool | None = None

    def conditions(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield SQL conditions and their values."""
        for name in ("owner", "state", "kind", "archived"):
            if (value := getattr(self, name)) is not None:
                yield f"{name} = ?", [value]
        if self.text:
            columns = ("id", "name", "tags", "labels", "params", "reason")
            yield f"({' or '.join(f'instr(lower({each}), ?)' for each in columns)})", [self.text.lower()] * len(columns)


_COLUMNS = ", ".join(Summary._fields)
_EVERYTHING = Filter()
_END = "~"
"""A text that sorts after every id."""


class Index:
    """The index of runs. All threads of the server use one object.

    Parameters
    ----------
    path : Path
        The SQLite file. If it is damaged or has the format of another version, it is replaced by a new one.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        """Serializes the use of the connection, which transactions of different threads must not share."""
        self._path = path
        self._whole_from = _END
        try:
            self._database = self._open()
            self._database.execute(f"select {_COLUMNS}, rank, params from runs limit 1").fetchone()  # noqa: S608 - constants
        except sqlite3.DatabaseError:
            for end in ("", "-wal", "-shm"):
                Path(f"{path}{end}").unlink(missing_ok=True)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=30)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=off")  # if a crash damages the file, it is rebuilt
        database.executescript(_TABLES)
        return database

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def rebuild(self, place: Place) -> Iterator[int]:
        """Update the index from all records, the newest first; yield the number of runs that are left to read."""
        known = {id: State(state) for id, state in self._all("select id, state from runs")}
        there, noted = place.survey()
        for id in known.keys() - there:
            self.forget(id)
        missing = [id for id in sorted(there, reverse=True) if id not in known or not known[id].is_final or id in noted]
        left = len(missing)
        self._whole_from = missing[0] if missing else ""
        yield left
        with ThreadPoolExecutor(_READERS, "toilfn-index") as readers:
            rows = readers.map(lambda id: _row(place.run(id)), missing)
            while block := list(islice(rows, _BLOCK)):
                self._put(row for row in block if row is not None)
                left -= len(block)
                self._whole_from = missing[-left] if left else ""
                yield left

    def expect(self, open_ids: Collection[str], place: Place) -> None:
        """Read again the runs that have no final state in the index, but are missing from the open runs `open_ids`.

        Another server may have finished or deleted them.
        """
        final = [state.value for state in State if state.is_final]
        marks = ",".join("?" * len(final))
        seemed = {id for (id,) in self._all(f"select id from runs where state not in ({marks})", final)}  # noqa: S608
        for id in seemed - set(open_ids):
            run = place.run(id)
            try:
                self.note(run, state_of(run.facts()))
            except MissingObjectError:
                self.forget(id)

    def note(self, run: Run, state: State) -> None:
        """Record the state of a run. A state that is earlier than the recorded one is ignored.

        Raises
        ------
        MissingObjectError
            If the run does not exist.
        """
        if self.state(run.id) is not state:
            self._put([_values(run, state)])

    def _put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        with self._lock:
            self._database.execute("begin immediate")
            self._database.executemany(
                "insert into runs (id, owner, state, rank, submitted, started, ended, kind, name, tags, reason, labels,"
                " archived, params) values (:id, :owner, :state, :rank, :submitted, :started, :ended, :kind, :name,"
                " :tags, :reason, :labels, :archived, :params) on conflict (id) do update set state=excluded.state,"
                " rank=excluded.rank, started=excluded.started, ended=excluded.ended, reason=excluded.reason,"
                " labels=excluded.labels, archived=excluded.archived where excluded.rank >= runs.rank",
                rows,
            )
            self._database.execute("commit")

    def annotate(self, id: str, notes: Notes) -> None:
        """Record the labels of a run, and whether it is archived."""
        with self._lock:
            self._database.execute(
                "update runs set labels = ?, archived = ? where id = ?",
                (_text(notes.labels), notes.archived, id),
            )

    def forget(self, id: str) -> None:
        """Remove a run from the index."""
        with self._lock:
            self._database.execute("delete from runs where id = ?", (id,))

    def state(self, id: str) -> State | None:
        """Return the last recorded state of a run; None if the run is not in the index."""
        found = self._all("select state from runs where id = ?", [id])
        return State(found[0][0]) if found else None

    def page(
        self, size: int, before: str = "", *, after: str = "", wanted: Filter = _EVERYTHING
    ) -> list[Summary]:  # fmt: skip
        """List runs, the newest first.

        Parameters
        ----------
        size : int
            Maximum number of runs to return.
        before : str
            Return runs that are older than the run with this id; empty to begin with the newest.
        after : str
            Instead of `before`: return the runs that are just newer than the run with this id.
        wanted : Filter
        """
        conditions, values = _joined(wanted)
        if before or after:
            conditions += f" and id {'<' if before else '>'} ?"
            values.append(before or after)
        order = "" if after and not before else "desc"
        query = f"select {_COLUMNS} from runs where {conditions} order by id {order} limit ?"  # noqa: S608 - constants
        rows = [_summary(row) for row in self._all(query, [*values, size])]
        return rows if order else rows[::-1]

    def whole_page(self, size: int, before: str = "", *, wanted: Filter = _EVERYTHING) -> list[Summary] | None:
        """Return a page like `page`; None if the index is being rebuilt and may lack runs of this page."""
        first = self._whole_from  # before the page is read: `rebuild` adds runs in another thread meanwhile
        rows = self.page(size, before, wanted=wanted)
        return rows if not first or (len(rows) == size and rows[-1].id > first) else None

    def counts(self, wanted: Filter = _EVERYTHING) -> dict[str, int]:
        """Return the number of runs in each state."""
        conditions, values = _joined(wanted)
        return dict(self._all(f"select state, count(*) from runs where {conditions} group by state", values))  # noqa: S608

    def durations(self) -> list[tuple[str, str, int, float]]:
        """Return, for each kind and state of finished runs, their number and the sum of their durations in seconds."""
        return self._sums("ended - started", "ended is not null and started is not null")

    def waits(self) -> list[tuple[str, str, int, float]]:
        """Return, for each kind and state of started runs, their number and the sum of the seconds that they waited."""
        return self._sums("max(0, started - submitted)", "started is not null")

    def _sums(self, amount: str, condition: str) -> list[tuple[str, str, int, float]]:
        query = f"select kind, state, count(*), sum({amount}) from runs where {condition} group by kind, state"  # noqa: S608
        return self._all(query)

    def mark(self, owner: str | None) -> str:
        """Return a text that changes whenever a list of an owner's runs changes; None means all owners."""
        conditions, values = _joined(Filter(owner))
        query = f"select count(*), coalesce(max(id), ''), coalesce(sum(rank), 0), coalesce(sum(archived), 0) from runs where {conditions}"  # noqa: S608, E501
        return "-".join(map(str, self._all(query, values)[0]))

    def ended_before(self, moment: float) -> list[str]:
        """List the runs that ended before a time, in seconds since the epoch."""
        return [id for (id,) in self._all("select id from runs where ended < ?", [moment])]

    def ended(self) -> list[str]:
        """List finished runs, the newest first."""
        return [id for (id,) in self._all("select id from runs where ended is not null order by id desc")]

    def _all(self, query: str, values: Iterable[Any] = ()) -> list[Any]:
        with self._lock:
            return self._database.execute(query, tuple(values)).fetchall()


def _joined(wanted: Filter) -> tuple[str, list[Any]]:
    pairs = list(wanted.conditions())
    return " and ".join(["1", *(text for text, _ in pairs)]), [value for _, values in pairs for value in values]


def _summary(row: Sequence[Any]) -> Summary:
    return Summary._make((*row[:9], bool(row[9]), json.loads(row[10]), json.loads(row[11])))


def _row(run: Run) -> dict[str, Any] | None:
    """Return the row for a run; None if the run was deleted after it was listed."""
    try:
        return _values(run, state_of(run.facts()))
    except MissingObjectError:
        return None


def _values(run: Run, state: State) -> dict[str, Any]:
    started = (run.read("started") or {}).get("time")
    ended = run.read("exit") or {} if state.is_final else {}
    request, notes = run.request, run.notes()
    is_failed = state in (State.EXECUTOR_ERROR, State.SYSTEM_ERROR)
    reason = (ended.get("reason") or next(iter(ended.get("notes") or []), "")) if is_failed else ""
    return {
        "id": run.id, "owner": request["owner"], "state": state.value, "rank": _ORDER[state.value],
        "submitted": request["submitted"], "started": started, "ended": ended.get("time"), "kind": request["kind"],
        "name": _clean(request["document"]), "tags": _text(request["request"]["tags"]), "reason": _clean(reason),
        "labels": _text(notes.labels), "archived": notes.archived, "params": _text(request["params"])[:_LONGEST],
    }  # fmt: skip


def _text(value: Any) -> str:
    """Return JSON for searches, in which non-ASCII letters are not escaped."""
    return _clean(json.dumps(value, ensure_ascii=False))


def _clean(text: str) -> str:
    """Return a text without the characters that SQLite cannot store."""
    return text.encode(errors="backslashreplace").decode()
