"""The argument parser of every command: exact option names only, and a suggestion for a misspelled one."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import Any, NoReturn

from toilfn.errors import ToilfnError

__all__ = ["Parser"]

_UNKNOWN = "unrecognized arguments: "
"""How argparse begins its message about options that a parser does not have."""


class Parser(argparse.ArgumentParser):
    """A parser that never takes the beginning of an option for the whole of it.

    With argparse's default, ``--retry 3`` would silently mean ``--retry-backoff 3``.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2; name the nearest options if there are unknown ones."""
        if message.startswith(_UNKNOWN):
            given = [word.partition("=")[0] for word in message.removeprefix(_UNKNOWN).split() if word.startswith("--")]
            message += "".join(self._suggestion(option) for option in given)
        super().error(message)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Read a value; if toilfn refuses it, its own message says more than the name of the function that reads it."""
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
