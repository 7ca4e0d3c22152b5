"""The executor for a run of a loaded document, which cwltool's command line calls instead of its own executors."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from cwltool.context import RuntimeContext
from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.process import Process

from toilfn.api import compute
from toilfn.cli.common import is_dry_run, print_plan
from toilfn.clusters import local_cluster
from toilfn.clusters.local.forkserver import fork_server
from toilfn.config.settings import Settings, from_options
from toilfn.cwl import inputs, steps, tools
from toilfn.cwl.documents import bundle, refuse_unsupported, updates_in_place
from toilfn.cwl.engine import Engine
from toilfn.cwl.options import implied_settings
from toilfn.cwl.outputs import deliver
from toilfn.cwl.recording import Recording
from toilfn.errors import FailedTasksError, ToilfnError
from toilfn.files import transfer
from toilfn.model.records import Failure

__all__ = ["Executor"]


class Executor:
    """Runs a loaded process with its inputs.

    Parameters
    ----------
    options : argparse.Namespace
        The options of the command line.
    recording : Recording
        The record of the run for ``--provenance``.
    """

    def __init__(self, options: argparse.Namespace, recording: Recording) -> None:
        self._options = options
        self._recording = recording

    def __call__(
        self, process: Process, job: dict[str, Any], context: RuntimeContext, logger: object = None
    ) -> tuple[dict[str, Any] | None, str]:
        """Run a process; return the result object and the status."""
        refuse_unsupported(process)
        options, nonce = self._options, secrets.token_hex(8)
        bypass = options.bypass_file_store or updates_in_place(process)
        ready = inputs.resolved(process, job, context)
        self._recording.begin(process)
        if is_dry_run(options):
            sys.exit(self._plan(process, ready, context, nonce, bypass))
        with _shared(context) if bypass else nullcontext("") as shared, self._settings(process) as settings:
            outputs = self._outputs(process, ready, Engine.of(context, shared), nonce, bypass)
            outdir = transfer.absolute(options.dest_bucket or context.outdir or os.getcwd())
            result = _computed(deliver(outputs, outdir, shared, nonce, options.move_outputs), settings)
            self._recording.end(process, ready, result, settings)
            return result, "success"

    def _outputs(self, process: Process, ready: dict[str, Any], engine: Engine, nonce: str, bypass: bool) -> Any:
        """Build the promise of the outputs before their delivery."""
        reuse = not (self._options.no_reuse or bypass)
        part = bundle(process, engine, inputs.document_files(process), nonce, reuse=reuse)
        return steps.begin(part, inputs.imported(ready, bypass=bypass))

    def _plan(self, process: Process, ready: dict[str, Any], context: RuntimeContext, nonce: str, bypass: bool) -> int:
        """Print what would run; return the exit status."""
        outputs = self._outputs(process, ready, Engine.of(context, ""), nonce, bypass)
        settings = {"workflow": process.tool["id"], **implied_settings(self._options), **from_options(self._options)}
        return print_plan(compute(outputs, dry_run=True, **settings), as_json=self._options.json)

    @contextmanager
    def _settings(self, process: Process) -> Iterator[dict[str, Any]]:
        """Yield the settings of the run; on this machine, with forked workers, which need not load cwltool again."""
        quiet = {"progress": False} if self._options.quiet else {}
        own = implied_settings(self._options) | from_options(self._options)
        settings = {"workflow": process.tool["id"], **quiet, **own}
        resolved = Settings.resolve(**settings)
        with self._recording.readable(resolved) as more, self._on_cluster({**settings, **more}, resolved) as complete:
            yield complete

    @contextmanager
    def _on_cluster(self, settings: dict[str, Any], resolved: Settings) -> Iterator[dict[str, Any]]:
        if resolved.cluster not in (None, "local"):
            yield settings
            return
        launcher, strict = fork_server(), self._options.strict_memory_limit
        if launcher is None:
            yield {**settings, "cluster": local_cluster(resolved, watch_memory=strict)}
            return
        with closing(launcher):
            yield {**settings, "cluster": local_cluster(resolved, launcher=launcher, watch_memory=strict)}


@contextmanager
def _shared(context: RuntimeContext) -> Iterator[str]:
    """Create a directory for files outside the store, and remove it after success; resuming a failed run needs it."""
    directory = context.create_outdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _computed(promise: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the result; convert errors to those of cwltool, which reports them."""
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
