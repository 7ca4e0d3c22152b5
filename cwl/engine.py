"""Options for running tools: those of the command line that workers need, as attributes for cwltool."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cwltool.context import RuntimeContext
from cwltool.mutation import MutationManager

from toilfn.cwl.sealed import Sealed

__all__ = ["Engine"]

_CARRIED = (
    "use_container", "default_container", "find_default_container", "singularity", "podman", "user_space_docker_cmd",
    "force_docker_pull", "pull_image", "rm_container", "no_read_only", "custom_net", "no_match_user",
    "preserve_environment", "preserve_entire_environment", "image_base_path", "docker_outdir", "docker_tmpdir",
    "docker_stagedir", "strict_memory_limit", "strict_cpu_limit", "compute_checksum", "streaming_allowed",
    "mpi_config", "job_script_provider", "debug", "js_console", "eval_timeout", "cachedir", "log_dir", "rm_tmpdir",
    "cidfile_dir", "cidfile_prefix",
)  # fmt: skip
"""Attributes of the `RuntimeContext` of cwltool that have the same meaning on every machine."""

_RESULTS = (
    "use_container", "default_container", "singularity", "podman", "user_space_docker_cmd", "no_read_only",
    "preserve_environment", "preserve_entire_environment", "docker_outdir", "docker_tmpdir", "docker_stagedir",
)  # fmt: skip
"""Those of them that can affect the outputs of a tool."""


@dataclass(frozen=True)
class Engine:
    """Options for running tools.

    Attributes
    ----------
    options : mapping
        Attributes of the `RuntimeContext` of cwltool.
    shared : str
        A directory shared by all machines, in which outputs stay instead of being moved into the store; empty to use
        the store.
    """

    options: Mapping[str, Any]
    shared: str = ""

    @classmethod
    def of(cls, context: RuntimeContext, shared: str = "") -> Engine:
        """Build an engine from the options of the command line."""
        return cls({name: getattr(context, name) for name in _CARRIED}, shared)

    @property
    def identity(self) -> tuple[object, ...]:
        """The options that can affect the outputs of a tool."""
        return tuple(str(self.options[name]) for name in _RESULTS)

    def context(self, directory: Path) -> RuntimeContext:
        """Build the context for running a tool with all temporary files below a directory."""
        context = RuntimeContext(dict(self.options))
        context.basedir = str(directory)
        context.tmpdir_prefix = f"{directory}{os.sep}tmp-"
        context.tmp_outdir_prefix = f"{self.shared or directory}{os.sep}out-"
        context.mutation_manager = MutationManager()
        context.secret_store = Sealed()
        context.workflow_eval_lock = threading.Condition(threading.RLock())
        return context
