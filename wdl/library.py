"""WDL's standard library, for files in the store."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from WDL import Error, StdLib, Type, Value

from toilfn.patterns import expand_braces, from_posix
from toilfn.wdl.dialect import patch_miniwdl
from toilfn.wdl.language import Size, is_at_least
from toilfn.wdl.numbers import parsers, rounding
from toilfn.wdl.paths import TaskPaths, WorkflowPaths, is_url

__all__ = ["Library", "OutputLibrary"]


class Library(StdLib.Base):
    """The functions for inputs, declarations, commands and runtime sections.

    Parameters
    ----------
    version : str
        The WDL version.
    paths : WorkflowPaths or TaskPaths
        The meaning of paths.
    source_dir : str
        The directory or URL of the document.
    """

    def __init__(self, version: str, paths: WorkflowPaths | TaskPaths, source_dir: str = "") -> None:
        super().__init__(version)
        self.paths = paths
        self.source_dir = source_dir
        self.size = Size(self)
        for name, function in rounding().items():
            self._override_static(name, function)
        for name, parse in parsers().items():
            self._override_static(name, self._read(parse))
        if is_at_least(version, "1.1"):
            self._override_static("write_json", self._write(_json))

    def size_of(self, path: str) -> int:
        """Return the size in bytes of a file, or of a directory if the path ends with a slash."""
        return self.paths.size(path)

    def _devirtualize_filename(self, filename: str) -> str:
        return str(self.paths.local(filename))

    def _resolve_source_relative_path(self, filename: str) -> str:
        if os.path.isabs(filename) or is_url(filename) or not self.source_dir:
            return filename
        if isinstance(self.paths, TaskPaths):
            return self.paths.resolved(filename)
        return os.path.join(self.source_dir, filename)

    def _join_paths_default_directory(self) -> str:
        return str(self.paths.work) if isinstance(self.paths, TaskPaths) else self.source_dir

    def _write(self, serialize: Callable[[Value.Base, IO[bytes]], None]) -> Callable[[Value.Base], Value.File]:
        def write(value: Value.Base) -> Value.File:
            draft = self.paths.draft("content.txt")
            with draft.open("wb") as stream:
                serialize(value, stream)
            return Value.File(self.paths.written(draft))

        return write


patch_miniwdl()  # needed even in workers, which do not parse documents


def _json(value: Value.Base, stream: IO[bytes]) -> None:
    """Write JSON, whose objects must have texts as keys (1.1, "write_json")."""
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, Value.Map) and not isinstance(found.type.item_type[0], (Type.String, Type.Any)):
            raise Error.InputError(f"write_json(): a {found.type} has keys that JSON cannot have")
        stack.extend(found.children)
    stream.write(json.dumps(value.json).encode())


class OutputLibrary(Library):
    """The functions for a task's outputs.

    Parameters
    ----------
    version, paths, source_dir
        As for `Library`.
    stdout, stderr : Path
        The files with the command's output.
    """

    def __init__(self, version: str, paths: TaskPaths, source_dir: str, stdout: Path, stderr: Path) -> None:
        super().__init__(version, paths, source_dir)
        self._work = paths.work
        functions: dict[str, tuple[list[Type.Base], Type.Base, Callable[..., Value.Base]]] = {
            "stdout": ([], Type.File(), lambda: Value.File(str(stdout))),
            "stderr": ([], Type.File(), lambda: Value.File(str(stderr))),
            "glob": ([Type.String()], Type.Array(Type.File()), self._glob),
        }
        for name, (arguments, result, function) in functions.items():
            setattr(self, name, StdLib.StaticFunction(name, arguments, result, function))

    def _glob(self, pattern: Value.Base) -> Value.Base:
        """Match files in the working directory as bash does.

        Hidden files do not match, and the matches of each alternative in braces are sorted.

        Raises
        ------
        WDL.Error.InputError
            If the pattern points outside the working directory.
        """
        text: str = pattern.value
        if os.path.isabs(text) and Path(text).is_relative_to(self._work):
            text = os.path.relpath(text, self._work)
        if not text or os.path.isabs(text) or ".." in Path(text).parts:
            raise Error.InputError(f"glob pattern {text!r} points outside the working directory")
        found: list[Any] = [
            Value.File(str(self._work / name))
            for each in expand_braces(text)
            for name in sorted(glob.glob(from_posix(each), root_dir=self._work, recursive=False))
            if (self._work / name).is_file()
        ]
        return Value.Array(Type.File(), found)
