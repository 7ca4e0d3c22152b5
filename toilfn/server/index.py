"""The index of runs: a SQLite file from which lists are answered. It is a cache of the records, made again at will."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.server.records import Place, Run
from toilfn.server.states import State, state_of
from toilfn.stores import MissingObjectError

__all__ = ["Index", "Summary"]

_ORDER = {state.value: number for number, state in enumerate(State)}

_TABLES = """
create table if not exists runs (
    id text primary key, owner text not null, state text not null, rank integer not null, submitted real not null,
    started real, ended real, kind text not null, name text not null, tags text not null
) without rowid;
create index if not exists runs_of_owner on runs (owner, id);
create index if not exists runs_in_state on runs (state, id);
"""


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
    """The document."""
    tags: dict[str, str]


_COLUMNS = ", ".join(Summary._fields)


class Index:
    """Runs by id, owner and state.

    Parameters
    ----------
    path : Path
        The file; one that is damaged, or of another version, is made anew.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._path = path
        try:
            self._database = self._open()
            self._database.execute(f"select {_COLUMNS}, rank from runs limit 1").fetchone()  # noqa: S608 - constants
        except sqlite3.DatabaseError:
            for end in ("", "-wal", "-shm"):
                Path(f"{path}{end}").unlink(missing_ok=True)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=30)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=off")  # it can be made again
        database.executescript(_TABLES)
        return database

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def rebuild(self, place: Place) -> None:
        """Bring the index up to date with all records: those that it lacks, and those that are gone."""
        known = {id: State(state) for id, state in self._all("select id, state from runs")}
        there = place.ids()
        for id in known.keys() - there:
            self.forget(id)
        for id in sorted(there):
            if id not in known or not known[id].is_final:
                run = place.run(id)
                try:
                    self.note(run, state_of(run.facts()))
                except MissingObjectError:
                    continue  # it was deleted just now

    def expect(self, open_ids: Collection[str], place: Place) -> None:
        """Look at runs that seemed to have no final state, and are no longer listed as such."""
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
        """Note the state of a run; an earlier one than is known changes nothing.

        Raises
        ------
        MissingObjectError
            If there is no such run.
        """
        if self.state(run.id) is state:
            return
        started = (run.read("started") or {}).get("time")
        ended = (run.read("exit") or {}).get("time") if state.is_final else None
        request = run.request
        row = (
            run.id, request["owner"], state.value, _ORDER[state.value], request["submitted"], started, ended,
            request["kind"], _clean(request["document"]), json.dumps(request["request"]["tags"]),
        )  # fmt: skip
        with self._lock:
            self._database.execute(
                "insert into runs (id, owner, state, rank, submitted, started, ended, kind, name, tags)"
                " values (?,?,?,?,?,?,?,?,?,?) on conflict (id) do update set state=excluded.state, rank=excluded.rank,"
                " started=excluded.started, ended=excluded.ended where excluded.rank > runs.rank",
                row,
            )

    def forget(self, id: str) -> None:
        """Leave a run out from now on."""
        with self._lock:
            self._database.execute("delete from runs where id = ?", (id,))

    def state(self, id: str) -> State | None:
        """Return the state of a run as it was seen last."""
        found = self._all("select state from runs where id = ?", [id])
        return State(found[0][0]) if found else None

    def page(
        self, size: int, before: str = "", *, owner: str | None = None, where: Mapping[str, Any] | None = None
    ) -> list[Summary]:
        """List runs, the newest first.

        Parameters
        ----------
        size : int
            The most runs to return.
        before : str
            The id of the last run of the page before.
        owner : str, optional
            Whose runs; by default everybody's.
        where : mapping, optional
            Conditions: ``state``, ``kind``, and ``text`` for a part of its id, document or tags.
        """
        conditions, values = ["1"], list[Any]()
        wanted = {**(where or {}), **({"owner": owner} if owner is not None else {})}
        for name, value in wanted.items():
            if name in ("state", "kind", "owner"):
                conditions.append(f"{name} = ?")
                values.append(value)
            elif name == "text":
                conditions.append("(instr(id, ?) or instr(name, ?) or instr(tags, ?))")
                values += [value] * 3
        if before:
            conditions.append("id < ?")
            values.append(before)
        query = f"select {_COLUMNS} from runs where {' and '.join(conditions)} order by id desc limit ?"  # noqa: S608
        return [Summary._make((*row[:8], json.loads(row[8]))) for row in self._all(query, [*values, size])]

    def counts(self, owner: str | None = None) -> dict[str, int]:
        """Return how many runs are in each state."""
        if owner is None:
            return dict(self._all("select state, count(*) from runs group by state"))
        return dict(self._all("select state, count(*) from runs where owner = ? group by state", [owner]))

    def ended_before(self, moment: float) -> list[str]:
        """List runs that ended before a moment, in seconds since the epoch."""
        return [id for (id,) in self._all("select id from runs where ended < ?", [moment])]

    def _all(self, query: str, values: Iterable[Any] = ()) -> list[Any]:
        with self._lock:
            return self._database.execute(query, tuple(values)).fetchall()


def _clean(text: str) -> str:
    """Return a text that SQLite can hold."""
    return text.encode(errors="backslashreplace").decode()
