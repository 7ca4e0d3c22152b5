"""``toilfn completion SHELL``, and the completion of command lines when the shell requests it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from toilfn.config.flags import add_for_completion
from toilfn.errors import InputError

__all__ = ["command", "complete", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.epilog = """\
bash, in ~/.bashrc:                  eval "$(toilfn completion bash)"
zsh, in ~/.zshrc after compinit:     eval "$(toilfn completion zsh)"
fish, in ~/.config/fish/config.fish: toilfn completion fish | source"""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def command(options: argparse.Namespace) -> int:
    """Print the code that a shell needs to complete toilfn's command lines."""
    print(_argcomplete().shellcode(["toilfn"], shell=options.shell))
    return 0


def _argcomplete() -> Any:
    try:
        return import_module("argcomplete")
    except ImportError:
        raise InputError("completion needs the package argcomplete", hint="pip install 'toilfn[completion]'") from None


def complete(summaries: dict[str, str], parser_of: Callable[[str], argparse.ArgumentParser]) -> None:
    """Answer the shell that requests completions, and exit.

    Parameters
    ----------
    summaries : dict
        The summary of each command, by its name.
    parser_of : callable
        Builds the parser of a command.
    """
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0")) or None]
    words = line.split()
    if words[1:2] and words[1] in summaries and (len(words) > 2 or line.endswith(" ")):
        os.environ["_ARGCOMPLETE"] = "2"  # two words, "toilfn COMMAND", are the name of the program
        parser = parser_of(words[1])
        if not line.endswith(" "):
            add_for_completion(parser, words[-1])
    else:
        parser = argparse.ArgumentParser(prog="toilfn")
        choices = parser.add_subparsers()
        for name, summary in summaries.items():
            choices.add_parser(name, help=summary)
    _argcomplete().autocomplete(parser)
