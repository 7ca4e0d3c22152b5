"""The command line: the options of cwltool, and those of every toilfn run."""

from __future__ import annotations

import argparse
import os
from typing import Any

from cwltool.argparser import arg_parser
from cwltool.utils import DEFAULT_TMP_PREFIX

from toilfn.cli.common import add_dry_run
from toilfn.config.settings import add_options

__all__ = ["implied_settings", "make_parser"]


def make_parser(program: str = "toilfn-cwl-runner") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = arg_parser()
    parser.prog = program
    parser.description = (
        "Run a document in the Common Workflow Language, with the options of cwltool and toilfn. "
        "To continue an interrupted run: toilfn resume STORE"
    )
    parser.set_defaults(move_outputs="copy")  # keep the files in the store by default
    _add_own(parser.add_argument_group("toilfn: CWL"))
    add_dry_run(parser)
    add_options(parser, leave_out=("workflow",))
    return parser


def implied_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Translate options of cwltool into settings of toilfn.

    Temporary directories are created in the directory of ``--tmpdir-prefix``; the rest of the prefix is ignored, since
    toilfn chooses their names.
    """
    prefixes = (options.tmpdir_prefix, options.tmp_outdir_prefix)
    prefix = next((one for one in prefixes if one not in ("", DEFAULT_TMP_PREFIX)), "")
    settings = {
        "work_dir": os.path.dirname(os.path.join(os.getcwd(), prefix)) if prefix else None,
        "clean_work_dir": None if options.rm_tmpdir else "never",
        "workers": options.parallel_max or None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _add_own(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--docker", action="store_true", help="run containers with docker (the default)")
    group.add_argument(
        "--no-reuse", action="store_true", help="run everything, even if an earlier run on the store has finished it"
    )
    group.add_argument(
        "--bypass-file-store",
        action="store_true",
        help="leave files in directories that all machines share, instead of copying them into the store",
    )
    group.add_argument(
        "--disable-streaming",
        action="store_true",
        help="copy inputs that a document marks as streamable, too, instead of passing them through named pipes",
    )
    group.add_argument(
        "--dest-bucket", "--destBucket", metavar="URL", help="same as --outdir, for a URL such as s3://bucket/run"
    )
