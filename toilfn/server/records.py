"""The records of a server: small objects in any place that a job store can be in, each written once.

    store.json              as in every job store: what the place can do is found out once
    open/RUN                the run has no final state yet; it is removed afterwards
    runs/RUN/request        the request, its user and its time
    runs/RUN/files/...      attachments, where the place is not a directory
    runs/RUN/leases/N       who leads the run: a lease, as in a job store
    runs/RUN/jobs/N         which server submits a job to lead it, where leaders are jobs
    runs/RUN/started        when a leader took it first, and the command
    runs/RUN/running        its tasks were submitted
    runs/RUN/ending         why it ends: cancelled, or its command ended; the first of both decides
    runs/RUN/exit           the final state, the exit code, and why the run failed
    runs/RUN/outputs        what came out, as JSON
    runs/RUN/logs/...       standard output and error, where the place is not a directory
    runs/RUN/notes          labels, and whether the run is archived: the one object that changes
    tokens/NAME             a hash of the token of a user
    sessions/HASH           who has logged in with a browser

A run's files are in the folder RUN of the work directory; of a place that is a directory, that is its folder
``work``.

The state of a run, worked out of what its record holds: no state is written down before the end.
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
    """The states of WES that a run of this server can have."""

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
        """Whether a run in this state stays in it."""
        return self in (State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED)


class Facts(NamedTuple):
    """The facts of a run. Each of these, once true, stays so."""

    claimed: bool = False
    """A leader has taken the run."""
    running: bool = False
    """The log of the run's own job store says that its tasks were submitted."""
    cancelled: bool = False
    """A user asked to cancel it before it had ended."""
    exit: State | None = None
    """The final state that the leader wrote down."""


