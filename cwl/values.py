"""Convert CWL values between the form used between tasks and the form that cwltool expects, and import input files.

Between tasks, the ``location`` of a File or Directory object is a `toilfn.File` or a `toilfn.Directory`; only files
outside the store have a URL. cwltool expects text: a local path for files that a tool uses (`Places.local`), or a
name for files that are not opened (`Places.named`), such as objects that an expression rearranges.
"""

from __future__ import annotations

import copy
import glob
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import cwltool.builder
import cwltool.process
from cwltool.context import RuntimeContext
from cwltool.errors import WorkflowException
from cwltool.process import Process, shortname
from cwltool.stdfsaccess import StdFsAccess
from cwltool.update import ORIGINAL_CWLVERSION
from cwltool.utils import normalizeFilesDirs
from cwltool.workflow import Workflow
from schema_salad.ref_resolver import file_uri, uri_file_path

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files.directory import Directory
from toilfn.files.exchange import import_directory, import_file
from toilfn.files.file import File
from toilfn.patterns import from_posix

__all__ = [
    "Places", "document_files", "imported", "local_path", "map_objects", "objects", "patch_names", "resolved",
    "with_defaults",
]  # fmt: skip

_SCHEME = "toilfn:"
_DERIVED = ("path", "dirname", "nameroot", "nameext", "streamable", "http://commonwl.org/cwltool#generation")
"""Fields that cwltool fills in when it uses an object."""


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Iterate over all File and Directory objects in a value, outer objects first."""
    if isinstance(value, Mapping):
        if value.get("class") in ("File", "Directory"):
            yield value  # type: ignore[misc]  # typed as read-only, but callers may change it
        for item in value.values():
            yield from objects(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from objects(item)


def map_objects(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Copy a value to plain dicts and lists, applying a function to its File and Directory objects, inner first."""
    if isinstance(value, Mapping):
        plain = {str(key): map_objects(item, change) for key, item in value.items()}
        return change(plain) if plain.get("class") in ("File", "Directory") else plain
    if isinstance(value, (list, tuple)):
        return [map_objects(item, change) for item in value]
    return value


