"""Client-side encryption: objects are encrypted before they leave the machine.

Each object is a header and chunks. The header has eight bytes that identify the format, eight that identify the key,
and sixteen random bytes. Each object has a key of its own, derived from the user's key, the random bytes and the
object's name (HKDF with SHA-256, RFC 5869). With it, AES-GCM encrypts and authenticates each chunk. The nonce of a
chunk is its number and whether it is the last one, so that altering, swapping, omitting or inserting chunks is
detected.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from toilfn.errors import CorruptObjectError
from toilfn.stores.objects import ENCRYPTED, Objects

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["EncryptedObjects"]

_CHUNK = 2**16
_TAG = 16
_SEALED = _CHUNK + _TAG
_SALT = 16
_HEADER = len(ENCRYPTED) + 8 + _SALT


class EncryptedObjects(Objects):
    """Encrypts data written to other objects, and decrypts data read from them.

    Names, sizes and times are not hidden.

    Parameters
    ----------
    inner : Objects
        The objects that hold the encrypted data.
    key : bytes
        The user's key, which has 32 bytes.
    folder : str
        The folder of `inner` within the store, such as ``"runs/x/"``. Names are authenticated with it, so that an
        object can be read both through its folder and through the store.
    """

    is_private = True

    def __init__(self, inner: Objects, key: bytes, folder: str = "") -> None:
        self.url = inner.url
        self.conditional = inner.conditional
        self.parallel = inner.parallel
        self.sync = inner.sync
        self._inner = inner
        self._key = key
        self._folder = folder
        self._key_id = _derive(key, b"", b"key id")[:8]

    @property
    def requests(self) -> int:
        """Number of requests this process has sent."""
        return self._inner.requests

    def below(self, folder: str) -> EncryptedObjects:
        """Return the objects of a folder."""
        return EncryptedObjects(self._inner.below(folder), self._key, f"{self._folder}{folder}/")

    def get(self, name: str) -> bytes:
        """Read an object."""
        with self._opened(name, io.BytesIO(self._inner.get(name))) as stream:
            return stream.read()

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        self._inner.put(name, self._seal(name, data))

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one."""
        return self._inner.put_new(name, self._seal(name, data))

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self._inner.exists(name)

    def size(self, name: str) -> int:
        """Return the size of an object's decrypted content."""
        return _plain_size(self._inner.size(name))

    def total_size(self) -> int:
        """Return the size of all objects in bytes, as they are stored."""
        return self._inner.total_size()

    def list(self, prefix: str) -> Iterator[str]:
        """Iterate over the names with a prefix."""
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects."""
        self._inner.delete(names)

    def upload(self, path: str | os.PathLike[str], name: str, *, move: bool = False) -> None:
        """Write or replace an object with a file's content; with `move`, the file is removed afterwards."""
        with tempfile.NamedTemporaryFile(prefix="toilfn-") as draft, open(path, "rb") as source:
            for part in self._sealed(name, source):
                draft.write(part)
            draft.flush()
            self._inner.upload(draft.name, name)
        if move:
            os.unlink(path)

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write an object's decrypted content to a file, which is replaced."""
        with tempfile.NamedTemporaryFile(prefix="toilfn-") as draft:
            self._inner.download(name, draft.name)
            with open(draft.name, "rb") as sealed, self._opened(name, sealed) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading."""
        sealed = self._inner.open(name)
        try:
            return self._opened(name, sealed)
        except BaseException:
            sealed.close()
            raise

    def versions(self) -> int:
        """Return the number of old versions that the place keeps of deleted or replaced objects."""
        return self._inner.versions()

    def sweep(self, age: float) -> int:
        """Delete half-written objects."""
        return self._inner.sweep(age)

    def clear(self, folder: str) -> None:
        """Delete every object below a folder, and the folder."""
        self._inner.clear(folder)

    def remove_root(self) -> None:
        """Remove the prefix itself, if it is a directory and empty."""
        self._inner.remove_root()

    def try_out(self) -> None:
        """Test which operations the place supports."""
        self._inner.try_out()
        self.conditional = self._inner.conditional

    def is_empty(self) -> bool:
        """Return whether there are no objects below the prefix."""
        return self._inner.is_empty()

    def _seal(self, name: str, data: bytes) -> bytes:
        return b"".join(self._sealed(name, io.BytesIO(data)))

    def _sealed(self, name: str, source: BinaryIO) -> Iterator[bytes]:
        """Iterate over the parts of an encrypted object."""
        salt = os.urandom(_SALT)
        yield ENCRYPTED + self._key_id + salt
        cipher = self._cipher(name, salt)
        number, chunk = 0, source.read(_CHUNK)
        while following := source.read(_CHUNK):
            yield cipher.encrypt(_nonce(number, last=False), chunk, None)
            number, chunk = number + 1, following
        yield cipher.encrypt(_nonce(number, last=True), chunk, None)

    def _cipher(self, name: str, salt: bytes) -> AESGCM:
        return AESGCM(_derive(self._key, salt, (self._folder + name).encode()))

    def _opened(self, name: str, sealed: BinaryIO) -> BinaryIO:
        header = sealed.read(_HEADER)
        if len(header) < _HEADER or header[: len(ENCRYPTED)] != ENCRYPTED:
            raise self._damaged(name, "is truncated, or was written without encryption")
        if header[len(ENCRYPTED) : -_SALT] != self._key_id:
            raise self._damaged(name, "was altered, or encrypted with a key other than encryption_key")
        reader = _Reader(sealed, self._cipher(name, header[-_SALT:]), lambda: self._damaged(name, "was altered"))
        return io.BufferedReader(reader, _CHUNK)

    def _damaged(self, name: str, how: str) -> CorruptObjectError:
        return CorruptObjectError(
            f"{name} in {self.url} {how}", hint="pass the right key, or restore the object from a copy"
        )


class _Reader(io.RawIOBase):
    """A stream of an encrypted object's content; each chunk is verified before any of it is returned.

    Parameters
    ----------
    sealed : BinaryIO
        The encrypted object; it is closed with this stream.
    cipher : AESGCM
        The cipher, with the object's own key.
    damaged : callable
        Builds the error for an altered chunk.
    """

    def __init__(self, sealed: BinaryIO, cipher: AESGCM, damaged: Callable[[], CorruptObjectError]) -> None:
        self._sealed = sealed
        self._cipher = cipher
        self._damaged = damaged
        sealed_size = sealed.seek(0, io.SEEK_END)
        self._size = _plain_size(sealed_size)
        self._last = max(0, sealed_size - _HEADER - 1) // _SEALED
        self._position = 0
        self._number = -1
        self._chunk = b""

    def readable(self) -> bool:
        """Return True: this stream can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: this stream can seek."""
        return True

    def tell(self) -> int:
        """Return the current position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position, as `io.IOBase.seek` does."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a buffer, at most up to the end of a chunk.

        Raises
        ------
        CorruptObjectError
            If the chunk was altered, or belongs to another place.
        """
        view = memoryview(buffer).cast("B")
        self._load(min(self._position // _CHUNK, self._last))
        start = self._position - self._number * _CHUNK
        data = self._chunk[start : start + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close this stream and the encrypted object."""
        self._sealed.close()
        super().close()

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        self._sealed.seek(_HEADER + number * _SEALED)
        sealed = self._sealed.read(_SEALED)
        try:
            self._chunk = self._cipher.decrypt(_nonce(number, last=number == self._last), sealed, None)
        except (InvalidTag, ValueError):
            raise self._damaged() from None
        self._number = number


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _plain_size(sealed: int) -> int:
    """Return the size of the content of an encrypted object of `sealed` bytes; 0 if it is truncated."""
    body = max(sealed - _HEADER, _TAG)
    return body - _TAG * -(-body // _SEALED)


def _derive(key: bytes, salt: bytes, what: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=b"toilfn 1 " + what).derive(key)
