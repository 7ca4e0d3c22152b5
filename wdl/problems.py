"""Errors with the position in a document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from WDL import Error, Expr

from toilfn.errors import ContainerError, InputError, PermanentError
from toilfn.ids import Cause

__all__ = ["WDLError", "located", "reason", "was_too_large", "where"]

_OURS = re.compile(r"toilfn\.(wdl\.problems|errors)\.\w+: ")


class WDLError(InputError, PermanentError):
    """A document cannot be run, or its inputs are invalid. The message has the position."""


def where(node: Any) -> str:
    """Return the position of a part of a document in the format of compilers."""
    pos = getattr(node, "pos", node)
    return f"{pos.abspath or pos.uri}" + (f":{pos.line}:{pos.column}" if pos.line else "")


@contextmanager
def located(node: Any) -> Iterator[None]:
    """Add the position of a part of a document to errors of its evaluation.

    Raises
    ------
    WDLError
        If the evaluation raises an error.
    """
    try:
        yield
    except (WDLError, ContainerError, MemoryError):
        raise
    except Exception as error:
        place = error if isinstance(error, Error.EvalError) else node
        raise WDLError(f"{where(place)}: {_message(error)}") from error


def reason(failure: Any, name: str) -> str:
    """Return the message and the id of a failed task (a `records.Failure`).

    If the message does not contain a position in the document, the result also contains the task's name.
    """
    which = f"(task {failure.id.hex()[:12]})"
    lines = str(failure.traceback).strip().splitlines() or [str(failure.message)]
    heads = [number for number, line in enumerate(lines) if _OURS.match(line)]
    if not heads:
        return f"task {name}: {failure.message} {which}"
    said = "\n".join(lines[heads[-1] :])
    return f"{_OURS.sub('', said, count=1)} {which}"


def was_too_large(failure: Any) -> bool:
    """Return whether a failed task never started because it requested too many resources."""
    return bool(failure.cause == Cause.INPUT and not failure.stats.start)


def _message(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file or directory: {error}"
    if isinstance(error, Error.EvalError) and isinstance(error.node, Expr.Apply) and error.__cause__ is not None:
        name, said = f"{error.node.function_name}(): ", _message(error.__cause__)
        return said if name.startswith("_") or said.startswith(name) else name + said
    return str(error) or type(error).__name__
