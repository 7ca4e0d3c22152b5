"""Options of other runners that are not options here: each says what to use instead."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_others"]

_INSTEAD = {
    ("--env",): "--set-env NAME=VALUE, or --set-env NAME",
    ("-d", "--dir"): "-o DIR for the outputs, and --store DIR to keep the run",
    ("--as-me",): "nothing: commands run as you, unless there is --as-root",
    ("--cfg",): "options, or --config with a file that 'toilfn config' makes",
    ("--copy-input-files-for",): "--copy-input-files, which is for all tasks",
    ("--error-json", "--log-json"): "--store DIR, and then 'toilfn events DIR': JSON lines of all that happened",
    ("-j",): "'toilfn wdl inputs DOCUMENT', which prints a file of inputs to be filled in",
    ("-v", "--verbose", "--debug"): "--stream-logs for what commands say, and --log-level debug",
    ("--no-color",): "--no-progress, or nothing",
    ("--metadata-output",): "--store DIR, and then 'toilfn stats DIR' or 'toilfn report DIR'",
    ("--options",): "options: -o DIR for final_workflow_outputs_dir, --use-relative-output-paths, --runtime-defaults",
    ("--imports",): "-p DIR, with the archive unpacked there",
}
"""miniwdl's and Cromwell's."""


def add_others(parser: argparse.ArgumentParser) -> None:
    """Have options of other runners refused with words that help."""
    for flags, instead in _INSTEAD.items():
        parser.add_argument(*flags, action=_Refused, nargs="?", const=instead, help=argparse.SUPPRESS)


class _Refused(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        parser.error(f"{option_string} is an option of another runner; use {self.const}")
