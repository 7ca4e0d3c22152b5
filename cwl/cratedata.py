"""CWL values as entities of an RO-Crate: files by their checksums, everything else as named values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cwltool.process import compute_checksums
from cwltool.stdfsaccess import StdFsAccess
from rocrate.model import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate
from schema_salad.ref_resolver import file_uri

from toilfn.cwl.values import local_path, objects
from toilfn.files.file import File
from toilfn.stores import Store

__all__ = ["Data"]


class Data:
    """The data of a crate.

    Parameters
    ----------
    crate : ROCrate
        The crate, which gets one entity per file, even if several tools use it.
    store : Store
        The store with the files between tasks.
    temporary : Path
        A directory that exists until the crate is written.
    """

    def __init__(self, crate: ROCrate, store: Store, temporary: Path) -> None:
        self._crate = crate
        self._store = store
        self._temporary = temporary
        self._known: dict[Any, Entity] = {}

    def of(self, values: Mapping[str, Any], parameters: Mapping[str, Entity], owner: str) -> list[Entity]:
        """Return the entities of some values, marked as examples of their parameters if these are known.

        Parameters
        ----------
        values : mapping
            The values by name.
        parameters : mapping
            The parameters, by the same names.
        owner : str
            The owner of the values, which is part of the ids of values that are not files.
        """
        made: dict[str, Entity] = {}
        for name, value in values.items():
            for entity in self._entities(name, value, owner):
                made[entity.id] = entity
                if name in parameters:
                    _refer(entity, "exampleOfWork", parameters[name])
        return list(made.values())

    def _entities(self, name: str, value: Any, owner: str) -> Iterator[Entity]:
        """Iterate over the entities of a value's files, or, without files, yield one entity for the value."""
        found = list(objects(value))
        if not found:
            if value is not None:
                yield self._plain(name, value, owner)
            return
        for one in filter(_is_there, found):
            yield self._once(one)

    def _plain(self, name: str, value: Any, owner: str) -> Entity:
        text = value if isinstance(value, (str, int, float)) else json.dumps(value, default=str)
        properties = {"@type": "PropertyValue", "name": name, "value": str(text)}
        return self._crate.add(ContextEntity(self._crate, f"#value/{owner}/{name}", properties=properties))

    def _once(self, found: Mapping[str, Any]) -> Entity:
        key = found.get("location") or found.get("contents")
        if key not in self._known:
            self._known[key] = self._file(found) if found["class"] == "File" else self._directory(found)
        return self._known[key]

    def _file(self, found: Mapping[str, Any]) -> Entity:
        path = self._local(found)
        if path is None:
            return self._crate.add_file(found["location"], properties={"name": found.get("basename", "")})
        hashed: Any = {"class": "File", "location": file_uri(str(path))}
        compute_checksums(StdFsAccess(""), hashed)
        digest = hashed["checksum"].removeprefix("sha1$")
        place = f"data/{digest[:2]}/{digest}"
        known: Entity | None = self._crate.get(place)
        if known is not None:
            return known
        name = found.get("basename") or path.name
        properties = {"name": name, "alternateName": name, "sha1": digest, "contentSize": str(hashed["size"])}
        return self._crate.add_file(path, place, properties=properties)

    def _local(self, found: Mapping[str, Any]) -> Path | None:
        """Return a local file with the content; None if the file is not accessible locally."""
        location, new = found.get("location"), self._temporary / str(len(self._known))
        if isinstance(location, File):
            self._store.fetch_blob(location.ref, new)
            return new
        if "contents" in found and (location is None or location.startswith("_:")):
            new.write_text(found["contents"])
            return new
        return local_path(location)

    def _directory(self, found: Mapping[str, Any]) -> Entity:
        path, name = local_path(found["location"]), found.get("basename", "")
        properties = {"name": name or found["location"]}
        if path is None:
            return self._crate.add_dataset(found["location"], properties=properties)
        return self._crate.add_tree(path, f"data/{len(self._known)}-{path.name}", properties=properties)


def _is_there(found: Mapping[str, Any]) -> bool:
    """Return whether an object's content is available: not for directories between steps, and for moved outputs."""
    location = found.get("location")
    if found["class"] == "File" and (isinstance(location, File) or "contents" in found):
        return True
    path = local_path(location)
    return path.exists() if path is not None else isinstance(location, str) and not location.startswith("_:")


def _refer(entity: Entity, name: str, other: Entity) -> None:
    """Add a reference from an entity to another, unless it exists."""
    known = entity.get(name) or []
    if other not in (known if isinstance(known, list) else [known]):
        entity.append_to(name, other)
