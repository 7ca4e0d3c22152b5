"""Run CWL documents as tasks: ``toilfn-cwl-runner`` on the command line, `load` in Python.

cwltool is imported at first use, which takes a third of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toilfn.cwl.python import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from toilfn.cwl.python import load

    return load


def __dir__() -> list[str]:
    return __all__
