"""cwltool's CommandLineTool, where it needs to be otherwise for us."""

from __future__ import annotations

import os
from typing import Any

from cwltool.command_line_tool import CommandLineTool
from cwltool.context import LoadingContext, RuntimeContext
from cwltool.docker import DockerCommandLineJob, PodmanCommandLineJob
from cwltool.job import JobBase
from cwltool.process import Process
from cwltool.workflow import default_make_tool
from ruamel.yaml.comments import CommentedMap

__all__ = ["make_tool"]


def make_tool(toolpath_object: CommentedMap, loadingContext: LoadingContext) -> Process:
    """Make the object for a part of a document; what cwltool calls while it loads."""
    if toolpath_object.get("class") == "CommandLineTool":
        return Tool(toolpath_object, loadingContext)
    return default_make_tool(toolpath_object, loadingContext)


class Tool(CommandLineTool):
    """A command-line tool whose containers are run by the jobs below."""

    def make_job_runner(self, runtimeContext: RuntimeContext) -> type[JobBase]:
        """Choose the class of the tool's jobs."""
        kind = super().make_job_runner(runtimeContext)
        ours: dict[type[JobBase], type[JobBase]] = {DockerCommandLineJob: DockerJob, PodmanCommandLineJob: PodmanJob}
        return ours.get(kind, kind)


class _Unwatched:
    """A container whose use of memory is not asked for: cwltool's question takes a second and longer."""

    def docker_monitor(self, *_: Any) -> None:
        """Do nothing; the job waits for the process by itself."""


class DockerJob(_Unwatched, DockerCommandLineJob):
    """A job in a container of docker's."""


class PodmanJob(_Unwatched, PodmanCommandLineJob):
    """A job in a container of podman's."""

    def create_runtime(self, env: Any, runtimeContext: RuntimeContext) -> tuple[list[str], str | None]:
        """Make the command line; root needs no user namespace to be itself, and podman gives it none."""
        command, cid_file = super().create_runtime(env, runtimeContext)
        return [word for word in command if word != "--userns=keep-id" or os.getuid()], cid_file
