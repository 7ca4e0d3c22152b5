"""``toilfn-cwl-runner``: the command line of cwltool, with an executor that runs toilfn.

cwltool reads the options, the document and the inputs, and prints the result; the executor is ours.
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

import cwltool.main
from cwltool.argparser import arg_parser
from cwltool.context import LoadingContext, RuntimeContext
from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.process import Process
from cwltool.utils import DEFAULT_TMP_PREFIX
from schema_salad.exceptions import ValidationException

from toilfn.api import compute
from toilfn.cli.common import add_dry_run, is_dry_run, print_plan
from toilfn.clusters import local_cluster
from toilfn.clusters.local.forkserver import fork_server
from toilfn.config.settings import Settings, add_options, from_options
from toilfn.cwl import steps, tools, values
from toilfn.cwl.adapters import Fetcher, make_tool, patch_cwltool
from toilfn.cwl.documents import EncryptedSecrets, ToolOptions, bundle, refuse_unsupported, updates_in_place
from toilfn.cwl.outputs import deliver
from toilfn.cwl.schemas import use_schemas
from toilfn.errors import FailedTasksError, ToilfnError
from toilfn.files import transfer
from toilfn.model.records import Failure
from toilfn.stdio import report, unfailing_standard_error
from toilfn.stores import open_store

__all__ = ["Executor", "Recording", "implied_settings", "main", "make_parser"]


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
    recording, options.provenance = Recording(options.provenance, options), None  # cwltool must not write one, too
    loading, context = LoadingContext(vars(options)), RuntimeContext(vars(options))
    loading.construct_tool_object = make_tool
    loading.fetcher_constructor = Fetcher
    patch_cwltool()
    context.secret_store = EncryptedSecrets()
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
        ready = values.resolved(process, job, context)
        self._recording.begin(process)
        if is_dry_run(options):
            sys.exit(self._plan(process, ready, context, nonce, bypass))
        with _shared(context) if bypass else nullcontext("") as shared, self._settings(process) as settings:
            outputs = self._outputs(process, ready, ToolOptions.of(context, shared), nonce, bypass)
            outdir = transfer.absolute(options.dest_bucket or context.outdir or os.getcwd())
            result = _computed(deliver(outputs, outdir, shared, nonce, options.move_outputs), settings)
            self._recording.end(process, ready, result, settings)
            return result, "success"

    def _outputs(self, process: Process, ready: dict[str, Any], options: ToolOptions, nonce: str, bypass: bool) -> Any:
        """Build the promise of the outputs before their delivery."""
        reuse = not (self._options.no_reuse or bypass)
        part = bundle(process, options, values.document_files(process), nonce, reuse=reuse)
        return steps.begin(part, values.imported(ready, bypass=bypass))

    def _plan(self, process: Process, ready: dict[str, Any], context: RuntimeContext, nonce: str, bypass: bool) -> int:
        """Print what would run; return the exit status."""
        outputs = self._outputs(process, ready, ToolOptions.of(context, ""), nonce, bypass)
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


def make_parser(program: str = "toilfn-cwl-runner") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = arg_parser()
    parser.prog = program
    parser.description = (
        "Run a document in the Common Workflow Language, with the options of cwltool and toilfn. "
        "To continue an interrupted run: toilfn resume STORE"
    )
    parser.set_defaults(move_outputs="copy")  # keep the files in the store by default
    _add_own(parser.add_argument_group("toilfn: CWL"))
    add_dry_run(parser)
    add_options(parser, leave_out=("workflow",))
    return parser


def implied_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Translate options of cwltool into settings of toilfn.

    Temporary directories are created in the directory of ``--tmpdir-prefix``; the rest of the prefix is ignored, since
    toilfn chooses their names.
    """
    prefixes = (options.tmpdir_prefix, options.tmp_outdir_prefix)
    prefix = next((one for one in prefixes if one not in ("", DEFAULT_TMP_PREFIX)), "")
    settings = {
        "work_dir": os.path.dirname(os.path.join(os.getcwd(), prefix)) if prefix else None,
        "clean_work_dir": None if options.rm_tmpdir else "never",
        "workers": options.parallel_max or None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _add_own(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--docker", action="store_true", help="run containers with docker (the default)")
    group.add_argument(
        "--no-reuse", action="store_true", help="run everything, even if an earlier run on the store has finished it"
    )
    group.add_argument(
        "--bypass-file-store",
        action="store_true",
        help="leave files in directories that all machines share, instead of copying them into the store",
    )
    group.add_argument(
        "--disable-streaming",
        action="store_true",
        help="copy inputs that a document marks as streamable, too, instead of passing them through named pipes",
    )
    group.add_argument(
        "--dest-bucket", "--destBucket", metavar="URL", help="same as --outdir, for a URL such as s3://bucket/run"
    )


class Recording:
    """The research object of a run, if one is requested.

    Parameters
    ----------
    directory : str, optional
        The directory to create; without one, nothing is recorded.
    options : argparse.Namespace
        The options of the command line, which say what may be recorded about the user.
    """

    def __init__(self, directory: str | None, options: argparse.Namespace) -> None:
        self._directory = directory
        self._options = options
        self._document: Any = None

    @contextmanager
    def readable(self, resolved: Settings) -> Iterator[dict[str, Any]]:
        """Yield additional settings for the run, so that its store can be read afterwards.

        If no store is set, a temporary one is created, which is removed after success.

        Raises
        ------
        WorkflowException
            If the user's settings remove the store after the run.
        """
        if self._directory is None:
            yield {}
        elif resolved.store is None:
            store = tempfile.mkdtemp(prefix="toilfn-")
            yield {"store": store, "clean": "never"}
            shutil.rmtree(store, ignore_errors=True)
        elif resolved.clean in ("always", "onSuccess"):
            raise WorkflowException(f"--provenance reads the store after the run; leave out --clean {resolved.clean}")
        else:
            yield {}

    def begin(self, process: Process) -> None:
        """Save the loaded document, before it is packed for tasks."""
        if self._directory is not None:
            from toilfn.cwl import provenance

            self._document = provenance.packed(process)

    def end(
        self, process: Process, inputs: dict[str, Any], result: dict[str, Any], settings: Mapping[str, Any]
    ) -> None:
        """Write the research object from the store of a successful run."""
        if self._directory is None:
            return
        from toilfn.cwl import provenance

        options, resolved = self._options, Settings.resolve(**settings)
        name = options.cwl_full_name or (getpass.getuser() if options.user_provenance else "")
        agent = provenance.Agent(name, options.orcid or "", options.host_provenance)
        store = open_store(str(resolved.store), create=False, **(resolved.store_options or {}))
        record = provenance.Record(process, self._document, inputs, result, agent)
        provenance.write(self._directory, record, store)
