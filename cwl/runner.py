"""``toilfn-cwl-runner``: cwltool's command line, run by toilfn.

cwltool reads the options, the document and the inputs, and reports; what it calls an executor is ours.
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

import cwltool.main
from cwltool.context import LoadingContext, RuntimeContext
from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.process import Process
from schema_salad.exceptions import ValidationException

from toilfn.clusters.local import LocalCluster
from toilfn.clusters.nursery import Nursery
from toilfn.cwl import inputs, steps, tools
from toilfn.cwl.documents import bundle, refuse_unsupported, updates_in_place
from toilfn.cwl.engine import Engine
from toilfn.cwl.options import make_parser
from toilfn.cwl.outputs import deliver
from toilfn.cwl.schemas import use_schemas
from toilfn.cwl.sealed import Sealed
from toilfn.cwl.tool import make_tool
from toilfn.errors import FailedTasksError, ToilfnError
from toilfn.filing import transfer
from toilfn.records import Failure
from toilfn.run import compute
from toilfn.settings import Settings, from_options
from toilfn.stores import open_store

__all__ = ["main"]


class Executor:
    """Runs a loaded process with its inputs; what cwltool calls instead of its own executors.

    Parameters
    ----------
    options : argparse.Namespace
        The command line.
    provenance : str, optional
        The directory for a research object of the run.
    """

    def __init__(self, options: argparse.Namespace, provenance: str | None = None) -> None:
        self._options = options
        self._provenance = provenance

    def __call__(
        self, process: Process, job: dict[str, Any], context: RuntimeContext, logger: object = None
    ) -> tuple[dict[str, Any] | None, str]:
        """Run it; gives the result object and the status."""
        refuse_unsupported(process)
        options, nonce = self._options, secrets.token_hex(8)
        bypass = options.bypass_file_store or updates_in_place(process)
        ready = inputs.resolved(process, job, context)
        finished = self._recorded(process, ready)
        with _shared(context) if bypass else nullcontext("") as shared, self._settings(process) as settings:
            files = inputs.document_files(process)
            reuse = not (options.no_reuse or bypass)
            part = bundle(process, Engine.of(context, shared), files, nonce, reuse=reuse)
            outputs = steps.begin(part, inputs.imported(ready, bypass=bypass))
            outdir = transfer.absolute(options.dest_bucket or context.outdir or os.getcwd())
            result = _computed(deliver(outputs, outdir, shared, nonce), settings)
            finished(result, settings)
            return result, "success"

    @contextmanager
    def _settings(self, process: Process) -> Iterator[dict[str, Any]]:
        """Give the settings of the run; on this machine, with workers that have what cwltool has loaded."""
        quiet = {"progress": False} if self._options.quiet else {}
        settings = {"workflow": process.tool["id"], **quiet, **from_options(self._options)}
        resolved = Settings.resolve(**settings)
        with self._to_be_read(resolved) as more, self._on_cluster({**settings, **more}, resolved) as complete:
            yield complete

    @contextmanager
    def _to_be_read(self, resolved: Settings) -> Iterator[dict[str, Any]]:
        """Give settings for a store that outlives the run, where it is to be read again."""
        if self._provenance and resolved.store is None:
            with _kept_store() as store:
                yield {"store": store, "clean": "never"}
        elif self._provenance and resolved.clean in ("always", "onSuccess"):
            raise WorkflowException(f"--provenance reads the store after the run: leave out --clean {resolved.clean}")
        else:
            yield {}

    @contextmanager
    def _on_cluster(self, settings: dict[str, Any], resolved: Settings) -> Iterator[dict[str, Any]]:
        if resolved.cluster not in (None, "local"):
            yield settings
            return
        with closing(Nursery()) as nursery:
            strict = self._options.strict_memory_limit
            cluster = LocalCluster(resolved.workers, launcher=nursery, watch_memory=strict)
            yield {**settings, "cluster": cluster}

    def _recorded(self, process: Process, ready: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
        """Give what writes the research object, if one is wanted, from the result and the settings of the run."""
        if not self._provenance:
            return lambda result, settings: None
        from toilfn.cwl import provenance

        directory, options = self._provenance, self._options
        name = options.cwl_full_name or (getpass.getuser() if options.user_provenance else "")
        agent = provenance.Agent(name, options.orcid or "", options.host_provenance)
        document = provenance.packed(process)

        def write(result: dict[str, Any], settings: dict[str, Any]) -> None:
            resolved = Settings.resolve(**settings)
            store = open_store(str(resolved.store), create=False, **(resolved.store_options or {}))
            record = provenance.Record(process, document, ready, result, agent)
            provenance.write(directory, record, store)

        return write


@contextmanager
def _kept_store() -> Iterator[str]:
    """Make a temporary store that outlives the run, to be read again; it stays when the run fails."""
    directory = tempfile.mkdtemp(prefix="toilfn-")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _shared(context: RuntimeContext) -> Iterator[str]:
    """Make a directory for what stays out of the store; it stays when the run fails, since a resume needs it."""
    directory = context.create_outdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _computed(promise: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run; what failed is raised as cwltool's errors, which it reports."""
    try:
        result: dict[str, Any] = compute(promise, **settings)
    except FailedTasksError as error:
        kind = UnsupportedRequirement if any(map(_is_unsupported, error.failures)) else WorkflowException
        raise kind(str(error)) from error
    except ToilfnError as error:
        raise WorkflowException(str(error)) from error
    return result


def _is_unsupported(failure: object) -> bool:
    return isinstance(failure, Failure) and failure.message.startswith(f"{tools.__name__}.UnsupportedError")


def main(arguments: Sequence[str] | None = None, *, prog: str = "toilfn-cwl-runner") -> int:
    """Run a CWL document; gives the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default what this process was given.
    prog : str
        What the command is called in its help and its errors.
    """
    parser = make_parser()
    parser.prog = prog
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    provenance, options.provenance = options.provenance, None  # cwltool would write one of its own
    loading = LoadingContext(vars(options))
    loading.construct_tool_object = make_tool
    context = RuntimeContext(vars(options))
    context.secret_store = Sealed()
    executor: Any = Executor(options, provenance)
    try:
        return int(
            cwltool.main.main(
                args=options, executor=executor, loadingContext=loading, runtimeContext=context, versionfunc=_version,
                custom_schema_callback=lambda: use_schemas(extended=options.enable_ext),
            )
        )  # fmt: skip
    except ValidationException as error:  # there is no such document
        print(f"toilfn-cwl-runner: {error}", file=sys.stderr)
        return 1


def _version() -> str:
    return f"toilfn-cwl-runner {version('toilfn')}, cwltool {version('cwltool')}"
