"""``toilfn completion SHELL``, and what answers a shell that completes a command line."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from typing import Any

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


def complete(commands: dict[str, tuple[str, str]]) -> None:
    """Answer the shell that asks for completions, and exit."""
    words = os.environ.get("COMP_LINE", "").split()
    parser = argparse.ArgumentParser(prog="toilfn")
    choices = parser.add_subparsers()
    for name, (module_name, summary) in commands.items():
        own = choices.add_parser(name, help=summary)
        if name in words[1:2]:
            module = import_module(module_name)
            if hasattr(module, "configure"):
                module.configure(own)
    _argcomplete().autocomplete(parser)
