"""The job store: a log of records, blobs, and the small objects by which leaders and workers meet."""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack

from toilfn.errors import CorruptObjectError, StoreError, StoreFormatError
from toilfn.stores import checked
from toilfn.stores.blobs import BlobRef, VerifyingReader, check, check_file, digest_of, hash_file, shard
from toilfn.stores.faults import fault
from toilfn.stores.log import Log
from toilfn.stores.objects import ENCRYPTED, META, TEMPORARY, MissingObjectError, Objects
from toilfn.stores.segments import unpack

__all__ = ["FORMAT", "Meta", "Store", "make", "remains"]

FORMAT = 1
"""The version of the format that this module reads and writes."""

META_VARIABLE = "TOILFN_STORE_META"
"""The environment variable by which a leader tells workers what its store's ``store.json`` says: JSON by URL."""

_COLLECTED = ("blobs", "batches", "answers")
_FOLDERS = (*_COLLECTED, "flags", "leases", "notes", "snapshots", "log")


class Meta(NamedTuple):
    """What ``store.json`` holds."""

    id: str
    created: float
    """Seconds since the epoch."""
    workflow: str
    """What the creator said the store is for."""
    conditional: bool
    """Whether the place lets one of several writers of a new object win."""
    sync: bool
    """Whether writes are to outlive a loss of power."""

    @classmethod
    def told(cls, url: str) -> Meta | None:
        """Return what this worker's leader has told of the store at a URL, once: that saves a request for each job."""
        known = json.loads(os.environ.get(META_VARIABLE) or "{}")
        if url not in known:
            return None
        del os.environ[META_VARIABLE]  # not for what tasks open and start
        return cls(**known[url])

    @classmethod
    def read(cls, objects: Objects) -> Meta | None:
        """Read it; None where there is no store.

        Raises
        ------
        StoreFormatError
            If the store has a version that this toilfn does not know.
        CorruptObjectError
            If it cannot be read.
        """

        def get() -> Meta:
            data = objects.get(META)
            if data.startswith(ENCRYPTED):
                raise _no_key(objects.url)
            what, advice = f"{META} in {objects.url}", "put it back from a copy"
            return checked.read(cls, data, lambda data: _fields(data, objects.url), what, advice)

        try:
            return checked.reread(get, objects.pause)
        except MissingObjectError:
            return None

    def write(self, objects: Objects) -> bool:
        """Write it, unless another process did at the same time."""
        return objects.put_new(META, json.dumps({"format": FORMAT, **self._asdict()}, indent=1).encode())


