"""Options of other runners that toilfn does not support; each error says what to use instead."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_others"]

_INSTEAD = {
    ("--env",): "--set-env NAME=VALUE, or --set-env NAME",
    ("-d", "--dir"): "-o DIR for the outputs, and --store DIR to keep the run",
    ("--as-me",): "nothing: commands run as you, unless there is --as-root",
    ("--cfg",): "options, or --config with a file from 'toilfn config'",
    ("--copy-input-files-for",): "--copy-input-files, which applies to all tasks",
    ("--error-json", "--log-json"): "--store DIR, and then 'toilfn events DIR', which prints all events as JSON lines",
    ("-j",): "'toilfn wdl inputs DOCUMENT', which prints a template for an input file",
    ("-v", "--verbose", "--debug"): "--stream-logs for the output of commands, and --log-level debug",
    ("--no-color",): "--no-progress, or nothing",
    ("--metadata-output",): "--store DIR, and then 'toilfn stats DIR' or 'toilfn report DIR'",
    ("--options",): "options: -o DIR for final_workflow_outputs_dir, --use-relative-output-paths, --runtime-defaults",
    ("--imports",): "-p DIR, with the archive unpacked there",
}
"""Options of miniwdl and Cromwell, and what to use instead."""


def add_others(parser: argparse.ArgumentParser) -> None:
    """Add the options of other runners, which are refused with an explanation."""
    for flags, instead in _INSTEAD.items():
        parser.add_argument(*flags, action=_Refused, nargs="?", const=instead, help=argparse.SUPPRESS)


class _Refused(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        parser.error(f"{option_string} is an option of another runner; use {self.const}")
