"""``toilfn cache [show | clean]``."""

from __future__ import annotations

import argparse
import os
import time

from toilfn.cli.common import add_json, print_json, print_table
from toilfn.errors import ResourceError
from toilfn.files.room import CacheEntry, cached_files, limit, trim
from toilfn.units import format_duration, format_size, parse_duration, parse_size

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = "The cache is in the work directory (--work-dir, TOILFN_WORK_DIR) of this machine."
    parser.add_argument("action", nargs="?", choices=("show", "clean"), default="show", help="show (default) or clean")
    parser.add_argument("--work-dir", metavar="DIRECTORY", help="work directory of the runs, if they set one")
    parser.add_argument(
        "--max-size", metavar="SIZE", type=_size, default=0,
        help="for clean: keep the most recently used files, up to this size in total (default: keep none)",
    )  # fmt: skip
    parser.add_argument(
        "--older-than", metavar="TIME", type=parse_duration, default=0.0,
        help="for clean: remove only files that have not been used for this long",
    )  # fmt: skip
    add_json(parser)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ResourceError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def command(options: argparse.Namespace) -> int:
    """Show this machine's cache of files, or remove files from it that no task uses."""
    if options.work_dir:
        os.environ["TOILFN_WORK_DIR"] = os.path.abspath(options.work_dir)
    if options.action == "clean":
        removed = trim(options.max_size, time.time() - options.older_than)
        total = sum(file.size for file in removed)
        if options.json:
            print_json({"removed": len(removed), "bytes": total})
        else:
            print(f"removed {len(removed)} file{'s' * (len(removed) != 1)}, {format_size(total)}")
        return 0
    _show(sorted(cached_files()), as_json=options.json)
    return 0


def _show(files: list[CacheEntry], *, as_json: bool) -> None:
    if as_json:
        print_json([
            {"path": str(file.path), "size": file.size, "used": file.used / 1e9, "in_use": not file.is_free,
             "shared": file.shared and str(file.shared)}
            for file in files
        ])  # fmt: skip
        return
    rows = [
        [format_size(file.size), format_duration(max(0.0, time.time() - file.used / 1e9)), _state(file), file.path.name]
        for file in files
    ]
    print_table(["size", "last use", "state", "object"], rows, right={0, 1})
    total = sum(file.size for file in files)
    print(f"{len(files)} files, {format_size(total)} of at most {format_size(limit())}")


def _state(file: CacheEntry) -> str:
    return ("free" if file.is_free else "in use") + (", shared" if file.shared else "")
