"""toilfn: durable workflows from Python functions.

Names are imported from their modules at first use, so that ``import toilfn`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Every workflow needs these two, so they are imported here and not at first use.
from toilfn.graph.task import Task, task

if TYPE_CHECKING:
    from typing import Annotated, TypeAlias, TypeVar

    from toilfn.api import Run, compute, resume, submit
    from toilfn.clusters.awsbatch.cluster import AWSBatchCluster
    from toilfn.clusters.dask import DaskCluster
    from toilfn.clusters.gridengine import GridEngineCluster
    from toilfn.clusters.htcondor import HTCondorCluster
    from toilfn.clusters.kubernetes.cluster import KubernetesCluster
    from toilfn.clusters.local.cluster import LocalCluster
    from toilfn.clusters.local.inline import InlineCluster
    from toilfn.clusters.lsf import LSFCluster
    from toilfn.clusters.mesos.cluster import MesosCluster
    from toilfn.clusters.parasol import ParasolCluster
    from toilfn.clusters.pbs import PBSCluster, TorqueCluster
    from toilfn.clusters.slurm import SlurmCluster
    from toilfn.clusters.tes import TESCluster
    from toilfn.config.params import params
    from toilfn.config.settings import add_options, from_options
    from toilfn.containers.call import Container, docker
    from toilfn.errors import (
        ClusterError,
        CommandError,
        ContainerError,
        ContainerMemoryError,
        CorruptObjectError,
        FailedTasksError,
        FencedError,
        GraphError,
        InputError,
        KilledError,
        PermanentError,
        ResourceError,
        SerializationError,
        StoreError,
        StoreExistsError,
        StoreFormatError,
        StoreLockedError,
        StoreNotFoundError,
        ToilfnError,
    )
    from toilfn.files.directory import Directory
    from toilfn.files.exchange import export, import_directory, import_file, import_files, input
    from toilfn.files.file import File, open_write, write_file
    from toilfn.graph.task import Service, service
    from toilfn.inspect.plan import Plan, PlannedTask
    from toilfn.resources import Accelerator, Resources
    from toilfn.steps.shell import ShellTask, shell
    from toilfn.worker.context import current, spawn

    _T = TypeVar("_T")
    # A call of a task returns a Promise of its value, and a task accepts a promise for any parameter. Python's types
    # cannot express the second rule, so for type checkers a promise has the type of its value.
    Promise: TypeAlias = Annotated[_T, "promise"]

_MODULES = {
    "toilfn.api": ("Run", "compute", "resume", "submit"),
    "toilfn.clusters.awsbatch.cluster": ("AWSBatchCluster",),
    "toilfn.clusters.dask": ("DaskCluster",),
    "toilfn.clusters.gridengine": ("GridEngineCluster",),
    "toilfn.clusters.htcondor": ("HTCondorCluster",),
    "toilfn.clusters.local.inline": ("InlineCluster",),
    "toilfn.clusters.kubernetes.cluster": ("KubernetesCluster",),
    "toilfn.clusters.local.cluster": ("LocalCluster",),
    "toilfn.clusters.lsf": ("LSFCluster",),
    "toilfn.clusters.mesos.cluster": ("MesosCluster",),
    "toilfn.clusters.parasol": ("ParasolCluster",),
    "toilfn.clusters.slurm": ("SlurmCluster",),
    "toilfn.clusters.tes": ("TESCluster",),
    "toilfn.clusters.pbs": ("PBSCluster", "TorqueCluster"),
    "toilfn.containers.call": ("Container", "docker"),
    "toilfn.steps.shell": ("ShellTask", "shell"),
    "toilfn.worker.context": ("current", "spawn"),
    "toilfn.files.directory": ("Directory",),
    "toilfn.errors": (
        "ClusterError",
        "CommandError",
        "ContainerError",
        "ContainerMemoryError",
        "CorruptObjectError",
        "FailedTasksError",
        "FencedError",
        "GraphError",
        "InputError",
        "KilledError",
        "PermanentError",
        "ResourceError",
        "SerializationError",
        "StoreError",
        "StoreExistsError",
        "StoreFormatError",
        "StoreLockedError",
        "StoreNotFoundError",
        "ToilfnError",
    ),
    "toilfn.files.exchange": ("export", "import_directory", "import_file", "import_files", "input"),
    "toilfn.files.file": ("File", "open_write", "write_file"),
    "toilfn.inspect.plan": ("Plan", "PlannedTask"),
    "toilfn.graph.promise": ("Promise",),
    "toilfn.resources": ("Accelerator", "Resources"),
    "toilfn.graph.task": ("Service", "service"),
    "toilfn.config.params": ("params",),
    "toilfn.config.settings": ("add_options", "from_options"),
}
_LANGUAGES = ("cwl", "wdl")
"""Subpackages that are imported at first use: `toilfn.cwl.load`."""
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AWSBatchCluster",
    "Accelerator",
    "ClusterError",
    "CommandError",
    "Container",
    "ContainerError",
    "ContainerMemoryError",
    "CorruptObjectError",
    "DaskCluster",
    "Directory",
    "FailedTasksError",
    "FencedError",
    "File",
    "GraphError",
    "GridEngineCluster",
    "HTCondorCluster",
    "InlineCluster",
    "InputError",
    "KilledError",
    "KubernetesCluster",
    "LSFCluster",
    "LocalCluster",
    "MesosCluster",
    "PBSCluster",
    "ParasolCluster",
    "PermanentError",
    "Plan",
    "PlannedTask",
    "Promise",
    "ResourceError",
    "Resources",
    "Run",
    "SerializationError",
    "Service",
    "ShellTask",
    "SlurmCluster",
    "StoreError",
    "StoreExistsError",
    "StoreFormatError",
    "StoreLockedError",
    "StoreNotFoundError",
    "TESCluster",
    "Task",
    "ToilfnError",
    "TorqueCluster",
    "__version__",
    "add_options",
    "compute",
    "current",
    "docker",
    "export",
    "from_options",
    "import_directory",
    "import_file",
    "import_files",
    "input",
    "open_write",
    "params",
    "resume",
    "service",
    "shell",
    "spawn",
    "submit",
    "task",
    "write_file",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("toilfn")
    elif name in _LANGUAGES:
        value = import_module(f"toilfn.{name}")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'toilfn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
