"""``toilfn-cwl-runner``: the command line of cwltool, with an executor that runs toilfn.

cwltool reads the options, the document and the inputs, and prints the result; the executor is ours.
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

__all__ = ["main", "make_parser"]


def main(arguments: Sequence[str] | None = None, *, prog: str = "toilfn-cwl-runner") -> int:
    """Run a CWL document, and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; by default that of this process.
    prog : str
        The command's name in help and errors.
    """
    with unfailing_standard_error():
        return _main(arguments, prog)


def _main(arguments: Sequence[str] | None, prog: str) -> int:
    parser = make_parser(prog)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    recording, options.provenance = Recording(options.provenance, options), None  # else cwltool writes its own
    loading, context = LoadingContext(vars(options)), RuntimeContext(vars(options))
    loading.construct_tool_object = make_tool
    loading.fetcher_constructor = Fetcher
    plainpaths.patch_cwltool()
    context.secret_store = Sealed()
    context.streaming_allowed = not options.disable_streaming
    executor: Any = Executor(options, recording)
    try:
        return int(
            cwltool.main.main(
                args=options, executor=executor, loadingContext=loading, runtimeContext=context, versionfunc=_version,
                custom_schema_callback=lambda: use_schemas(extended=options.enable_ext),
            )
        )  # fmt: skip
    except ValidationException as error:  # the document does not exist
        report(f"{prog}: {error}")
        return 1


def _version() -> str:
    return f"toilfn-cwl-runner {version('toilfn')}, cwltool {version('cwltool')}"
