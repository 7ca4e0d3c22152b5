"""Digests of content, by several algorithms: a digest says which one computed it, so a store may hold all of them."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from toilfn.errors import CorruptObjectError, InputError

__all__ = [
    "ALGORITHMS", "DEFAULT", "DIGEST_SIZE", "Hasher", "algorithm_of", "check_algorithm", "checksum_of", "digest_of",
    "digest_of_checksum", "hash_file",
]  # fmt: skip

DEFAULT = "blake2b"
"""The algorithm of the store's own objects, and of files unless another one was chosen."""

DIGEST_SIZE = 16
"""The length in bytes of a digest by the default algorithm, which has no tag."""

_CHUNK = 2**23
"""The number of bytes to read at a time, large enough for an algorithm that uses several cores."""

_SMALL = 2**16


class _Algorithm(NamedTuple):
    tag: bytes
    """The first bytes of all its digests, which tell them from those of other algorithms."""
    size: int
    """The number of bytes after the tag."""
    make: Callable[[], Any]
    package: str = ""
    """The optional package that computes it; empty for the standard library."""


def _make_xxh3() -> Any:
    return importlib.import_module("xxhash").xxh3_128()


def _make_blake3() -> Any:
    blake3 = importlib.import_module("blake3").blake3
    return blake3(max_threads=blake3.AUTO)


ALGORITHMS = {
    DEFAULT: _Algorithm(b"", DIGEST_SIZE, partial(hashlib.blake2b, digest_size=DIGEST_SIZE)),
    "sha256": _Algorithm(b"s256", 32, hashlib.sha256),
    "xxh3": _Algorithm(b"xxh3", 16, _make_xxh3, "xxhash"),
    "blake3": _Algorithm(b"bla3", 32, _make_blake3, "blake3"),
}
"""All algorithms, by name. `xxh3` is the 128-bit variant of XXH3, in its canonical form, which is big-endian."""


def check_algorithm(name: str) -> None:
    """Check that an algorithm can be used.

    Raises
    ------
    InputError
        If its package is not installed.
    """
    try:
        ALGORITHMS[name].make()
    except ImportError:
        package = ALGORITHMS[name].package
        raise InputError(f"digest={name!r} needs the package {package}", hint="pip install 'toilfn[digests]'") from None


def algorithm_of(digest: bytes) -> str:
    """Return the name of the algorithm that computed a digest.

    Raises
    ------
    CorruptObjectError
        If no algorithm has such digests.
    """
    if len(digest) == DIGEST_SIZE:
        return DEFAULT
    for name, (tag, size, *_) in ALGORITHMS.items():
        if tag and len(digest) == len(tag) + size and digest.startswith(tag):
            return name
    raise CorruptObjectError(
        f"no known algorithm has digests like {digest.hex()}: it was altered, or written by a later version of toilfn"
    )


def checksum_of(digest: bytes) -> str:
    """Return a digest as people write it: in hexadecimal, after its algorithm's name if that is not the default."""
    for name, (tag, size, *_) in ALGORITHMS.items():
        if tag and len(digest) == len(tag) + size and digest.startswith(tag):
            return f"{name}:{digest[len(tag) :].hex()}"
    return digest.hex()


def digest_of_checksum(checksum: str) -> bytes:
    """Return the digest that `checksum_of` wrote as text."""
    name, _, text = checksum.rpartition(":")
    return (ALGORITHMS[name].tag if name else b"") + bytes.fromhex(text)


def digest_of(data: bytes | memoryview, algorithm: str = DEFAULT) -> bytes:
    """Return the digest of some bytes, as used in references."""
    if algorithm == DEFAULT:  # most digests, and most of these are of little data
        return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


class Hasher:
    """Computes the size and the digest of data that arrives in pieces.

    Raises
    ------
    InputError
        If the algorithm's package is not installed.
    """

    def __init__(self, algorithm: str = DEFAULT) -> None:
        try:
            self._hasher = ALGORITHMS[algorithm].make()
        except ImportError:
            check_algorithm(algorithm)
            raise
        self._tag = ALGORITHMS[algorithm].tag
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add the next piece."""
        self._hasher.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        """Return the digest of all pieces so far."""
        digest: bytes = self._hasher.digest()
        return self._tag + digest


def hash_file(path: str | os.PathLike[str], algorithm: str = DEFAULT) -> tuple[int, bytes]:
    """Return a file's size and digest, using constant memory."""
    hasher = Hasher(algorithm)
    buffer = memoryview(bytearray(min(_CHUNK, max(os.path.getsize(path), _SMALL) + 1)))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.size, hasher.digest()
