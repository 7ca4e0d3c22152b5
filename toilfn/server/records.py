"""The records of a server: small objects in its *place*, which is a directory or bucket like that of a job store.

Each object is written once, except ``notes``::

    store.json              the properties of the place, as in every job store
    open/RUN                exists while the run has no final state
    runs/RUN/request        the request, its user and its time
    runs/RUN/files/...      attachments, if the place is not a directory
    runs/RUN/leases/N       the leader of the run: a lease, as in a job store
    runs/RUN/jobs/N         the server that submits the Nth job to lead the run, if leaders are jobs
    runs/RUN/started        the time at which the first leader started, and the command
    runs/RUN/running        exists once the run has tasks
    runs/RUN/ending         why the run ends: it was cancelled, or its command ended, whichever came first
    runs/RUN/exit           the final state, the exit status, and why the run failed
    runs/RUN/outputs        the outputs, as JSON
    runs/RUN/logs/...       standard output and error, if the place is not a directory
    runs/RUN/notes          labels, and whether the run is archived
    tokens/NAME             the hash of a user's token
    sessions/HASH           a browser's session

The files of a run are in the folder RUN of the work directory, by default the folder ``work`` of the place.

Only a final state is recorded. Before that, `state_of` computes the state from the objects that exist.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from toilfn.errors import InputError
from toilfn.stores import MissingObjectError, Store, is_local, open_store
from toilfn.stores.lease import Lease
from toilfn.stores.store import Meta

__all__ = ["Facts", "Notes", "Place", "Run", "State", "state_of"]


class State(str, Enum):
    """The states of the WES specification that a run of this server can have."""

    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether the state of the run no longer changes."""
        return self in (State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED)


class Facts(NamedTuple):
    """The facts that determine the state of a run. A fact that is true stays true."""

    claimed: bool = False
    """Whether a leader has started."""
    running: bool = False
    """Whether the run has tasks, according to the log of its job store."""
    cancelled: bool = False
    """Whether a user has cancelled the run before its command ended."""
    exit: State | None = None
    """The final state that the leader has recorded; None if it has not."""


def state_of(facts: Facts) -> State:
    """Return the state of a run.

    Facts only become true, and when one does, the state never changes to an earlier one. So a client sees each run go
    forward, even if it asks different servers.
    """
    if facts.exit is not None:
        return facts.exit
    if facts.cancelled:
        return State.CANCELING
    if facts.running:
        return State.RUNNING
    return State.INITIALIZING if facts.claimed else State.QUEUED


_ID = re.compile(r"run-[0-9a-f]{32}")


