"""``toilfn graph STORE``."""

from __future__ import annotations

import argparse
import sys

from toilfn.cli.common import add_store, add_store_options, open_named, open_view, output_file
from toilfn.inspect.drawing import draw

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "--format", choices=("text", "dot", "svg"), default="text", help="output format (default: text)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=output_file, help="write the graph to this file instead of printing it"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="draw every task (default: one box for all tasks of a name); very many parallel tasks become a table",
    )


def command(options: argparse.Namespace) -> int:
    """Draw the tasks of the newest run."""
    drawing = draw(open_view(open_named(options)).current(), every_task=lambda _: options.all)
    text = {"text": drawing.text, "dot": drawing.dot, "svg": drawing.svg}[options.format]()
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)
    return 0
