"""The commands of the package, which end quietly when they are interrupted while they are loaded.

Loading takes a second, or several on a busy machine, so the modules are imported where an interrupt is caught.
"""

from __future__ import annotations

from importlib import import_module

__all__ = ["cwl_runner", "toilfn", "wdl_runner", "wes_cwl_runner"]

_INTERRUPTED = 130


def toilfn() -> int:
    """Run `toilfn`, and return the exit status."""
    return _run("toilfn.cli", "toilfn")


def cwl_runner() -> int:
    """Run `toilfn-cwl-runner`, and return the exit status."""
    return _run("toilfn.cwl.runner", "toilfn-cwl-runner")


def wdl_runner() -> int:
    """Run `toilfn-wdl-runner`, and return the exit status."""
    return _run("toilfn.wdl.runner", "toilfn-wdl-runner")


def wes_cwl_runner() -> int:
    """Run `toilfn-wes-cwl-runner`, and return the exit status."""
    return _run("toilfn.server.client", "toilfn-wes-cwl-runner")


def _run(module: str, program: str) -> int:
    try:
        return int(import_module(module).main())
    except KeyboardInterrupt as error:
        from toilfn.stdio import report

        report(f"{program}: {str(error) or 'interrupted'}")
        return _INTERRUPTED
