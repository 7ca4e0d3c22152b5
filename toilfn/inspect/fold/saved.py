"""Keep folds in files, so that a log is not read from its start again.

A file holds the columns of a fold and the place in the log up to which they were filled. It is a cache: a file that is
damaged, of another store, or of another version of these modules is not used. A file can only hold data of the
classes that are listed here, so that a file that another user has written runs no code.
"""

from __future__ import annotations

import array
import hashlib
import io
import pickle
import tempfile
import zlib
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from toilfn.inspect.fold import columns, measures, reading
from toilfn.inspect.fold.columns import Attempts, Detail, Figures, Kind, Levels, Sums, Timescale, Usage, Variant, Worker
from toilfn.inspect.fold.measures import Measures
from toilfn.inspect.fold.run import Fold
from toilfn.model import records
from toilfn.model.records import BlobRef, End, Epoch, Run, uncollected
from toilfn.resources import Accelerator, Resources
from toilfn.stores import Store

__all__ = ["FEW", "SavedFold"]

FEW = 5_000
"""The number of tasks and attempts that are quick enough to read again."""
_MORE = 20
"""A file is written again when the fold has grown by more than a twentieth."""
_MARK, _HEAD = 32, 36
"""Bytes of the mark with which files begin, and of the mark together with the checksum of the rest."""
_CLASSES = {
    f"{each.__module__}.{each.__qualname__}": each
    for each in (Attempts, Kind, Variant, Worker, Detail, Levels, Timescale, Figures, Sums, Usage, Measures,
                 BlobRef, End, Epoch, Run, Accelerator, Resources, Counter, array.array)
}  # fmt: skip


class SavedFold:
    """The file in which the fold of one store is kept.

    Parameters
    ----------
    path : Path
    detail : Detail
        How much the fold keeps.
    """

    def __init__(self, path: Path, detail: Detail = Detail.ATTEMPTS) -> None:
        self._path = path
        self._detail = detail
        self._size = 0
        """The size of the fold in the file."""

    def load(self, store: Store) -> Fold:
        """Return the fold of the file; an empty one if the file does not exist or cannot be used."""
        fold = Fold(self._detail)
        with suppress(OSError, _UnusableError):
            data = self._path.read_bytes()
            fold.restore(_unpacked(data, _mark(store, self._detail)))
            self._size = _size(fold)
        return fold

    def save(self, fold: Fold, store: Store, *, is_final: bool = False) -> None:
        """Write the file again, if the fold is large and much of it is new.

        Parameters
        ----------
        fold : Fold
        store : Store
        is_final : bool
            Whether the log will no longer grow, so that everything new is written.
        """
        size = _size(fold)
        if size < FEW or size - self._size < (1 if is_final else max(FEW, self._size // _MORE)):
            return
        self._size = size
        with suppress(OSError):  # the disk is full: the log is read instead
            self._write(_packed(fold, _mark(store, self._detail)))

    def _write(self, data: bytes) -> None:
        """Replace the file, so that readers find the old or the new one; it is private."""
        number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f"{self._path.name}.")
        try:
            with open(number, "wb") as file:
                file.write(data)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink()
            raise

    def is_outdated(self, store: Store) -> bool:
        """Return whether there is a file of another version of these modules."""
        try:
            with self._path.open("rb") as file:
                return file.read(_MARK) != _mark(store, self._detail)
        except FileNotFoundError:
            return False


class _UnusableError(Exception):
    """The file is damaged, or not of this store and this version."""


def _size(fold: Fold) -> int:
    return fold.size + len(fold.attempts.task)


def _mark(store: Store, detail: Detail) -> bytes:
    """Return the mark with which the file of this store, this detail and this version of the modules begins."""
    return hashlib.sha256(f"{store.id} {detail.value} {_version()}".encode()).digest()


@cache
def _version() -> str:
    """Return a digest of the modules that determine the content of a fold."""
    digest = hashlib.sha256()
    for module in (columns, columns, columns, measures, reading, records):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _packed(fold: Fold, mark: bytes) -> bytes:
    content = pickle.dumps(fold.state(), 5)
    return mark + zlib.crc32(content).to_bytes(4, "big") + content


def _unpacked(data: bytes, mark: bytes) -> dict[str, Any]:
    content = memoryview(data)[_HEAD:]
    if data[:_MARK] != mark or data[_MARK:_HEAD] != zlib.crc32(content).to_bytes(4, "big"):
        raise _UnusableError
    try:
        with uncollected():
            return dict(_Unpickler(io.BytesIO(content)).load())
    except Exception as error:  # pickle has many kinds
        raise _UnusableError from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return one of the listed classes; array's own function builds arrays from their bytes."""
        if (module, name) == ("array", "_array_reconstructor"):
            return super().find_class(module, name)
        return _CLASSES.get(f"{module}.{name}") or self._refuse(module, name)

    def _refuse(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is not a class of which a fold is made")
