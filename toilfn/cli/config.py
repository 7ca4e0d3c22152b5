"""``toilfn config``."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from toilfn.config.settings import TITLES, Settings

__all__ = ["command", "configure"]

_WIDTH = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: there are none."""
    parser.epilog = """\
Save it as ~/.config/dask/toilfn.yaml, or anywhere and name it with --config FILE.
Each setting can also be given as an environment variable, such as DASK_TOILFN__MAX_JOBS=10."""


def command(options: argparse.Namespace) -> int:
    """Print a file with all settings, each explained and with its default, for people to change."""
    print("\n".join(_lines()))
    return 0


def _lines() -> Iterator[str]:
    yield "# Settings of toilfn. Take the '#' from what you change."
    yield "toilfn:"
    for title in TITLES:
        yield from ("", f"  # --- {title} ---")
        for entry in fields(Settings):
            if entry.metadata["group"] == title and entry.name != "config":
                yield from _setting(entry)


def _setting(entry: Field[Any]) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(entry.metadata["help"], _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
    yield f"  # {entry.name.replace('_', '-')}: {json.dumps(entry.metadata['default'])}"
