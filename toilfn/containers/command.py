"""The command of a container: a program with arguments, a pipeline of several, or a line for the shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TypeAlias

from toilfn.errors import InputError

__all__ = ["Arguments", "Word", "command"]

Word: TypeAlias = "str | os.PathLike[str] | int | float"

Arguments: TypeAlias = "str | Sequence[Word] | Sequence[Sequence[Word]]"
"""A line for the shell, a program's arguments, or the commands of a pipeline."""

_PIPELINE = """\
if command -v bash >/dev/null; then exec bash -c "set -eo pipefail; $1"; fi
set -eo pipefail; eval "$1"
"""
"""Not every sh knows pipefail; bash does, and so does the sh of images that are too small for bash."""


def command(args: Arguments, entrypoint: Word | Sequence[Word] | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the entrypoint (None for the image's own) and what follows it.

    Raises
    ------
    InputError
        If a shell is needed and an entrypoint is given too, or something is not a word.
    """
    if isinstance(args, str):
        return _shell(entrypoint, args)
    if args and all(isinstance(part, list | tuple) for part in args):
        line = " | ".join(shlex.join(map(_word, part)) for part in args if isinstance(part, list | tuple))
        return _shell(entrypoint, _PIPELINE, "sh", line)
    words = tuple(map(_word, args))
    if entrypoint is None:
        return None, words
    first, *rest = [entrypoint] if isinstance(entrypoint, str | os.PathLike) else _listed(entrypoint)
    return _word(first), (*map(_word, rest), *words)


def _listed(entrypoint: Word | Sequence[Word]) -> list[Word]:
    if isinstance(entrypoint, list | tuple) and entrypoint:
        return list(entrypoint)
    raise InputError(f"entrypoint={entrypoint!r} is neither a program nor a program with arguments")


def _shell(entrypoint: object, *script: str) -> tuple[str, tuple[str, ...]]:
    if entrypoint is not None:
        raise InputError(
            f"entrypoint={entrypoint!r} cannot be combined with a shell command or a pipeline, which sh runs"
        )
    return "sh", ("-c", *script)


def _word(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(
        f"{value!r} cannot be an argument of a program in a container", hint="pass a string, a path or a number"
    )
