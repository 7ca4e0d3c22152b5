"""toilfn: functions become durable workflows.

Names are imported from their modules at first use, so that ``import toilfn`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# At once: imported later, the submodule of the same name would take the decorator's place.
from toilfn.task import Task, task

if TYPE_CHECKING:
    from typing import Annotated, TypeAlias, TypeVar

    from toilfn.background import Run
    from toilfn.clusters.awsbatch import AWSBatchCluster
    from toilfn.clusters.daskcluster import DaskCluster
    from toilfn.clusters.gridengine import GridEngineCluster
    from toilfn.clusters.htcondor import HTCondorCluster
    from toilfn.clusters.inline import InlineCluster
    from toilfn.clusters.kubernetes import KubernetesCluster
    from toilfn.clusters.local import LocalCluster
    from toilfn.clusters.lsf import LSFCluster
    from toilfn.clusters.mesos.cluster import MesosCluster
    from toilfn.clusters.parasol import ParasolCluster
    from toilfn.clusters.pbs import PBSCluster
    from toilfn.clusters.slurm import SlurmCluster
    from toilfn.clusters.tes import TESCluster
    from toilfn.clusters.torque import TorqueCluster
    from toilfn.containers.call import docker
    from toilfn.containers.container import Container
    from toilfn.context import current, spawn
    from toilfn.directory import Directory
    from toilfn.errors import (
        ClusterError,
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
    from toilfn.exchange import export, import_directory, import_file, import_files, input
    from toilfn.files import File, open_write, write_file
    from toilfn.resources import Accelerator, Resources
    from toilfn.run import compute, resume, submit
    from toilfn.services import Service, service
    from toilfn.settings import add_options, from_options

    _T = TypeVar("_T")
    # A task's call gives a Promise of its value, and every task takes promises where it takes values.
    # Python cannot say that of a function's parameters, so for type checkers a promise is its value.
    Promise: TypeAlias = Annotated[_T, "promise"]

_MODULES = {
    "toilfn.background": ("Run",),
    "toilfn.clusters.awsbatch": ("AWSBatchCluster",),
    "toilfn.clusters.daskcluster": ("DaskCluster",),
    "toilfn.clusters.gridengine": ("GridEngineCluster",),
    "toilfn.clusters.htcondor": ("HTCondorCluster",),
    "toilfn.clusters.inline": ("InlineCluster",),
    "toilfn.clusters.kubernetes": ("KubernetesCluster",),
    "toilfn.clusters.local": ("LocalCluster",),
    "toilfn.clusters.lsf": ("LSFCluster",),
    "toilfn.clusters.mesos.cluster": ("MesosCluster",),
    "toilfn.clusters.parasol": ("ParasolCluster",),
    "toilfn.clusters.slurm": ("SlurmCluster",),
    "toilfn.clusters.tes": ("TESCluster",),
    "toilfn.clusters.pbs": ("PBSCluster",),
    "toilfn.clusters.torque": ("TorqueCluster",),
    "toilfn.containers.call": ("docker",),
    "toilfn.containers.container": ("Container",),
    "toilfn.context": ("current", "spawn"),
    "toilfn.directory": ("Directory",),
    "toilfn.errors": (
        "ClusterError",
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
    "toilfn.exchange": ("export", "import_directory", "import_file", "import_files", "input"),
    "toilfn.files": ("File", "open_write", "write_file"),
    "toilfn.promise": ("Promise",),
    "toilfn.resources": ("Accelerator", "Resources"),
    "toilfn.run": ("compute", "resume", "submit"),
    "toilfn.services": ("Service", "service"),
    "toilfn.settings": ("add_options", "from_options"),
}
_LANGUAGES = ("cwl", "wdl")
"""Subpackages that are imported at first use: `toilfn.cwl.load`."""
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AWSBatchCluster",
    "Accelerator",
    "ClusterError",
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
    "Promise",
    "ResourceError",
    "Resources",
    "Run",
    "SerializationError",
    "Service",
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
    "resume",
    "service",
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
