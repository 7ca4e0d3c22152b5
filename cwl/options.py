"""The command line: cwltool's options, and those of every toilfn run."""

from __future__ import annotations

import argparse

from cwltool.argparser import arg_parser

from toilfn.settings import add_options

__all__ = ["make_parser"]


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = arg_parser()
    parser.prog = "toilfn-cwl-runner"
    add_options(parser, leave_out=("workflow",))
    return parser
