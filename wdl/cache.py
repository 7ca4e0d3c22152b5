"""A cache of finished calls for other runs, by a task's text, the content of its inputs, and its container image."""

from __future__ import annotations

import os
import pickle
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toilfn.files.directory import Directory
from toilfn.files.exchange import export, import_directory, import_file
from toilfn.files.file import File
from toilfn.graph.identity import value_identity
from toilfn.wdl.paths import all_stored, numbered
from toilfn.wdl.values import Entries, PathText, Stored
from toilfn.worker.context import current

__all__ = ["Cache"]


@dataclass(frozen=True)
class CachedContent:
    """A file or directory in the cache."""

    place: str
    """The path relative to the entry."""
    folder: str
    is_directory: bool


class Cache:
    """One call's entry in the cache.

    Parameters
    ----------
    directory : str
        The directory of the cache, which all workers must be able to access.
    task : str
        The task's digest.
    inputs : mapping
        The encoded inputs.
    image : str
        The container image.
    """

    def __init__(self, directory: str, task: str, inputs: Mapping[str, Any], image: str) -> None:
        short = numbered(item.folder for item in all_stored(dict(inputs)))
        plain = mapped(dict(inputs), lambda item: replace(item, folder=short[item.folder]))
        key = value_identity(("call", task, plain, image)).hex()
        self._entry = Path(directory) / key[:2] / key

    def get(self) -> dict[str, Any] | None:
        """Return the outputs of the same call in another run, with its files imported into this run's store."""
        try:
            plain = pickle.loads((self._entry / "outputs").read_bytes())
        except (FileNotFoundError, AttributeError):  # AttributeError: written by another version of toilfn
            return None
        current().log.info("using the outputs of an earlier run: %s", self._entry)
        return mapped(plain, self._restored)  # type: ignore[no-any-return]  # a dict gives a dict

    def put(self, outputs: Mapping[str, Any]) -> None:
        """Save outputs, unless another process has already done so."""
        draft = self._entry.with_name(f".{secrets.token_hex(8)}")
        draft.mkdir(parents=True, mode=0o700)
        try:
            plain = mapped(dict(outputs), lambda item: _cached(item, draft))
            (draft / "outputs").write_bytes(pickle.dumps(plain))
            draft.rename(self._entry)
        except OSError:
            if not self._entry.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _restored(self, kept: CachedContent) -> Stored:
        place = self._entry / kept.place
        content: File | Directory = import_directory(place) if kept.is_directory else import_file(place)
        return Stored(content, kept.folder)


def _cached(stored: Stored, draft: Path) -> CachedContent:
    folder = draft / secrets.token_hex(4)
    folder.mkdir()
    place = export(stored.content, folder / stored.content.name)
    return CachedContent(os.path.relpath(place, draft), stored.folder, isinstance(stored.content, Directory))


def mapped(plain: Any, change: Any) -> Any:
    """Copy an encoded value, applying a function to its files."""
    if isinstance(plain, (Stored, CachedContent)):
        return change(plain)
    if isinstance(plain, PathText):
        return PathText(change(plain.file))
    if isinstance(plain, Entries):
        return Entries(tuple((mapped(key, change), mapped(item, change)) for key, item in plain.items))
    if isinstance(plain, (list, tuple)):
        return type(plain)(mapped(item, change) for item in plain)
    if isinstance(plain, dict):
        return {name: mapped(item, change) for name, item in plain.items()}
    return plain