class Place:
    """The directory or bucket with the records of a server; several servers may share it.

    Parameters
    ----------
    url : str
        A directory, or a URL like that of a job store.
    work : str, optional
        The directory for the files of runs. If the place is a directory, servers on several machines must share it.
    **options
        Options for accessing the place, as for `toilfn.stores.open_store`.

    Attributes
    ----------
    work : Path
    store : Store
        The place as a job store, whose objects are the records.
    """

    def __init__(self, url: str, work: str | None = None, **options: Any) -> None:
        if work is None and not is_local(url):
            raise InputError(
                f"place {url}: not a directory, so the files of runs need one", hint="pass it with --work-dir DIR"
            )
        self.store = open_store(url, workflow="toilfn server", **options)
        self.options = options
        self._naming = threading.Lock()
        self._last = 0
        self.url = self.store.url
        self.is_directory = is_local(self.url)
        root = Path(self.url.removeprefix("file://")) if self.is_directory else Path()
        self.work = Path(work).expanduser().absolute() if work else root / "work"
        self.work.mkdir(parents=True, exist_ok=True, mode=0o700)

    def new_id(self) -> str:
        """Return an id for a new run. Ids are in the order of their times; those of one server, in exact order."""
        with self._naming:
            self._last = max(self._last + 1, time.time_ns() // 1_000_000)
            return f"run-{self._last:012x}{secrets.token_hex(10)}"

    def run(self, id: str) -> Run:
        """Return the object for the run with an id, without checking that the run exists.

        Raises
        ------
        MissingObjectError
            If the id is malformed.
        """
        if not _ID.fullmatch(id):
            raise MissingObjectError(f"there is no run {id!r}")
        return Run(self, id)

    def submit(self, run: Run, request: dict[str, Any]) -> None:
        """Record the request of a run, which is queued from now on."""
        self.store.objects.put(f"open/{run.id}", b"")
        run.objects.prepare()
        run.objects.put_new("request", _packed(request))

    def open_ids(self) -> list[str]:
        """List the runs without a final state, in the order in which they were submitted."""
        return sorted(self._ids("open/"))

    def survey(self) -> tuple[set[str], set[str]]:
        """Return the ids of all runs, and the ids of those that have notes."""
        names = [name.split("/") for name in self.store.objects.list("runs/") if name.count("/") == 2]
        found = [{id for _, id, name in names if name == wanted} for wanted in ("request", "notes")]
        return found[0], found[1]

    def sweep(self, before: float) -> None:
        """Delete the files of requests that were received before a time and not accepted."""
        left = {entry.name for entry in self.work.iterdir()} | {*self.open_ids()}
        for id in filter(_ID.fullmatch, left):
            run = self.run(id)
            if int(id[4:16], 16) < before * 1000 and not run.objects.exists("request"):
                shutil.rmtree(run.folder, ignore_errors=True)
                self.store.objects.delete([f"open/{id}"])

    def _ids(self, folder: str) -> Iterator[str]:
        for name in self.store.objects.list(folder):
            if _ID.fullmatch(id := name.removeprefix(folder)):
                yield id


class Notes(NamedTuple):
    """The labels of a run, and whether it is archived; users can change both."""

    labels: dict[str, str]
    archived: bool = False
    """Whether the run is hidden in lists, except in the list of archived runs."""


class Run:
    """A run: its record and its files.

    Attributes
    ----------
    id : str
    objects : toilfn.stores.Objects
        The objects of the record.
    folder : Path
        The folder of the run's files: ``files`` (the uploaded files), ``outputs``, ``store``, and the command's streams
        ``stdout`` and ``stderr``.
    """

    def __init__(self, place: Place, id: str) -> None:
        self.id = id
        self.place = place
        self.objects = place.store.objects.below(f"runs/{id}")
        self.folder = place.work / id

    @cached_property
    def request(self) -> dict[str, Any]:
        """The request, read from the record when it is first needed.

        Raises
        ------
        MissingObjectError
            If the run does not exist.
        """
        try:
            return dict(json.loads(self.objects.get("request")))
        except MissingObjectError:
            raise MissingObjectError(f"there is no run {self.id!r}") from None

    @property
    def files(self) -> Path:
        """The folder of the uploaded files, in which the run's command is started."""
        return self.folder / "files"

    @property
    def outputs_folder(self) -> Path:
        """The folder for outputs, unless they go to a bucket."""
        return self.folder / "outputs"

    @property
    def store_url(self) -> str:
        """The URL of the run's own job store."""
        return str(self.request.get("store") or self.folder / "store")

    @property
    def fold_file(self) -> Path:
        """The file that caches the fold of the job store's log."""
        return self.folder / "fold.cache"

    def open_store(self) -> Store:
        """Open the run's own job store.

        Raises
        ------
        StoreNotFoundError
            If the command has not created it yet.
        """
        options = self.place.options if self.request.get("store") else {}
        return open_store(self.store_url, create=False, **options)

    def facts(self) -> Facts:
        """Read the current facts from the record."""
        ended = self.read("exit")  # read first: once it exists, no other fact matters
        if ended is not None:
            return Facts(exit=State(ended["state"]))
        names = set(self.objects.list(""))
        if "exit" in names:
            return self.facts()
        cancelled = "ending" in names and self.is_cancelled()
        return Facts(any(name.startswith("leases/") for name in names), "running" in names, cancelled)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the JSON of an object in the record; None if the object does not exist."""
        try:
            return dict(json.loads(self.objects.get(name)))
        except MissingObjectError:
            return None

    def note(self, name: str, content: dict[str, Any]) -> bool:
        """Create an object in the record, unless it exists; return whether this call has created it."""
        return self.objects.put_new(name, _packed({**content, "time": time.time()}))

    def cancel(self, user: str) -> bool:
        """Cancel the run; return whether this call did, or an earlier call or the end of the command was first.

        After this, the final state is that of a cancelled run, even if the command still succeeds.
        """
        return self.note("ending", {"by": "cancel", "user": user})

    def is_cancelled(self) -> bool:
        """Return whether the run was cancelled before its command ended."""
        return (self.read("ending") or {}).get("by") == "cancel"

    def end(self, state: State, exit_code: int | None, notes: list[str], reason: str = "") -> None:
        """Record the final state. The first one that is recorded stays; that of a cancelled run is always CANCELED."""
        if not self.note("ending", {"by": "exit"}) and self.is_cancelled():
            state = State.CANCELED
        self.note("exit", {"state": state.value, "exit_code": exit_code, "notes": notes, "reason": reason})
        self.place.store.objects.delete([f"open/{self.id}"])

    def notes(self) -> Notes:
        """Return the labels of the run, and whether it is archived."""
        found = self.read("notes") or {}
        return Notes(found.get("labels", {}), found.get("archived", False))

    def set_notes(self, notes: Notes) -> None:
        """Replace the labels of the run, and whether it is archived. If several users do so, the last one wins."""
        self.objects.put("notes", _packed(notes._asdict()))

    def lease(self, timeout: float) -> Lease:
        """Take the lease of the run, which makes this process its leader.

        Raises
        ------
        StoreLockedError
            If the run has another leader that is alive.
        """
        return Lease.acquire(self.as_store(), timeout=timeout)

    def as_store(self) -> Store:
        """Return the record as a `Store`, since leases are taken of stores."""
        return Store(self.objects, Meta(self.id, 0.0, "", self.place.store.objects.conditional, True))

    def bring_files(self) -> None:
        """Download files that were uploaded to another server, if the place is not a directory."""
        for name in self.objects.list("files/"):
            path = self.folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self.objects.download(name, path)

    def keep_files(self, folder: str) -> None:
        """Copy a file or a subfolder of the run's folder into the record, if the place is not a directory."""
        if self.place.is_directory:
            return
        top = self.folder / folder
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.objects.upload(path, os.fspath(path.relative_to(self.folder)))

    def delete(self) -> None:
        """Delete the run with all its files, including a job store outside its folder."""
        if self.request.get("store"):
            self.open_store().destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.place.store.objects.delete([f"open/{self.id}"])
        self.place.store.objects.clear(f"runs/{self.id}")


def _packed(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
