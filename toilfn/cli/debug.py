"""``toilfn debug STORE TASK``."""

from __future__ import annotations

import argparse
import os
import pdb
import subprocess
from bdb import BdbQuit
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toilfn.cli.common import add_store, add_store_options, add_task, open_named
from toilfn.debug import DebugTask, fetch_files
from toilfn.inspect.view import View
from toilfn.stdio import standard_error
from toilfn.worker.capture import start_logging
from toilfn.worker.execute import one_line, user_traceback

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Run one task again in this process, with its real inputs. Nothing is committed: the store stays as it is."
    )
    add_store(parser)
    add_store_options(parser)
    add_task(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--pdb", action="store_true", help="open the debugger where the task raises an exception")
    what.add_argument("--shell", action="store_true", help="open a shell in a directory with the task's input files")
    what.add_argument("--files", metavar="DIR", type=Path, help="copy the task's input files into a new directory")
    what.add_argument("--print-inputs", action="store_true", help="print the task's arguments by their names")


def command(options: argparse.Namespace) -> int:
    """Run a task, or show its inputs.

    Raises
    ------
    InputError
        If the task does not exist, or an input of it has no value yet.
    """
    store = open_named(options)
    view = View(store)
    task = view.find(options.task)
    start_logging(view.run.settings.get("log_level", "info") if view.run else "info")  # as the run's workers did
    with DebugTask(store, task.id) as debugged:
        if options.print_inputs:
            debugged.with_inputs(_print)
        elif options.shell:
            debugged.with_inputs(_open_shell)
        elif options.files is not None:
            debugged.with_inputs(lambda inputs: fetch_files(inputs, _new_folder(options.files)))
        else:
            return _run(debugged, with_pdb=options.pdb)
    return 0


def _run(debugged: DebugTask, *, with_pdb: bool) -> int:
    raised = []

    def examine(error: BaseException) -> None:
        if isinstance(error, BdbQuit):
            return
        raised.append(error)
        standard_error().write(user_traceback(error) or f"{one_line(error)}\n")
        if with_pdb:
            pdb.post_mortem(error.__traceback__)

    try:
        value = debugged.run(examine)
    except BdbQuit:  # the user has quit a debugger in the task
        raise KeyboardInterrupt from None
    except BaseException:
        if not raised:
            raise
        return 1
    print(f"value: {value!r}")
    return 0


def _print(inputs: Mapping[str, Any]) -> None:
    for name, value in inputs.items():
        print(f"{name}: {value!r}")


def _open_shell(inputs: Mapping[str, Any]) -> None:
    from toilfn import current

    folder = current().temp_dir
    fetch_files(inputs, folder)
    _print(inputs)
    print(f"The input files are in {folder}, which is removed when this shell exits.", flush=True)
    subprocess.run([os.environ.get("SHELL", "/bin/sh")], cwd=folder, check=False)


def _new_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
