"""``toilfn report STORE``."""

from __future__ import annotations

import argparse
from pathlib import Path

from toilfn.cli.common import add_store, add_store_options, open_named, open_view, output_file
from toilfn.inspect.report.page import page
from toilfn.stores.lease import living

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=output_file, default=Path("report.html"),
        help="where to write the page (default: report.html)",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Write a page with the graph, a timeline, what was used, and what failed."""
    store = open_named(options)
    view = open_view(store)
    is_led = living(store) is not None
    state = ("running" if is_led else "stopped") if view.status == "open" else view.status
    options.output.write_text(page(store, view, state), encoding="utf-8")
    print(f"wrote {options.output}")
    return 0
