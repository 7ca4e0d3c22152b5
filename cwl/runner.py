"""``toilfn-cwl-runner``: cwltool's command line, run by toilfn.

cwltool reads the options, the document and the inputs, and reports; what it calls an executor is ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import cwltool.main
from cwltool.context import LoadingContext, RuntimeContext
from schema_salad.exceptions import ValidationException

from toilfn.cwl import plainpaths
from toilfn.cwl.executor import Executor
from toilfn.cwl.fetching import Fetcher
from toilfn.cwl.options import make_parser
from toilfn.cwl.recording import Recording
from toilfn.cwl.schemas import use_schemas
from toilfn.cwl.sealed import Sealed
from toilfn.cwl.tool import make_tool
from toilfn.stdio import report, unfailing_standard_error

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, *, prog: str = "toilfn-cwl-runner") -> int:
    """Run a CWL document; gives the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default what this process was given.
    prog : str
        What the command is called in its help and its errors.
    """
    with unfailing_standard_error():
        return _main(arguments, prog)


def _main(arguments: Sequence[str] | None, prog: str) -> int:
    parser = make_parser()
    parser.prog = prog
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    recording, options.provenance = Recording(options.provenance, options), None  # cwltool would write one of its own
    loading, context = LoadingContext(vars(options)), RuntimeContext(vars(options))
    loading.construct_tool_object = make_tool
    loading.fetcher_constructor = Fetcher
    plainpaths.teach()
    context.secret_store = Sealed()
    executor: Any = Executor(options, recording)
    try:
        return int(
            cwltool.main.main(
                args=options, executor=executor, loadingContext=loading, runtimeContext=context, versionfunc=_version,
                custom_schema_callback=lambda: use_schemas(extended=options.enable_ext),
            )
        )  # fmt: skip
    except ValidationException as error:  # there is no such document
        report(f"{prog}: {error}")
        return 1


def _version() -> str:
    return f"toilfn-cwl-runner {version('toilfn')}, cwltool {version('cwltool')}"
