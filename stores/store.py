"""The job store: a log of records, blobs, and small objects with which leaders and workers communicate."""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack

from toilfn.errors import CorruptObjectError, StoreError, StoreFormatError
from toilfn.stores import checked
from toilfn.stores.blobs import BlobRef, VerifyingReader, check, check_file, shard
from toilfn.stores.digests import DEFAULT, algorithm_of, digest_of, hash_file
from toilfn.stores.faults import fault
from toilfn.stores.log import Log
from toilfn.stores.objects import ENCRYPTED, META, TEMPORARY, MissingObjectError, Objects
from toilfn.stores.references import Source
from toilfn.stores.segments import unpack

__all__ = ["FORMAT", "Meta", "Store", "make", "remains"]

FORMAT = 1
"""The version of the store's format that this module reads and writes."""

META_VARIABLE = "TOILFN_STORE_META"
"""The environment variable in which a leader passes the content of ``store.json`` to its workers: JSON, by URL."""

_COLLECTED = ("blobs", "batches", "answers")
_FOLDERS = (*_COLLECTED, "jobs", "flags", "leases", "notes", "snapshots", "log")


class Meta(NamedTuple):
    """The content of ``store.json``."""

    id: str
    created: float
    """Seconds since the epoch."""
    workflow: str
    """The name of the workflow, as given when the store was created."""
    conditional: bool
    """Whether the place supports writing an object only if it does not exist."""
    sync: bool
    """Whether writes must survive a power failure."""

    @classmethod
    def from_leader(cls, url: str) -> Meta | None:
        """Return the description that the leader passed to this worker, or None; later calls return None.

        It saves each worker from reading ``store.json``.
        """
        known = json.loads(os.environ.get(META_VARIABLE) or "{}")
        if url not in known:
            return None
        del os.environ[META_VARIABLE]  # must not affect stores that tasks open, or processes that they start
        return cls(**known[url])

    @classmethod
    def read(cls, objects: Objects) -> Meta | None:
        """Read ``store.json``; return None if there is no store.

        Raises
        ------
        StoreFormatError
            If the store has a format that this version of toilfn does not know.
        CorruptObjectError
            If the object is damaged.
        """

        def get() -> Meta:
            data = objects.get(META)
            if data.startswith(ENCRYPTED):
                raise _no_key(objects.url)
            what, advice = f"{META} in {objects.url}", "restore it from a copy"
            return checked.read(cls, data, lambda data: _fields(data, objects.url), what, advice)

        try:
            return checked.reread(get, objects.pause)
        except MissingObjectError:
            return None

    def write(self, objects: Objects) -> bool:
        """Write ``store.json``; return False if another process has already done so."""
        return objects.put_new(META, json.dumps({"format": FORMAT, **self._asdict()}, indent=1).encode())


