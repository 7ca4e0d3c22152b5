"""Containers that are children of their tasks, and must end with them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil

import toilfn as toil
from tests.servers.machine import wait_for

__all__ = ["check_end_of_attempt", "check_end_of_stream", "inline"]


def inline(function: Any, *args: Any) -> Any:
    """Run a function as a task in this process."""
    return toil.compute(toil.task(function, retries=0)(*args), cluster="inline")


def check_end_of_attempt(image: str, folder: Path, *, kill: bool) -> None:
    """Let a container write for ever, until its task's walltime is over or its worker is killed."""
    task = toil.task(_beat, retries=1, **({} if kill else {"walltime": 4}))(image, str(folder), kill=kill)
    assert toil.compute(task, store=folder / "store", cluster=toil.LocalCluster(workers=1)) == "second attempt"
    wait_for(lambda: not _processes(str(folder)), "the container's processes to end")


def _beat(image: str, folder: str, *, kill: bool) -> str:
    if toil.current().attempt > 1:
        return "second attempt"
    if kill and os.fork() == 0:
        while not Path(folder, "beat").exists():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    script = f"trap '' INT TERM; while true; do date > {folder}/beat; sleep 0.1; done"
    return str(toil.docker(image, script, volumes={folder: folder}))


def check_end_of_stream(image: str, folder: Path) -> None:
    """Read the first lines of a container that would write for ever."""

    def first_of_many() -> list[str]:
        lines = toil.docker(image, f"while true; do echo {folder}; sleep 0.1; done", stream=True, text=True)
        found = [next(lines), next(lines)]
        lines.close()
        return found

    assert inline(first_of_many) == [f"{folder}\n"] * 2
    wait_for(lambda: not _processes(str(folder)), "the container's processes to end")


def _processes(words: str) -> list[psutil.Process]:
    """Processes of containers, and what holds them, that have this on their command line."""
    found = psutil.process_iter(["cmdline", "name"])
    programs = [process for process in found if process.info["name"] in ("sh", "busybox", "sleep", "proot")]
    return [process for process in programs if words in " ".join(process.info["cmdline"] or ())]
