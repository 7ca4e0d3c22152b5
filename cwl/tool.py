"""A CommandLineTool with changes to cwltool's containers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cwl_utils.types import CWLObjectType
from cwltool.command_line_tool import CommandLineTool
from cwltool.context import LoadingContext, RuntimeContext
from cwltool.docker import DockerCommandLineJob, PodmanCommandLineJob
from cwltool.job import JobBase
from cwltool.process import Process
from cwltool.singularity import SingularityCommandLineJob
from cwltool.workflow import default_make_tool
from ruamel.yaml.comments import CommentedMap

from toilfn.containers.images import image_lock
from toilfn.containers.shelves import images_folder, pulls_folder

__all__ = ["make_tool"]

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


def _one_at_a_time(bring: Callable[..., str | None], folder: Callable[[], Path]) -> Callable[..., str | None]:
    """Wrap a function that fetches an image, so that only one process at a time fetches it to a folder."""

    def locked(job: JobBase, image: CWLObjectType, *options: Any, **named: Any) -> str | None:
        with image_lock(json.dumps(image, sort_keys=True, default=str), folder()):
            return bring(job, image, *options, **named)

    return locked


def _kept_here(bring: Callable[..., str | None]) -> Callable[..., str | None]:
    """Wrap a function that fetches an image file, to keep it on this machine, not in a possibly shared directory."""

    def kept(*arguments: Any, **named: Any) -> str | None:
        if _FOLDER in os.environ:
            return bring(*arguments, **named)
        os.environ[_FOLDER] = str(images_folder())
        try:
            return bring(*arguments, **named)
        finally:
            del os.environ[_FOLDER]

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
