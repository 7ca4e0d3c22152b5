"""Errors that say where in a document they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from WDL import Error

from toilfn.errors import ContainerError, InputError, PermanentError

__all__ = ["WDLError", "located", "where"]


class WDLError(InputError, PermanentError):
    """A document cannot be run, or its inputs are not what it asks for; says where."""


def where(node: Any) -> str:
    """Give the place of a part of a document, as compilers write it."""
    pos = getattr(node, "pos", node)
    return f"{pos.abspath or pos.uri}:{pos.line}:{pos.column}"


@contextmanager
def located(node: Any) -> Iterator[None]:
    """Add the place of a part of a document to the errors of evaluating it.

    Raises
    ------
    WDLError
        For whatever the evaluation raised.
    """
    try:
        yield
    except (WDLError, ContainerError, MemoryError):
        raise
    except Exception as error:
        place = error if isinstance(error, Error.EvalError) else node
        raise WDLError(f"{where(place)}: {_said(error)}") from error


def _said(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no file or directory {error}"
    return str(error) or type(error).__name__
