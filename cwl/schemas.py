"""The schemas of CWL as cwltool has read them, kept for the next process: reading one takes nearly half a second.

They are in the user's cache directory (``XDG_CACHE_HOME``, else ``~/.cache``; XDG Base Directory Specification 0.8),
one file for each version of CWL and of what reads it. A file that others can write is not believed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cwltool import process
from cwltool.main import setup_schema
from schema_salad import schema as salad
from schema_salad.ref_resolver import NormDict

__all__ = ["use_schemas"]

_READERS = ("cwltool", "schema-salad", "ruamel.yaml", "rdflib")
"""The packages that decide what a schema becomes."""

_META = "salad"
"""What the schema of schemas is called here; schema-salad holds it in a variable of its own."""

_NotKept = (OSError, pickle.PickleError, EOFError, AttributeError, ImportError, TypeError, ValueError, IndexError)


def use_schemas(*, extended: bool) -> None:
    """Have cwltool take its schemas from the user's cache, and put there what it reads itself.

    Parameters
    ----------
    extended : bool
        Whether documents may have cwltool's extensions.
    """
    setup_schema(argparse.Namespace(enable_ext=extended), None)
    schemas = _Schemas(_folder(), "extended" if extended else "standard")
    if salad.cached_metaschema is None and _META in schemas:
        salad.cached_metaschema = schemas[_META]
    process.SCHEMA_CACHE = schemas


class _Schemas(dict[str, Any]):
    """What cwltool keeps of each version of CWL, with files behind it."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__()
        self._folder = folder
        self._kind = kind

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._load(str(name))

    def __setitem__(self, name: str, schema: Any) -> None:
        super().__setitem__(name, schema)
        with suppress(*_NotKept):  # then the next process reads it again
            self._keep(name, schema)
            self._keep(_META, salad.cached_metaschema)

    def _load(self, name: str) -> bool:
        try:
            with open(self._path(name), "rb") as stream:
                if not _is_mine(stream.fileno()):
                    return False
                super().__setitem__(name, pickle.load(stream))
        except _NotKept:
            return False
        return True

    def _keep(self, name: str, schema: Any) -> None:
        content = io.BytesIO()
        _Pickler(content, 5).dump(schema)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as stream:
            stream.write(content.getvalue())
        os.replace(stream.name, self._path(name))

    def _path(self, name: str) -> Path:
        readers = [sys.version, *(f"{package} {version(package)}" for package in _READERS)]
        digest = hashlib.blake2b("\n".join(readers).encode(), digest_size=8).hexdigest()
        return self._folder / f"{name}-{self._kind}-{digest}"


class _Pickler(pickle.Pickler):
    """Pickles also schema-salad's dictionaries, which need their function before their content."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, NormDict):
            return _norm_dict, (value.normalize, list(value.items()))
        return NotImplemented


def _norm_dict(normalize: Any, items: list[tuple[str, Any]]) -> NormDict:
    made = NormDict(normalize)
    for key, item in items:
        made[key] = item
    return made


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "toilfn" / "cwl"


def _is_mine(fd: int) -> bool:
    found = os.fstat(fd)
    return found.st_uid == os.getuid() and not found.st_mode & 0o022
