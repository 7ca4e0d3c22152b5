"""``toilfn run SCRIPT [flags] -- script's own arguments``."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from toilfn.api import DryRun, Sketch, instead_of_running
from toilfn.cli.common import add_dry_run, is_dry_run, print_plan
from toilfn.config.params import PARAMS_VARIABLE, describe, given
from toilfn.config.settings import SETTINGS_VARIABLE, add_options, from_options
from toilfn.errors import FailedTasksError, InputError, KilledError, ToilfnError
from toilfn.inspect.plan import Plan
from toilfn.inspect.view import TaskInfo
from toilfn.stdio import report

__all__ = ["add_parameters", "command", "configure", "help_for", "sketch_script"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "toilfn run (SCRIPT | -m MODULE) [flags] [-- the script's own arguments]"
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("script", metavar="SCRIPT", nargs="?", help="a Python file that calls toilfn.compute")
    what.add_argument("-m", dest="module", metavar="MODULE", help="a module to run instead, as with python -m")
    add_parameters(parser)
    add_dry_run(parser)


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Add flags for a script's parameters, and for the settings of its `compute` calls."""
    group = parser.add_argument_group("parameters of the script (toil.params); --help after SCRIPT lists them")
    group.add_argument(
        "--param", metavar="NAME=VALUE", action="append", default=[], help="value of a parameter; may be repeated"
    )
    group.add_argument(
        "--params",
        metavar="FILE",
        action="append",
        default=[],
        help="YAML or JSON file with values of parameters; may be repeated",
    )
    parser.set_defaults(rest=[])  # the arguments after "--"
    add_options(parser)


def help_for(arguments: list[str]) -> str:
    """Return help for the parameters of the script that the arguments name, to print after the general help."""
    scripts = (Path(word) for word in arguments if word.endswith(".py"))
    entries = [entry for script in scripts if script.is_file() for entry in describe(script)]
    if not entries:
        return ""
    width = max(len(name) for name, _, _ in entries)
    lines = [f"  {name:<{width}}  {kind}{f': {help}' if help else ''}" for name, kind, help in entries]
    return "\n".join(["parameters of this script, as --param NAME=VALUE:", *lines])


def command(options: argparse.Namespace) -> int:
    """Run a script as Python would, with the flags as settings of its `compute` calls.

    Raises
    ------
    InputError
        If the file or module does not exist.
    """
    is_dry = is_dry_run(options)
    script = _prepare(options)
    if is_dry:
        return _dry_run(script, options)
    return _run(script, options.module)


def sketch_script(options: argparse.Namespace) -> tuple[int, list[TaskInfo]]:
    """Run a script up to its first `compute` that has something to run; return its exit status and the tasks so far.

    The script's own output goes to standard error, so that the caller can print the tasks to standard output.
    """
    script, found = _prepare(options), Sketch()
    with instead_of_running(found), redirect_stdout(sys.stderr):
        status = _run_until_something_would_run(script, None, lambda: bool(found.tasks))
    return status, list(found.tasks.values())


def _prepare(options: argparse.Namespace) -> str:
    """Pass flags and arguments to a script, through ``os.environ`` and ``sys.argv``; return its path."""
    script = _script(options)
    os.environ[SETTINGS_VARIABLE] = json.dumps(from_options(options))
    os.environ[PARAMS_VARIABLE] = json.dumps(given(options.params, options.param))
    sys.argv = [script, *options.rest]
    return script


def _dry_run(script: str, options: argparse.Namespace) -> int:
    """Run the script up to its first `compute` that has something to run, and print the plan of that call."""
    found = DryRun()
    # With --json, the script's own output goes to standard error, so that standard output contains only JSON.
    with instead_of_running(found), redirect_stdout(sys.stderr) if options.json else nullcontext():
        status = _run_until_something_would_run(script, options.module, lambda: bool(found.plan))
    return status or print_plan(Plan() if found.plan is None else found.plan, as_json=options.json)


def _run_until_something_would_run(script: str, module: str | None, would_run: Callable[[], bool]) -> int:
    try:
        return _run(script, module)
    except SystemExit:
        if not would_run():  # the script itself has exited; otherwise `compute` has stopped it
            raise
        return 0


def _run(script: str, module: str | None) -> int:
    try:
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except (FailedTasksError, KilledError):
        raise
    except BdbQuit:  # the user has quit a debugger in a task
        raise KeyboardInterrupt from None
    except ToilfnError as error:
        raise _located(error) from None
    except Exception as error:
        error.__traceback__ = _own_part(error.__traceback__, script)
        report("".join(traceback.format_exception(error)).rstrip())
        return 1
    return 0


def _script(options: argparse.Namespace) -> str:
    """Return the path of the script or module, and let it import the modules beside it, as Python does."""
    if options.module is None:
        script = Path(options.script)
        if not script.is_file():
            raise InputError(f"script not found: {options.script}")
        sys.path.insert(0, str(script.resolve().parent))
        return str(options.script)
    sys.path.insert(0, os.getcwd())
    found = _find_spec(options.module)
    if found is not None and found.submodule_search_locations:  # like python -m, run the package's __main__
        found = _find_spec(f"{options.module}.__main__")
    if found is None or not found.origin:
        raise InputError(f"module {options.module} not found, or it cannot be run")
    return found.origin


def _find_spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ModuleNotFoundError:
        return None


def _own_part(trace: TracebackType | None, script: str) -> TracebackType | None:
    """Remove the frames of this command from a traceback, so that it begins in the script."""
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace


def _located(error: ToilfnError) -> ToilfnError:
    """Add the file and line of the user's code that caused an error to its message."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_the_users(frame.filename)]
    if own:
        error.args = (f"{error.message} ({own[-1].filename}, line {own[-1].lineno})", *error.args[1:])
    return error


def _is_the_users(filename: str) -> bool:
    package = str(Path(__file__).resolve().parent.parent)
    return not filename.startswith(("<", package)) and "runpy" not in filename