class Places:
    """Maps the files of some values to texts for cwltool, and the texts back to the files.

    Parameters
    ----------
    known : mapping
        Files and directories in the store, by their locations in documents.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        self._known = dict(known or {})
        self._named: list[File | Directory] = []
        self._names: list[str] = []
        self._literals: dict[str, str] = {}
        self._copies = 0
        self._pipes: set[str] = set()

    def named(self, value: Any) -> Any:
        """Return a value with names as locations, which cwltool can read through `access`."""
        return self._whole(map_objects(value, self._name))

    def local(self, value: Any) -> Any:
        """Return a value with local copies as locations, below the running task's temporary directory."""
        return self._whole(map_objects(value, self._place))

    def file_of(self, found: Mapping[str, Any]) -> File | None:
        """Return the file in the store of a File object; None if it is another object."""
        location = found.get("location")
        file = self.find(location) if isinstance(location, str) else location
        return file if isinstance(file, File) and found.get("class") == "File" else None

    def piped(self, found: Mapping[str, Any], pipe: Path, file: File) -> dict[str, Any]:
        """Return a File object with the location of a named pipe, which stands for a file in the store."""
        location = file_uri(str(pipe))
        self._known |= {location: file, str(pipe): file}  # an output of cwltool may refer to either
        self._pipes.add(location)
        return {**found, "location": location, "size": file.size, "streamable": True}

    def unescaped(self, value: Any) -> Any:
        """Return a value with paths instead of ``file:`` URLs, so that a name can be appended without escaping it."""
        return self._whole(map_objects(value, _unescape))

    def stored(self, value: Any) -> Any:
        """Convert a value from cwltool back to the form used between tasks.

        Raises
        ------
        WorkflowException
            If the name of a file or a directory leads to another directory, such as ``../x``.
        """
        return map_objects(value, self._restore)

    def access(self, basedir: str) -> StdFsAccess:
        """Return the object through which cwltool reads files."""
        return _Access(basedir, self)

    def literal(self, location: str) -> str | None:
        """Return the content of a file literal."""
        return self._literals.get(location)

    def find(self, location: str) -> File | Directory | None:
        """Return the file or directory for a name; None if the name is unknown."""
        if location in self._known:
            return self._known[location]  # type: ignore[no-any-return]
        number, _, rest = location.removeprefix(_SCHEME).lstrip("/").partition("/")
        if not location.startswith(_SCHEME) or not number.isdecimal() or int(number) >= len(self._named):
            return None
        found = self._named[int(number)]
        name, _, inner = rest.partition("/")
        if not inner:  # another name, such as that of its index, does not match
            return found if unquote(name) == self._names[int(number)] else None
        return found[unquote(inner)] if isinstance(found, Directory) and unquote(inner) in found else None

    def _whole(self, value: Any) -> Any:
        """Fill in the fields that cwltool and expressions expect: names, their parts, and names of literals."""
        _normalize(value)
        for found in objects(value):
            if found["location"].startswith("_:") and isinstance(found.get("contents"), str):
                self._literals[found["location"]] = found["contents"]
        return value

    def _name(self, found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if isinstance(location, (File, Directory)):
            name = found.get("basename") or location.name
            found["location"] = f"{_SCHEME}///{len(self._named)}/{quote(name)}"
            self._named.append(location)
            self._names.append(name)
        return found

    def _place(self, found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if isinstance(location, str):
            location = None if location in self._pipes else self.find(location)
        if isinstance(location, (File, Directory)):
            # Numbered, not random: cwltool's cache of calls identifies files by their paths below the directory.
            path = location.path(f"inputs/{self._copies}/{location.name}")
            self._copies += 1
            found["location"] = file_uri(str(path))
        return found

    def _restore(self, found: dict[str, Any]) -> dict[str, Any]:
        if found["class"] == "Directory" and found.get("basename") in ("", "."):
            _name_folder(found)
        location = found.get("location")
        if isinstance(found.get("basename"), str):
            try:
                confined.single(found["basename"])
            except InputError as error:
                raise WorkflowException(str(error)) from None
        if not isinstance(location, str) or location.startswith("_:"):
            found.pop("location", None)
        elif (known := self.find(location)) is not None:
            found["location"] = known
        elif location.startswith("/"):
            found["location"] = file_uri(location)
        if "location" in found and found["class"] == "Directory":
            found.pop("listing", None)
        for name in _DERIVED:
            found.pop(name, None)
        return found


class _Access(StdFsAccess):
    """Reads files by names of `Places`, literals, and local files."""

    def __init__(self, basedir: str, places: Places) -> None:
        super().__init__(basedir)
        self._places = places

    def glob(self, pattern: str) -> list[str]:
        """Match a pattern below the base directory, whose own name may contain special characters."""
        base = self.basedir.rstrip("/")
        if pattern == self.basedir:
            return [file_uri(base)]
        inner = pattern.removeprefix(f"{base}/")
        if inner == pattern:
            return super().glob(pattern)
        found = glob.glob(from_posix(inner), root_dir=base)
        if not found and os.path.lexists(f"{base}/{inner}"):  # a file whose name looks like a pattern
            found = [inner]
        return [file_uri(f"{base}/{name}") for name in found]

    def open(self, fn: str, mode: str) -> IO[Any]:
        literal = self._places.literal(fn)
        if literal is not None:
            return io.BytesIO(literal.encode()) if "b" in mode else io.StringIO(literal)
        found = self._places.find(fn)
        if not isinstance(found, File):
            return super().open(fn, mode)
        return found.open("rb") if "b" in mode else found.open("r")

    def exists(self, fn: str) -> bool:
        return self._places.find(fn) is not None or super().exists(fn)

    def size(self, fn: str) -> int:
        literal = self._places.literal(fn)
        if literal is not None:
            return len(literal.encode())
        found = self._places.find(fn)
        return found.size if isinstance(found, File) else super().size(fn)

    def isfile(self, fn: str) -> bool:
        found = self._places.find(fn)
        return super().isfile(fn) if found is None else isinstance(found, File)

    def isdir(self, fn: str) -> bool:
        found = self._places.find(fn)
        return super().isdir(fn) if found is None else isinstance(found, Directory)

    def listdir(self, fn: str) -> list[str]:
        found = self._places.find(fn)
        if not isinstance(found, Directory):
            return super().listdir(fn)
        return [f"{fn}/{quote(entry.name)}" for entry in found]


def _name_folder(found: dict[str, Any]) -> None:
    """Set the name of a directory whose path ends with a dot or a slash, such as the output directory itself."""
    location = str(found.get("location")).rstrip("/")
    while location.endswith("/."):
        location = location.removesuffix("/.").rstrip("/")
    path = local_path(location) or Path(location)
    found |= {"location": location, "basename": path.name}


def _normalize(value: Any) -> None:
    """Do what cwltool's function does, but read a path that is not a URL literally.

    cwltool takes ``#``, ``?`` and ``;`` in it for delimiters of a URL.
    """
    plain = []
    for found in objects(value):
        location = found.get("location")
        if isinstance(location, str) and location.startswith("/"):
            plain.append((found, location))
            found["location"] = file_uri(location)
    try:
        normalizeFilesDirs(value)
    finally:
        for found, location in plain:
            found["location"] = location.rstrip("/") or "/"


def patch_names() -> None:
    """Patch cwltool where it names the secondary files that it finds. May be called again."""
    for module in (cwltool.builder, cwltool.process):
        module.normalizeFilesDirs = _normalize  # type: ignore[attr-defined]  # not in its list of names


def _unescape(found: dict[str, Any]) -> dict[str, Any]:
    path = local_path(found.get("location"))
    if path is not None:
        found["location"] = str(path)
        found.setdefault("basename", path.name)
    return found


def with_defaults(process: Process, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs, with the defaults of a process for missing ones."""
    given = dict(job)
    for entry in process.tool["inputs"]:
        name = shortname(entry["id"])
        if given.get(name) is None and "default" in entry:
            given[name] = copy.deepcopy(entry["default"])
    return given


def local_path(location: object) -> Path | None:
    """Return the path of a local location; None for any other location."""
    if isinstance(location, str) and location.startswith("file://"):
        return Path(uri_file_path(location))
    return None


_REQUIREMENTS = "https://w3id.org/cwl/cwl#requirements"


def resolved(process: Process, job: dict[str, Any], context: RuntimeContext) -> dict[str, Any]:
    """Check a run's inputs, fill in defaults and find secondary files.

    Raises
    ------
    cwltool.errors.WorkflowException
        If an input is missing or has the wrong type. The message is cwltool's.
    """
    _add_requirements(process, job)
    context = context.copy()
    context.toplevel = True
    context.outdir = context.tmpdir = context.stagedir = "/nowhere"
    places = Places()
    context.make_fs_access = places.access  # type: ignore[assignment]  # a function works as well as a class
    plain: dict[str, Any] = places.unescaped(job)  # copying ruamel's lists takes quadratic time
    try:
        found = process._init_job(plain, context).job
    except WorkflowException:
        if any("%" in str(each.get("location")) for each in objects(job)):  # escaped names lead to other errors
            raise
        found = process._init_job(job, context).job  # its errors have line numbers
    return {name: map_objects(value, _located) for name, value in found.items()}


def _located(found: dict[str, Any]) -> dict[str, Any]:
    """Turn a path back into a URL, and correct the class of a secondary file that is a directory."""
    location = found.get("location")
    if isinstance(location, str) and location.startswith("/"):
        found["location"] = file_uri(location)
        if found["class"] == "File" and os.path.isdir(location):
            found["class"] = "Directory"
    return found


def _add_requirements(process: Process, job: dict[str, Any]) -> None:
    """Add the requirements in an input object (CWL v1.1 and later, "cwl:requirements")."""
    defaults = process.metadata.get("cwl:defaults")
    given: Any = job.pop(_REQUIREMENTS, None) or (defaults.get(_REQUIREMENTS) if isinstance(defaults, dict) else None)
    if not given:
        return
    if process.metadata.get(ORIGINAL_CWLVERSION) == "v1.0":
        raise WorkflowException("cwl:requirements in an input object need a CWL document of version v1.1 or later")
    process.requirements.extend(given)


def imported(job: dict[str, Any], *, bypass: bool = False) -> dict[str, Any]:
    """Return inputs with promises of imported files as locations; with `bypass`, local files stay in place."""
    made: dict[str, Any] = {}

    def bring(found: dict[str, Any]) -> dict[str, Any]:
        location = found.get("location")
        if bypass and local_path(location) is not None:
            return found
        if isinstance(location, str) and not location.startswith("_:"):
            if location not in made:
                made[location] = _import(found["class"], location)
            found["location"] = made[location]
            if found["class"] == "Directory":
                found.pop("listing", None)
        elif isinstance(location, str):
            del found["location"]
        for name in ("path", "dirname", "nameroot", "nameext"):
            found.pop(name, None)
        return found

    result: dict[str, Any] = map_objects(job, bring)
    return result


def document_files(process: Process) -> dict[str, Any]:
    """Return promises of the files that documents refer to, by location: defaults, and files to stage."""
    found = {
        entry["location"]: entry["class"]
        for part in _parts(process)
        for entry in objects(part)
        if (path := local_path(entry.get("location"))) is not None and path.exists()
    }
    return {location: _import(kind, location) for location, kind in sorted(found.items())}


def _parts(process: Process) -> Iterator[Any]:
    yield from (process.tool, process.requirements, process.hints)
    for step in process.steps if isinstance(process, Workflow) else ():
        yield step.tool
        yield from _parts(step.embedded_tool)


def _import(kind: str, location: str) -> Any:
    source: str | Path = local_path(location) or location
    return import_directory(source) if kind == "Directory" else import_file(source)
