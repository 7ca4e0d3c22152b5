"""A cache of the CWL schemas that cwltool has loaded, since loading one takes nearly half a second."""

from __future__ import annotations

import argparse
import io
import pickle
from contextlib import suppress
from typing import Any

from cwltool import process
from cwltool.main import setup_schema
from schema_salad import schema as salad
from schema_salad.ref_resolver import NormDict

from toilfn.files.downloads import CachedFile

__all__ = ["use_schemas"]

_READERS = ("cwltool", "schema-salad", "ruamel.yaml", "rdflib")
"""The packages that determine the content of a loaded schema."""

_META = "salad"
"""The name in the cache of the metaschema, which schema-salad keeps in a separate variable."""

_Unpicklable = (pickle.PickleError, EOFError, AttributeError, ImportError, TypeError, ValueError, IndexError)


def use_schemas(*, extended: bool) -> None:
    """Make cwltool take schemas from the user's cache, and save the schemas that it loads there.

    Parameters
    ----------
    extended : bool
        Whether documents may use cwltool's extensions.
    """
    setup_schema(argparse.Namespace(enable_ext=extended), None)
    schemas = _Schemas("extended" if extended else "standard")
    if salad.cached_metaschema is None and _META in schemas:
        salad.cached_metaschema = schemas[_META]
    process.SCHEMA_CACHE = schemas


class _Schemas(dict[str, Any]):
    """cwltool's cache of the schema of each CWL version, backed by files."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._load(str(name))

    def __setitem__(self, name: str, schema: Any) -> None:
        super().__setitem__(name, schema)
        with suppress(*_Unpicklable):  # then the next process loads the schema again
            self._keep(name, schema)
            self._keep(_META, salad.cached_metaschema)

    def _load(self, name: str) -> bool:
        content = self._file(name).read()
        if content is None:
            return False
        try:
            super().__setitem__(name, pickle.loads(content))
        except _Unpicklable:
            return False
        return True

    def _keep(self, name: str, schema: Any) -> None:
        content = io.BytesIO()
        _Pickler(content, 5).dump(schema)
        self._file(name).write(content.getvalue())

    def _file(self, name: str) -> CachedFile:
        return CachedFile(f"cwl/{name}-{self._kind}", *_READERS)


class _Pickler(pickle.Pickler):
    """A pickler for schema-salad's dictionaries: it restores their function before their items, which need it."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, NormDict):
            return _norm_dict, (value.normalize, list(value.items()))
        return NotImplemented


def _norm_dict(normalize: Any, items: list[tuple[str, Any]]) -> NormDict:
    made = NormDict(normalize)
    for key, item in items:
        made[key] = item
    return made
