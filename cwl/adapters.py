"""Adapt cwltool's loader and job classes: a timeout for servers, literal paths, and our handling of container images.

In CWL, a ``location`` is a URL and a ``path`` is a path (CWL v1.2, "File"), but cwltool reads both as URLs, so that
``a%20b`` would mean the file ``a b``. Paths are therefore escaped before cwltool reads them.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, MutableMapping, MutableSequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import cwltool.load_tool
import cwltool.main
from cwl_utils.types import CWLObjectType
from cwltool.argparser import generate_parser
from cwltool.command_line_tool import CommandLineTool
from cwltool.context import LoadingContext, RuntimeContext
from cwltool.docker import DockerCommandLineJob, PodmanCommandLineJob
from cwltool.job import JobBase
from cwltool.process import Process
from cwltool.singularity import SingularityCommandLineJob
from cwltool.workflow import default_make_tool
from ruamel.yaml.comments import CommentedMap
from schema_salad.exceptions import ValidationException
from schema_salad.fetcher import DefaultFetcher
from schema_salad.ref_resolver import Loader

from toilfn.containers.engines import images_folder, pulls_folder
from toilfn.containers.images import image_lock
from toilfn.cwl.values import patch_names
from toilfn.files.node import note_image

__all__ = ["Fetcher", "make_tool", "patch_cwltool"]

_FOLDER = "CWL_SINGULARITY_CACHE"
"""cwltool's environment variable for the directory of image files."""


def make_tool(toolpath_object: CommentedMap, loadingContext: LoadingContext) -> Process:
    """Build the object for a part of a document; cwltool calls this while it loads."""
    if toolpath_object.get("class") == "CommandLineTool":
        return Tool(toolpath_object, loadingContext)
    return default_make_tool(toolpath_object, loadingContext)


class Tool(CommandLineTool):
    """A command-line tool that uses the job classes of this module."""

    def make_job_runner(self, runtimeContext: RuntimeContext) -> type[JobBase]:
        """Return the class of the tool's jobs."""
        kind = super().make_job_runner(runtimeContext)
        return _OURS.get(kind, kind)


def _one_at_a_time(fetch: Callable[..., str | None], folder: Callable[[], Path]) -> Callable[..., str | None]:
    """Wrap a function that fetches an image, so that only one process at a time fetches it to a folder."""

    def locked(job: JobBase, image: CWLObjectType, *options: Any, **named: Any) -> str | None:
        with image_lock(json.dumps(image, sort_keys=True, default=str), folder()):
            return fetch(job, image, *options, **named)

    return locked


def _kept_here(fetch: Callable[..., str | None]) -> Callable[..., str | None]:
    """Wrap a function that fetches an image file: by default, it keeps the file on this machine.

    cwltool would keep it in the current directory, which may be shared with other machines.
    """

    def kept(*arguments: Any, **named: Any) -> str | None:
        if _FOLDER in os.environ:
            return fetch(*arguments, **named)
        folder = images_folder()
        before = set(folder.iterdir())
        os.environ[_FOLDER] = str(folder)
        try:
            image = fetch(*arguments, **named)
        finally:
            del os.environ[_FOLDER]
        if image and Path(image).parent == folder and not os.environ.get("TOILFN_IMAGES"):
            note_image(["rm", "-f", image], pulled=Path(image) not in before)
        return image

    return kept


class _Unwatched:
    """A container whose memory usage is not queried, since cwltool's query takes a second or longer."""

    def docker_monitor(self, *_: Any) -> None:
        """Do nothing: the job waits for the process itself."""


class DockerJob(_Unwatched, DockerCommandLineJob):
    """A job in a docker container."""

    get_from_requirements = _one_at_a_time(DockerCommandLineJob.get_from_requirements, pulls_folder)


class SingularityJob(_Unwatched, SingularityCommandLineJob):
    """A job in a Singularity or Apptainer container."""

    get_from_requirements = _one_at_a_time(_kept_here(SingularityCommandLineJob.get_from_requirements), images_folder)


class PodmanJob(_Unwatched, PodmanCommandLineJob):
    """A job in a podman container."""

    get_from_requirements = _one_at_a_time(PodmanCommandLineJob.get_from_requirements, pulls_folder)

    def create_runtime(self, env: Any, runtimeContext: RuntimeContext) -> tuple[list[str], str | None]:
        """Build the command line; for root, leave out ``--userns=keep-id``, which podman does not support."""
        command, cid_file = super().create_runtime(env, runtimeContext)
        return [word for word in command if word != "--userns=keep-id" or os.getuid()], cid_file


_OURS: dict[type[JobBase], type[JobBase]] = {
    DockerCommandLineJob: DockerJob,
    PodmanCommandLineJob: PodmanJob,
    SingularityCommandLineJob: SingularityJob,
}


_SILENCE = 60.0
"""Seconds without data after which reading a document fails."""


class Fetcher(DefaultFetcher):
    """schema-salad's fetcher, with a timeout, which its session lacks by default."""

    def __init__(self, cache: Any, session: Any) -> None:
        super().__init__(cache, session)
        if session is not None and not isinstance(session.request, functools.partial):
            session.request = functools.partial(session.request, timeout=_SILENCE)


_KEPT = ("file:", "data:", "_:", "$(", "${")
"""A pattern for the beginning of a text that is not a path: a URL, the name of a literal, or an expression."""


class PathLoader(Loader):
    """Loads documents and input objects, with escaped paths."""

    def resolve_all(self, document: Any, *arguments: Any, **named: Any) -> Any:
        """Resolve the references in a part of a document."""
        _join_surrogates(document)
        if isinstance(document, MutableMapping) and document.get("class") in ("File", "Directory"):
            path = document.get("path")
            if isinstance(path, str):
                document["path"] = _escaped(path)
        return super().resolve_all(document, *arguments, **named)


def _join_surrogates(part: Any) -> None:
    """Replace the two halves of a character, as JSON escapes an emoji, by the character in the texts of a part.

    The documents are read as YAML, where each escape is a character of its own.
    """
    if isinstance(part, (MutableMapping, MutableSequence)):
        for key, value in [*(part.items() if isinstance(part, MutableMapping) else enumerate(part))]:
            if isinstance(value, str) and _PAIR.search(value):
                part[key] = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), value)


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def patch_cwltool() -> None:
    """Patch cwltool to read paths literally. May be called again."""
    patch_names()
    cwltool.main.Loader = cwltool.load_tool.Loader = PathLoader  # type: ignore[attr-defined]
    cwltool.main.generate_parser = _with_paths  # type: ignore[assignment, attr-defined]


def _with_paths(parser: Any, tool: Any, names: Any, records: Any, required: bool, join: Any, base: str) -> Any:
    """Build the parser for a document's inputs; it escapes paths, and accepts only full names."""
    parser.allow_abbrev = False
    return generate_parser(parser, tool, names, records, required, _joined, base)


def _joined(base: str, path: str) -> str:
    return urljoin(base, _escaped(path))


def _escaped(path: str) -> str:
    if "://" in path or path.startswith(_KEPT):
        return path
    try:
        return quote(path)
    except UnicodeEncodeError:
        raise ValidationException(f"{path!r}: names of files in CWL are Unicode text: rename the file") from None