class Store:
    """A job store. Use `toilfn.stores.open_store` to open one.

    Parameters
    ----------
    objects : Objects
        The objects of the store.
    meta : Meta
        The content of ``store.json``.

    Attributes
    ----------
    url : str
        The store's URL, with which any process on any host with the same view of the storage can open it.
    id : str
        The store's unique id.
    log : Log
        The store's records.
    created : float
        The time of its creation, in seconds since the epoch.
    workflow : str
        The name of the workflow, as given when the store was created.
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

    def over(self, objects: Objects) -> Store:
        """Return a view of this store that reads and writes through `objects`, which wrap the store's own."""
        return Store(objects, self._meta)

    def worker_variables(self) -> dict[str, str]:
        """Return the environment variable that saves each worker from reading ``store.json``."""
        return {META_VARIABLE: json.dumps({self.url: self._meta._asdict()})}

    # Blobs

    def put_blob(self, data: bytes, *, name: str | None = None) -> BlobRef:
        """Write a blob.

        Parameters
        ----------
        data : bytes
            The content.
        name : str, optional
            A name from `new_blob_name`. Without one, the content's digest is the name: equal blobs are stored once.
        """
        digest = digest_of(data)
        if name is None:
            name = _content_name(digest)
            if not self.objects.exists(name):
                self.objects.put_new(name, data)
        else:
            self.objects.put(name, data)
        return BlobRef(name, len(data), digest)

    def put_buffer(self, data: memoryview, *, name: str | None = None) -> BlobRef:
        """Write a blob from memory; in a directory, its file can be mapped into memory.

        Parameters
        ----------
        data : memoryview
            The content, as contiguous bytes.
        name : str, optional
            A name from `new_blob_name`. Without one, the content's digest is the name: equal blobs are stored once.
        """
        digest = digest_of(data)
        ref = BlobRef(name or _content_name(digest), data.nbytes, digest)
        if name is not None or not self.objects.exists(ref.name):
            self.objects.put_buffer(ref.name, data)
        return ref

    def put_blob_file(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        move: bool = False,
        share: bool = False,
        algorithm: str = DEFAULT,
    ) -> BlobRef:
        """Write a file's content to a blob, using constant memory.

        Parameters
        ----------
        path : path
            The file.
        name : str, optional
            A name from `new_blob_name`. Without one, the content's digest is the name: equal blobs are stored once.
        move : bool
            Whether to remove the file, which is renamed into the store if possible.
        share : bool
            Whether the file may be linked into the store instead of being copied. It must not change afterwards, and
            needs a `name`.
        algorithm : str
            The algorithm of the digest of a file with a name; see `toilfn.stores.digests`.
        """
        if name is not None and share:
            return BlobRef(name, *self.objects.upload_shared(path, name, algorithm))
        if name is not None:
            return BlobRef(name, *self.objects.upload_hashed(path, name, algorithm, move=move))
        size, digest = hash_file(path)
        name = _content_name(digest)
        if not self.objects.exists(name):
            self.objects.upload(path, name, move=move)
        elif move:
            os.unlink(path)
        return BlobRef(name, size, digest)

    def get_blob(self, ref: BlobRef) -> bytes:
        """Read a blob and verify it.

        Raises
        ------
        CorruptObjectError
            If the blob is missing, truncated or altered.
        """

        def get() -> bytes:
            data = self.objects.get(ref.name)
            check(ref, len(data), digest_of(data, algorithm_of(ref.digest)), self.url)
            return data

        try:
            return checked.reread(get, self.objects.pause)
        except MissingObjectError:
            raise self._missing(ref) from None

    def payload(self, value: bytes | BlobRef) -> bytes:
        """Return a value of a record: the bytes themselves, or the content of the blob that holds them.

        Raises
        ------
        CorruptObjectError
            If the blob is missing, truncated or altered.
        """
        return self.get_blob(value) if isinstance(value, BlobRef) else value

    def fetch_blob(self, ref: BlobRef, path: str | os.PathLike[str]) -> None:
        """Write a blob to a file and verify it, using constant memory; the file appears complete or not at all.

        Raises
        ------
        CorruptObjectError
            If the blob is missing, truncated or altered.
        """
        target = Path(path)
        draft = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")

        def download() -> None:
            if ref.is_reference:
                self.source_of(ref).download(draft)
                return
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
        """Open a blob for reading. It is verified if it is read to its end.

        Raises
        ------
        CorruptObjectError
            If the blob is missing; at its end, if it is truncated or altered.
        """
        if ref.is_reference:
            source = self.source_of(ref)
            return io.BufferedReader(VerifyingReader(source.open(), ref, self.url, source.check), 2**20)
        origin = self.linked_file(ref)
        recheck = None if origin is None else partial(check_file, ref, origin, self.url)
        try:
            stream = self.objects.open(ref.name)
        except MissingObjectError:
            raise self._missing(ref) from None
        return io.BufferedReader(VerifyingReader(stream, ref, self.url, recheck), 2**20)

    def linked_file(self, ref: BlobRef) -> Path | None:
        """Return the file that a blob links to, if the file is checked by its state only, after that check.

        Raises
        ------
        CorruptObjectError
            If the file is gone, changed or replaced.
        """
        if not ref.is_marked:
            return None
        path = self.objects.local_path(ref.name)
        if path is None:
            raise self._missing(ref)
        check_file(ref, path, self.url)
        return path

    def put_reference(self, source: Source, name: str) -> BlobRef:
        """Write a blob that refers to an object outside the store, and does not copy its content."""
        self.objects.put(name, source.pack())
        return source.ref(name)

    def source_of(self, ref: BlobRef) -> Source:
        """Return the object outside the store to which a blob refers.

        Raises
        ------
        CorruptObjectError
            If the blob is missing or altered.
        """
        try:
            return Source.unpack(self.objects.get(ref.name), ref, self.url)
        except MissingObjectError:
            raise self._missing(ref) from None

    def local_file(self, ref: BlobRef) -> Path | None:
        """Return the path of the store's own file with a blob's content, if there is one; it must not be changed."""
        return None if ref.is_reference else self.objects.local_path(ref.name)

    def blob_url(self, ref: BlobRef) -> str:
        """Return a blob's URL, for programs that open URLs themselves."""
        if ref.is_reference:
            return self.source_of(ref).url
        return f"{self.url}/{ref.name}"

    def _missing(self, ref: BlobRef) -> CorruptObjectError:
        target = self.objects.link_target(ref.name)
        if target is not None:
            hint = "restore the file, or start the workflow in a new store"
            return CorruptObjectError(f"{ref.name} in {self.url} is a link to {target}, which is gone", hint=hint)
        return CorruptObjectError(f"{ref.name} in {self.url} is missing", hint=checked.RESTORE)

    # Flags

    def set_flag(self, name: str) -> None:
        """Set a flag, such as "kill", for other processes."""
        self.objects.put(f"flags/{name}", repr(time.time()).encode())

    def has_flag(self, name: str) -> bool:
        """Return whether a flag is set."""
        return self.objects.exists(f"flags/{name}")

    def clear_flag(self, name: str) -> None:
        """Clear a flag."""
        self.objects.delete([f"flags/{name}"])

    # Notes

    def put_note(self, name: str, data: bytes) -> None:
        """Save data of a cluster, such as ids of its jobs, for the next leader. It must not contain secrets."""
        self.objects.put(f"notes/{name}", data)

    def get_note(self, name: str) -> bytes:
        """Return a note; empty if there is none."""
        try:
            return self.objects.get(f"notes/{name}")
        except MissingObjectError:
            return b""

    # Batches and their answers

    def put_batches(self, name: str, messages: Sequence[bytes], blobs: Mapping[BlobRef, bytes] | None = None) -> None:
        """Write the messages of the batches NAME-0, NAME-1, ... for their workers, with the blobs that these need."""
        packed = msgpack.packb((messages, list((blobs or {}).items())))
        self.objects.put(shard("batches", name), packed)

    def get_batch(self, name: str) -> tuple[bytes, dict[BlobRef, bytes]]:
        """Return a batch's message, and the blobs sent with it.

        Raises
        ------
        MissingObjectError
            If there is none: the batch has ended, and its leader has removed the message.
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
        """Write the `n`-th answer (from 0) of a batch's worker; return False if another worker has written one."""
        full = _answers_name(name, n)
        return self.objects.put_new(full, data) or self.objects.get(full) == data

    def answers(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Iterate over a batch's answers from the `start`-th on, reading one at a time."""
        for n in count(start):
            try:
                yield self.objects.get(_answers_name(name, n))
            except MissingObjectError:
                return

    def get_answers(self, name: str, start: int = 0) -> list[bytes]:
        """Return a batch's answers from the `start`-th on."""
        return list(self.answers(name, start))

    def list_answers(self) -> dict[str, int]:
        """Return the number of answers of each batch, by one listing for all batches."""
        numbers: dict[str, int] = {}
        for full in self.objects.list("answers/"):
            name, _, n = full.rpartition("/")[2].rpartition("-")
            if n.isdecimal():
                numbers[name] = numbers.get(name, 0) + 1
        return numbers

    def delete_batches(self, groups: Iterable[str], answers: Mapping[str, int]) -> None:
        """Delete the messages of groups of batches, and answers: for each batch in `answers`, its first N answers."""
        names = [_answers_name(name, n) for name, number in answers.items() for n in range(number)]
        self.objects.delete([*(shard("batches", name) for name in groups), *names])

    # Cleaning up

    def collect(self, live: Iterable[str]) -> int:
        """Delete all objects that nothing refers to, and return their number.

        No task may be running, since objects that it has written but not yet committed count as garbage.

        Parameters
        ----------
        live : iterable of str
            Names of all blobs, batches and answers to keep.
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
        """Delete the store, and nothing that it did not create.

        If this is interrupted, the remains still count as a store, so that `destroy` can be called again.
        """
        for folder in _FOLDERS:
            self.objects.clear(folder)
            fault("store.cleared")
        self.objects.sweep(0)
        self.objects.delete([META])
        self.objects.remove_root()


def make(objects: Objects, workflow: str) -> Meta:
    """Create a store.

    Raises
    ------
    StoreError
        If the place is not empty, or cannot be written to.
    """
    if objects.is_empty():
        objects.try_out()
        made = Meta(uuid.uuid4().hex, time.time(), workflow, objects.conditional, objects.sync)
        if made.write(objects):
            return made
    there = Meta.read(objects)  # another process may just have created it
    if there is None and remains(objects) is not None:
        raise StoreError(
            f"{objects.url} is an incomplete job store: {META} is missing",
            hint=f"restore that object from a copy, or remove the rest: toilfn clean {objects.url}",
        )
    if there is None:
        raise StoreError(
            f"{objects.url} is not empty and is not a job store; nothing was changed",
            hint="choose a new or an empty place",
        )
    return there


class _Batch(NamedTuple):
    """One batch of a group that is stored in one object."""

    message: bytes
    blobs: dict[BlobRef, bytes]


def _batch(data: bytes, place: int) -> tuple[bytes, dict[BlobRef, bytes]]:
    messages, blobs = msgpack.unpackb(data, use_list=False)
    return messages[place], {BlobRef(*ref): bytes(content) for ref, content in blobs}


def _fields(data: bytes, url: str) -> dict[str, Any]:
    """Parse ``store.json``, and refuse a store of another format."""
    fields: dict[str, Any] = json.loads(data)
    version = fields.pop("format")
    if version != FORMAT:
        raise StoreFormatError(
            f"job store {url} has format {version}, but this toilfn reads format {FORMAT}",
            hint="use the version of toilfn that created it, or start the workflow in a new store",
        )
    return fields


def remains(objects: Objects) -> Meta | None:
    """Build a description of a store that has lost its own, from its log; return None if there is no log."""
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
    """Return the name of an answer. All answers of a batch are in one folder."""
    return f"{shard('answers', name)}-{n}"
