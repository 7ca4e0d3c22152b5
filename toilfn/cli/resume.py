"""``toilfn resume STORE``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toilfn.cli.common import add_dry_run, add_json, add_store, output_file, print_json, print_plan
from toilfn.config.settings import add_options, from_options

__all__ = ["add_arguments", "command", "configure", "finish"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "toilfn resume STORE [flags]"
    add_store(parser)
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of commands that finish a run; `finish` reads them."""
    add_json(parser)
    add_dry_run(parser, json=False)
    parser.add_argument(
        "--output", metavar="FILE", type=output_file,
        help="write the result to a file: a pickle, or JSON with --json",
    )  # fmt: skip
    add_options(parser, leave_out=("store", "workflow"))


def command(options: argparse.Namespace) -> int:
    """Finish the newest run of a store, and print its result."""
    from toilfn.api import resume

    return finish(resume, options)


def finish(run: Callable[..., Any], options: argparse.Namespace) -> int:
    """Call `run`, which takes the store and settings and finishes a run, and print the result."""
    if options.dry_run:
        return print_plan(run(options.store, dry_run=True, **from_options(options)), as_json=options.json)
    value = run(options.store, **from_options(options))
    if options.output is not None:
        _write(value, options.output, as_json=options.json)
    elif options.json:
        print_json(value)
    else:
        print(value)
    return 0


def _write(value: Any, path: Path, *, as_json: bool) -> None:
    if as_json:
        with path.open("w") as stream:
            print_json(value, stream)
        return
    import cloudpickle

    path.write_bytes(cloudpickle.dumps(value))
