"""``toilfn-cwl-runner``: cwltool's command line, run by toilfn.

cwltool reads the options, the document and the inputs, and reports; what it calls an executor is ours.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import cwltool.main
from cwltool.context import RuntimeContext
from cwltool.process import Process

from toilfn.cwl import inputs, steps
from toilfn.cwl.documents import bundle
from toilfn.cwl.engine import Engine
from toilfn.cwl.options import make_parser
from toilfn.cwl.outputs import deliver
from toilfn.run import compute
from toilfn.settings import from_options

__all__ = ["main"]


class Executor:
    """Runs a loaded process with its inputs; what cwltool calls instead of its own executors.

    Parameters
    ----------
    options : argparse.Namespace
        The command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def __call__(
        self, process: Process, job: dict[str, Any], context: RuntimeContext, logger: object = None
    ) -> tuple[dict[str, Any] | None, str]:
        """Run it; gives the result object and the status."""
        ready = inputs.resolved(process, job, context)
        part = bundle(process, Engine.of(context), inputs.document_files(process))
        outputs = steps.call(part, inputs.imported(ready))
        outdir = context.outdir or os.getcwd()
        return compute(deliver(outputs, outdir), **self._settings(process)), "success"

    def _settings(self, process: Process) -> dict[str, Any]:
        quiet = {"progress": False} if self._options.quiet else {}
        return {"workflow": process.tool["id"], **quiet, **from_options(self._options)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a CWL document; gives the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default what this process was given.
    """
    options = make_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    return int(cwltool.main.main(args=options, executor=Executor(options)))  # type: ignore[arg-type]