def state_of(facts: Facts) -> State:
    """Return the state of a run.

    Facts only ever become true, and this function never goes back from a later state to an earlier one when they do.
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
    """Where servers keep their records; several servers may share one.

    Parameters
    ----------
    url : str
        A directory, or any URL that a job store can have.
    work : str, optional
        The directory for the runs' files. Servers on several machines must share it, unless the place is not a
        directory.
    **options
        How to reach the place, as for `toilfn.stores.open_store`.

    Attributes
    ----------
    work : Path
    store : Store
    """

    def __init__(self, url: str, work: str | None = None, **options: Any) -> None:
        if work is None and not is_local(url):
            raise InputError(f"the place {url} is not a directory; name one for the files of runs: --work-dir DIR")
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
        """Return an id for a new run. Ids sort by time, those of one server by their order."""
        with self._naming:
            self._last = max(self._last + 1, time.time_ns() // 1_000_000)
            return f"run-{self._last:012x}{secrets.token_hex(10)}"

    def run(self, id: str) -> Run:
        """Return the run of an id, whether there is one or not.

        Raises
        ------
        MissingObjectError
            If no run can have this id.
        """
        if not _ID.fullmatch(id):
            raise MissingObjectError(f"there is no run {id!r}")
        return Run(self, id)

    def submit(self, run: Run, request: dict[str, Any]) -> None:
        """Write the request down: from now on the run is queued."""
        self.store.objects.put(f"open/{run.id}", b"")
        run.objects.prepare()
        run.objects.put_new("request", _packed(request))

    def open_ids(self) -> list[str]:
        """List the runs without a final state, in the order in which they were submitted."""
        return sorted(self._ids("open/"))

    def survey(self) -> tuple[set[str], set[str]]:
        """Return all runs that were submitted, and those of which something is noted."""
        names = [name.split("/") for name in self.store.objects.list("runs/") if name.count("/") == 2]
        found = [{id for _, id, name in names if name == wanted} for wanted in ("request", "notes")]
        return found[0], found[1]

    def sweep(self, before: float) -> None:
        """Remove what requests that never were accepted have left, those from before a moment."""
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
    """Notes of people about a run."""

    labels: dict[str, str]
    archived: bool = False
    """Whether lists leave the run out, unless archived ones are wanted."""


class Run:
    """One run: its record, and where its files are.

    Attributes
    ----------
    id : str
    objects : toilfn.stores.Objects
        Its record.
    folder : Path
        Its files: ``files`` is what was uploaded, ``outputs``, ``store`` and the leader's streams are beside it.
    """

    def __init__(self, place: Place, id: str) -> None:
        self.id = id
        self.place = place
        self.objects = place.store.objects.below(f"runs/{id}")
        self.folder = place.work / id

    @cached_property
    def request(self) -> dict[str, Any]:
        """The request.

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
        """Where outputs go, unless they go to a bucket."""
        return self.folder / "outputs"

    @property
    def store_url(self) -> str:
        """The run's own job store."""
        return str(self.request.get("store") or self.folder / "store")

    @property
    def fold_file(self) -> Path:
        """The file in which the fold of the job store's log is kept: a cache."""
        return self.folder / "fold.cache"

    def open_store(self) -> Store:
        """Open the run's own job store.

        Raises
        ------
        StoreNotFoundError
            If there is none yet.
        """
        options = self.place.options if self.request.get("store") else {}
        return open_store(self.store_url, create=False, **options)

    def facts(self) -> Facts:
        """Look what is known now."""
        ended = self.read("exit")  # first: once it is there, nothing else matters
        if ended is not None:
            return Facts(exit=State(ended["state"]))
        names = set(self.objects.list(""))
        if "exit" in names:
            return self.facts()
        cancelled = "ending" in names and self.is_cancelled()
        return Facts(any(name.startswith("leases/") for name in names), "running" in names, cancelled)

    def read(self, name: str) -> dict[str, Any] | None:
        """Read one of the objects of JSON; None if it is not there."""
        try:
            return dict(json.loads(self.objects.get(name)))
        except MissingObjectError:
            return None

    def note(self, name: str, content: dict[str, Any]) -> bool:
        """Write one of the objects, unless it is there; say whether this call did."""
        return self.objects.put_new(name, _packed({**content, "time": time.time()}))

    def cancel(self, user: str) -> bool:
        """Ask for the end of the run, and say whether this call did: from now on its command can no longer succeed."""
        return self.note("ending", {"by": "cancel", "user": user})

    def is_cancelled(self) -> bool:
        """Return whether someone has cancelled the run before its command ended."""
        return (self.read("ending") or {}).get("by") == "cancel"

    def end(self, state: State, exit_code: int | None, notes: list[str], reason: str = "") -> None:
        """Write down the final state: that of a cancelled run is always the same, and the first one written stays."""
        if not self.note("ending", {"by": "exit"}) and self.is_cancelled():
            state = State.CANCELED
        self.note("exit", {"state": state.value, "exit_code": exit_code, "notes": notes, "reason": reason})
        self.place.store.objects.delete([f"open/{self.id}"])

    def notes(self) -> Notes:
        """Return what people have noted of the run."""
        found = self.read("notes") or {}
        return Notes(found.get("labels", {}), found.get("archived", False))

    def set_notes(self, notes: Notes) -> None:
        """Write down what people note of the run; the last one who does so wins."""
        self.objects.put("notes", _packed(notes._asdict()))

    def lease(self, timeout: float) -> Lease:
        """Become the leader of the run.

        Raises
        ------
        StoreLockedError
            If it has a living one.
        """
        return Lease.acquire(self.as_store(), timeout=timeout)

    def as_store(self) -> Store:
        """Return the record as what leases are taken of."""
        return Store(self.objects, Meta(self.id, 0.0, "", self.place.store.objects.conditional, True))

    def bring_files(self) -> None:
        """Fetch files that were uploaded to another server, if the place is not a directory."""
        for name in self.objects.list("files/"):
            path = self.folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self.objects.download(name, path)

    def keep_files(self, folder: str) -> None:
        """Copy a folder of the run's, or a file, into the record, where the place is not a directory."""
        if self.place.is_directory:
            return
        top = self.folder / folder
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.objects.upload(path, os.fspath(path.relative_to(self.folder)))

    def delete(self) -> None:
        """Remove the run with all its files, including a job store that is elsewhere."""
        if self.request.get("store"):
            self.open_store().destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.place.store.objects.delete([f"open/{self.id}"])
        self.place.store.objects.clear(f"runs/{self.id}")


def _packed(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
