"""The argument parser of every command: exact option names only, and a suggestion for a misspelled one."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import Any, NoReturn

from toilfn.errors import ToilfnError

__all__ = ["Parser"]

_UNKNOWN = "unrecognized arguments: "
"""The beginning of argparse's message about unknown options."""


class Parser(argparse.ArgumentParser):
    """A parser that accepts only full names of options.

    By default, argparse accepts unique prefixes, so ``--retry 3`` would silently mean ``--retry-backoff 3``.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Print an error and exit with status 2; for an unknown option, suggest those with similar names."""
        if message.startswith(_UNKNOWN):
            given = [word.partition("=")[0] for word in message.removeprefix(_UNKNOWN).split() if word.startswith("--")]
            message += "".join(self._suggestion(option) for option in given)
        super().error(message)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Parse a value. If a parser of toilfn refuses it, report that error's message.

        argparse would only report the name of the parser's function.
        """
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            refused = error.__context__
            if isinstance(refused, ToilfnError):
                said = "; ".join(filter(None, (refused.message, refused.hint)))
                raise argparse.ArgumentError(action, said) from None
            raise

    def _suggestion(self, option: str) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = dict.fromkeys([*(name for name in known if name.startswith(option)), *get_close_matches(option, known)])
        return f"; instead of {option}, did you mean {' or '.join(near)}?" if near else ""
