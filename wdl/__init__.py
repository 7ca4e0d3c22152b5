"""Run WDL documents as tasks: ``toilfn.wdl.load("hello.wdl")(name="x")`` returns a promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toilfn.wdl.python import Document, load

__all__ = ["Document", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'toilfn.wdl' has no attribute {name!r}")
    from toilfn.wdl import python

    return getattr(python, name)
