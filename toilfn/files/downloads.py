"""Cache results that take long to compute and depend only on installed packages, for the user's next process.

It is in the user's cache directory (``XDG_CACHE_HOME``, else ``~/.cache``; XDG Base Directory Specification 0.8). What
others can write is not believed.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

__all__ = ["CachedFile", "user_cache_dir"]


def user_cache_dir() -> Path:
    """Return the directory of everything that is kept for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toilfn"


class CachedFile:
    """One file of the user's cache directory.

    Parameters
    ----------
    name : str
        The kind of its content; a path below ``toilfn``.
    *packages : str
        The packages on which it depends: another version of one has another file.
    """

    def __init__(self, name: str, *packages: str) -> None:
        makers = "\n".join([sys.version, *(f"{package} {version(package)}" for package in packages)])
        digest = hashlib.blake2b(makers.encode(), digest_size=8).hexdigest()
        self._path = user_cache_dir() / f"{name}-{digest}"

    def read(self) -> bytes | None:
        """Return the content, if only this user could have written it."""
        try:
            with self._path.open("rb") as stream:
                found = os.fstat(stream.fileno())
                return stream.read() if found.st_uid == os.getuid() and not found.st_mode & 0o022 else None
        except OSError:
            return None

    def write(self, content: bytes) -> None:
        """Store a content, if the directory is writable."""
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as stream:
                stream.write(content)
            os.replace(stream.name, self._path)
