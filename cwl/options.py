"""The command line: cwltool's options, and those of every toilfn run."""

from __future__ import annotations

import argparse

from cwltool.argparser import arg_parser

from toilfn.settings import add_options

__all__ = ["make_parser"]


def make_parser(program: str = "toilfn-cwl-runner") -> argparse.ArgumentParser:
    """Make the parser."""
    parser = arg_parser()
    parser.prog = program
    parser.description = (
        "Run a document of the Common Workflow Language, with cwltool's options and toilfn's. "
        "What was interrupted goes on with: toilfn resume STORE"
    )
    _add_own(parser.add_argument_group("toilfn: CWL"))
    add_options(parser, leave_out=("workflow",))
    return parser


def _add_own(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--docker", action="store_true", help="run containers with docker, as without any such option")
    group.add_argument(
        "--no-reuse", action="store_true", help="run everything, also what an earlier run on the store has finished"
    )
    group.add_argument(
        "--bypass-file-store",
        action="store_true",
        help="leave files in directories that all machines share, instead of bringing them into the store",
    )
    group.add_argument(
        "--disable-streaming",
        action="store_true",
        help="make copies also of inputs that a document marks as streamable; toilfn always does",
    )
    group.add_argument(
        "--dest-bucket", "--destBucket", metavar="URL", help="the same as --outdir, for a place such as s3://bucket/run"
    )
