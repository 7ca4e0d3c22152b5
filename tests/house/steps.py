"""List the steps from `compute` to the user's function: ``python -m tests.house.steps``.

One task runs on the local cluster. A step is a function of toilfn that has called the next one: those on the stack when
the leader sends the task to the worker, and those on the worker's stack when the task's function begins.
"""

from __future__ import annotations

import os
import sys
import tempfile
from types import FrameType
from typing import ClassVar
from unittest.mock import patch

import toilfn
from tests.house.rooms import ROOMS, ROOT
from toilfn.clusters.local.cluster import WorkerProcess

FOLDERS = tuple(str(ROOT / folder) + os.sep for folder in ROOMS.values())


def name_of(frame: FrameType) -> str:
    """Return the name of a function of toilfn; empty for bodies of modules, comprehensions, and all other code."""
    path, code = os.path.realpath(frame.f_code.co_filename), frame.f_code
    if not path.startswith(FOLDERS) or code.co_name.startswith("<"):
        return ""
    return f"{os.path.relpath(path, ROOT)}: {getattr(code, 'co_qualname', code.co_name)}"


def steps_to(frame: FrameType | None) -> list[str]:
    """Return the functions of toilfn on the stack, from the outermost to a frame."""
    names = []
    while frame is not None:
        names.append(name_of(frame))
        frame = frame.f_back
    return [name for name in reversed(names) if name]


@toilfn.task
def steps_here() -> list[str]:
    """Return the steps of the worker."""
    return steps_to(sys._getframe())


class ShowingProcess(WorkerProcess):
    """A worker's process that notes the steps to each message for it."""

    steps: ClassVar[list[list[str]]] = []

    def send(self, message: bytes) -> None:
        """Note the steps, and send the message."""
        self.steps.append([*steps_to(sys._getframe(1)), "clusters/local/cluster.py: WorkerProcess.send"])
        super().send(message)


def steps() -> list[str]:
    """Run the task, and return the steps; the first message to a worker is a greeting, the second one has the task."""
    module = "toilfn.clusters.local.cluster.WorkerProcess"
    with patch(module, ShowingProcess), tempfile.TemporaryDirectory() as folder:
        there = toilfn.compute(steps_here(), cluster="local", store=f"{folder}/store", progress=False)
    _, here, *_ = ShowingProcess.steps
    return [*here, *there, "the user's function"]


if __name__ == "__main__":
    print(*(f"{number:2} {name}" for number, name in enumerate(steps(), 1)), sep="\n")