class Store:
    """A job store. `toilfn.stores.open_store` makes one.

    Parameters
    ----------
    objects : Objects
        Where it is.
    meta : Meta
        What its ``store.json`` says.

    Attributes
    ----------
    url : str
        Where it is, as any process on any host with the same view of storage can open it.
    id : str
        Unique to it.
    log : Log
        Its records.
    created : float
        Seconds since the epoch.
    workflow : str
        What its creator said it is for.
    """

    def __init__(self, objects: Objects, meta: Meta) -> None:
        self.objects = objects
        self.url = objects.url
        self.id = meta.id
        self.created = meta.created
        self.workflow = meta.workflow
        self._meta = meta
        self.log = Log(objects, meta.id)

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    def introduction(self) -> dict[str, str]:
        """Return the environment variable that saves each worker reading ``store.json``."""
        return {META_VARIABLE: json.dumps({self.url: self._meta._asdict()})}

    # Blobs

    def put_blob(self, data: bytes, *, name: str | None = None) -> BlobRef:
        """Write bytes.

        Parameters
        ----------
        data : bytes
            The content.
        name : str, optional
            A name from `new_blob_name`. Without one the content is the name, and equal blobs are one.
        """
        digest = digest_of(data)
        if name is None:
            name = _content_name(digest)
            if not self.objects.exists(name):
                self.objects.put_new(name, data)
        else:
            self.objects.put(name, data)
        return BlobRef(name, len(data), digest)

    def put_blob_file(self, path: str | os.PathLike[str], *, name: str | None = None, move: bool = False) -> BlobRef:
        """Write a file's content, in constant memory.

        Parameters
        ----------
        path : path
            The file.
        name : str, optional
            A name from `new_blob_name`. Without one the content is the name, and equal blobs are one.
        move : bool
            Give the file away: it is gone afterwards, and renamed into the store where that is possible.
        """
        if name is not None and not move:
            return BlobRef(name, *self.objects.upload_hashed(path, name))
        size, digest = hash_file(path)
        if name is None:
            name = _content_name(digest)
            if self.objects.exists(name):
                if move:
                    os.unlink(path)
                return BlobRef(name, size, digest)
        self.objects.upload(path, name, move=move)
        return BlobRef(name, size, digest)

    def get_blob(self, ref: BlobRef) -> bytes:
        """Read a blob and verify it.

        Raises
        ------
        CorruptObjectError
            If it is missing, cut short or altered.
        """

        def get() -> bytes:
            data = self.objects.get(ref.name)
            check(ref, len(data), digest_of(data), self.url)
            return data

        try:
            return checked.reread(get, self.objects.pause)
        except MissingObjectError:
            raise self._missing(ref) from None

    def fetch_blob(self, ref: BlobRef, path: str | os.PathLike[str]) -> None:
        """Write a blob to a file and verify it, in constant memory; the file appears whole or not at all.

        Raises
        ------
        CorruptObjectError
            If it is missing, cut short or altered.
        """
        target = Path(path)
        draft = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")

        def download() -> None:
            origin = self.linked_file(ref)
            self.objects.download(ref.name, draft)
            check_file(ref, draft if origin is None else origin, self.url)
            check(ref, os.path.getsize(draft), ref.digest, self.url)

        try:
            checked.reread(download, self.objects.pause)
            os.replace(draft, target)
        except MissingObjectError:
            raise self._missing(ref) from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)

    def open_blob(self, ref: BlobRef) -> BinaryIO:
        """Open a blob for reading; one that is read to its end is verified.

        Raises
        ------
        CorruptObjectError
            If it is missing; and when its end is read, if it is cut short or altered.
        """
        origin = self.linked_file(ref)
        try:
            stream = self.objects.open(ref.name)
        except MissingObjectError:
            raise self._missing(ref) from None
        return io.BufferedReader(VerifyingReader(stream, ref, self.url, origin), 2**20)

    def linked_file(self, ref: BlobRef) -> Path | None:
        """Return the file that a blob is a link to, if it is known by its state only; that is checked.

        Raises
        ------
        CorruptObjectError
            If the file is gone, or was changed or replaced.
        """
        if not ref.is_marked:
            return None
        path = self.objects.local_path(ref.name)
        if path is None:
            raise self._missing(ref)
        check_file(ref, path, self.url)
        return path

    def blob_url(self, ref: BlobRef) -> str:
        """Return where a blob is, for programs that open URLs themselves."""
        return f"{self.url}/{ref.name}"

    def _missing(self, ref: BlobRef) -> CorruptObjectError:
        target = self.objects.link_target(ref.name)
        if target is not None:
            hint = "put the file back, or start the workflow in a new store"
            return CorruptObjectError(f"{ref.name} in {self.url} is a link to {target}, which is gone", hint=hint)
        return CorruptObjectError(f"{ref.name} in {self.url} is missing", hint=checked.RESTORE)

    # Flags

    def set_flag(self, name: str) -> None:
        """Put up a sign, such as "kill", for other processes."""
        self.objects.put(f"flags/{name}", repr(time.time()).encode())

    def has_flag(self, name: str) -> bool:
        """Return whether a sign is up."""
        return self.objects.exists(f"flags/{name}")

    def clear_flag(self, name: str) -> None:
        """Take a sign down."""
        self.objects.delete([f"flags/{name}"])

    # Notes

    def put_note(self, name: str, data: bytes) -> None:
        """Keep what a cluster wants to know again when the next leader comes; nothing secret."""
        self.objects.put(f"notes/{name}", data)

    def get_note(self, name: str) -> bytes:
        """Read a note; empty if there is none."""
        try:
            return self.objects.get(f"notes/{name}")
        except MissingObjectError:
            return b""

    # Batches and their answers

    def put_batches(self, name: str, messages: Sequence[bytes], blobs: Mapping[BlobRef, bytes] | None = None) -> None:
        """Write the messages of batches NAME-0, NAME-1, ... for their workers, with blobs that these need."""
        packed = msgpack.packb((messages, list((blobs or {}).items())))
        self.objects.put(shard("batches", name), packed)

    def get_batch(self, name: str) -> tuple[bytes, dict[BlobRef, bytes]]:
        """Read a batch's message, and the blobs that came along.

        Raises
        ------
        MissingObjectError
            If there is none: the batch is over, and its leader has cleared it away.
        """
        group, _, place = name.rpartition("-")
        full = shard("batches", group)

        def get() -> _Batch:
            data = self.objects.get(full)
            if data.startswith(ENCRYPTED):
                raise _no_key(self.url)
            return checked.read(_Batch, data, lambda data: _batch(data, int(place)), f"{full} in {self.url}")

        batch = checked.reread(get, self.objects.pause)
        return batch.message, batch.blobs

    def put_answers(self, name: str, n: int, data: bytes) -> bool:
        """Write the `n`-th answer (from 0) of a batch's worker; False if another worker's is there."""
        full = _answers_name(name, n)
        return self.objects.put_new(full, data) or self.objects.get(full) == data

    def answers(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Read a batch's answers from the `start`-th on, one at a time, as many as there are."""
        for n in count(start):
            try:
                yield self.objects.get(_answers_name(name, n))
            except MissingObjectError:
                return

    def get_answers(self, name: str, start: int = 0) -> list[bytes]:
        """Read all of a batch's answers from the `start`-th on."""
        return list(self.answers(name, start))

    def list_answers(self) -> dict[str, int]:
        """Return how many answers each batch has, by one listing for all batches."""
        numbers: dict[str, int] = {}
        for full in self.objects.list("answers/"):
            name, _, n = full.rpartition("/")[2].rpartition("-")
            if n.isdecimal():
                numbers[name] = numbers.get(name, 0) + 1
        return numbers

    def delete_batches(self, groups: Iterable[str], answers: Mapping[str, int]) -> None:
        """Delete the messages of groups of batches, and as many of the first answers of each batch as is said."""
        names = [_answers_name(name, n) for name, number in answers.items() for n in range(number)]
        self.objects.delete([*(shard("batches", name) for name in groups), *names])

    # The end

    def collect(self, live: Iterable[str]) -> int:
        """Delete what nothing refers to, and say how many objects that were.

        No task may be running: what one has written but not committed yet is garbage.

        Parameters
        ----------
        live : iterable of str
            Names of all blobs, batches and answers that are to stay.
        """
        kept = set(live)
        deleted = self.objects.sweep(0)
        for folder in _COLLECTED:
            garbage = (name for name in self.objects.list(f"{folder}/") if name not in kept)
            while group := list(islice(garbage, 1000)):
                self.objects.delete(group)
                deleted += len(group)
                fault("store.collected")
        return deleted

    def destroy(self) -> None:
        """Delete the store, and nothing that it did not make.

        A store that was destroyed by half is still a store, so that it can be destroyed again.
        """
        for folder in _FOLDERS:
            self.objects.clear(folder)
            fault("store.cleared")
        self.objects.sweep(0)
        self.objects.delete([META])
        self.objects.remove_root()


def make(objects: Objects, workflow: str) -> Meta:
    """Build a store where none is.

    Raises
    ------
    StoreError
        If something else is there, or the place cannot be written to.
    """
    if objects.is_empty():
        objects.try_out()
        made = Meta(uuid.uuid4().hex, time.time(), workflow, objects.conditional, objects.sync)
        if made.write(objects):
            return made
    there = Meta.read(objects)  # another process may have made it just now
    if there is None and remains(objects) is not None:
        raise StoreError(
            f"{objects.url} is an incomplete job store: {META} is missing",
            hint=f"put that object back from a copy, or remove the rest: toilfn clean {objects.url}",
        )
    if there is None:
        raise StoreError(
            f"{objects.url} is not empty and is not a job store; nothing was changed",
            hint="choose a new or an empty place",
        )
    return there


class _Batch(NamedTuple):
    """One batch of the group that an object holds."""

    message: bytes
    blobs: dict[BlobRef, bytes]


def _batch(data: bytes, place: int) -> tuple[bytes, dict[BlobRef, bytes]]:
    messages, blobs = msgpack.unpackb(data, use_list=False)
    return messages[place], {BlobRef(*ref): bytes(content) for ref, content in blobs}


def _fields(data: bytes, url: str) -> dict[str, Any]:
    """Parse a store's description, and refuse one of another format."""
    fields: dict[str, Any] = json.loads(data)
    version = fields.pop("format")
    if version != FORMAT:
        raise StoreFormatError(
            f"job store {url} has format {version}, but this toilfn reads format {FORMAT}",
            hint="use the version of toilfn that created it, or start the workflow in a new store",
        )
    return fields


def remains(objects: Objects) -> Meta | None:
    """Build a description for what is left of a store that has lost its own; None where there is no object of a log."""
    for folder in ("log/", "snapshots/"):
        for name in objects.list(folder):
            with suppress(StoreError):
                header = unpack(name, objects.get(name), objects.url).header
                return Meta(header.store, 0.0, "", conditional=True, sync=True)
    return None


def _no_key(url: str) -> StoreError:
    return StoreError(f"job store {url} is encrypted", hint="pass its key as the store option encryption_key")


def _content_name(digest: bytes) -> str:
    return shard("blobs", digest.hex())


def _answers_name(name: str, n: int) -> str:
    """Return an answer's name; all answers of a batch are in one folder."""
    return f"{shard('answers', name)}-{n}"
