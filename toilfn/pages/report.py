"""``toilfn report STORE``: the page of a run, frozen into one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

from toilfn.cli.common import add_store, add_store_options, open_named, output_file
from toilfn.inspect.fold.columns import Detail
from toilfn.pages import charts, contents
from toilfn.pages.render import asset, render
from toilfn.pages.run import RunView
from toilfn.stores import Store

__all__ = ["command", "configure", "page"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)
    add_store_options(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=output_file, default=Path("report.html"),
        help="file to write (default: report.html)",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Write a page with the graph, a timeline, what was used, and what failed."""
    options.output.write_text(page(open_named(options)), encoding="utf-8")
    print(f"wrote {options.output}")
    return 0


def page(store: Store) -> str:
    """Build the HTML of a report, which needs nothing from elsewhere.

    Parameters
    ----------
    store : Store
    """
    view = RunView(lambda: store, Detail.CURVES)
    view.refresh()
    window = charts.Window(0.0, charts.whole(view))
    style = asset("uPlot.min.css") + asset("pages.css")
    script = asset("uPlot.iife.min.js") + asset("pages.js")
    return render(
        "run.html", **contents.run(view, window, None), **contents.details(view), base="", static="", home="",
        site=None, served=None, frozen=SimpleNamespace(style=style, script=script.replace("</script", "<\\/script")),
    )  # fmt: skip
