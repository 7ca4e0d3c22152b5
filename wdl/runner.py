"""Run, check, or list the inputs of a document: the commands ``toilfn-wdl-runner`` and ``toilfn wdl``."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from toilfn.cli.common import add_dry_run, is_dry_run, print_plan
from toilfn.clusters import local_cluster
from toilfn.clusters.local.forkserver import fork_server
from toilfn.config.settings import Settings, add_options, from_options
from toilfn.errors import FailedTasksError, InputError, ResourceError
from toilfn.files.directory import Directory
from toilfn.files.exchange import Exports, Link, left
from toilfn.files.transfer import absolute
from toilfn.graph.task import task
from toilfn.moved import relocated
from toilfn.stdio import report
from toilfn.text import visible
from toilfn.units import parse_size
from toilfn.wdl import document, inputs
from toilfn.wdl.document import opened
from toilfn.wdl.paths import is_url, work_folder
from toilfn.wdl.problems import WDLError, reason, was_too_large
from toilfn.wdl.runtime import Machine, check_override
from toilfn.wdl.values import Entries, PathText, Stored

__all__ = ["Delivery", "add_others", "as_text", "command", "configure", "deliver", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``toilfn wdl`` under its other name, and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; by default that of this process.
    """
    from toilfn import cli

    return cli.main(["wdl", *(sys.argv[1:] if arguments is None else arguments)])


_USAGE = """\
toilfn wdl [run] DOCUMENT [INPUTS.json | NAME=VALUE ...] [options]   run a workflow
       toilfn wdl check DOCUMENT                                            report errors and warnings
       toilfn wdl inputs DOCUMENT                                           print a template for an input file"""

_CONTAINERS = ("auto", "docker", "podman", "singularity", "apptainer", "udocker", "none")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to the parser."""
    parser.usage = _USAGE
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]  # inputs may follow options
    parser.add_argument("document", metavar="DOCUMENT", help="path of a document or an archive, URL, or id of a tool "
                            "in a registry (TRS), such as github.com/owner/name:version")  # fmt: skip
    parser.add_argument("words", metavar="INPUTS", nargs="*", help="JSON file of inputs, or inputs as NAME=VALUE")
    _add_inputs(parser.add_argument_group("inputs"))
    _add_outputs(parser.add_argument_group("outputs"))
    _add_execution(parser.add_argument_group("execution"))
    _add_check(parser.add_argument_group("check DOCUMENT"))
    parser.add_argument_group("inputs DOCUMENT").add_argument(
        "--required", action="store_true", help="print only required inputs"
    )
    add_dry_run(parser)
    add_options(parser)
    add_others(parser)


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-i", "--input", "--inputs", action="append", default=[], dest="inputs",
                       help="JSON file, URL, - for standard input, JSON text, or NAME=VALUE (repeatable)")  # fmt: skip
    group.add_argument("--none", action="append", default=[], metavar="NAME", help="set an optional input to None")
    group.add_argument("--empty", action="append", default=[], metavar="NAME",
                       help="set an input to an empty String, Array or Map")  # fmt: skip
    group.add_argument("-p", "--path", action="append", default=[], help="directory to search for imports")
    group.add_argument("--entrypoint", "--task", dest="entrypoint", metavar="NAME",
                       help="task or workflow to run (default: the document's workflow)")  # fmt: skip
    group.add_argument("--reference-inputs", "--referenceInputs", action="store_true",
                       help="import input files as links instead of copies")  # fmt: skip
    group.add_argument("--run-imports-on-workers", "--runImportsOnWorkers", action="store_true",
                       help="let workers import input files, which they must be able to access")  # fmt: skip
    group.add_argument("--quant-check", "--quantCheck", action=argparse.BooleanOptionalAction, default=True,
                       help="check types for ? (optional) and + (non-empty), which is the default, or ignore "
                            "these marks")  # fmt: skip


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output-directory", "--outputDirectory", default="wdl-out", dest="directory",
                       help="path or URL for output files (default: wdl-out)")  # fmt: skip
    group.add_argument("-m", "--output-file", "--outputFile", dest="file",
                       help="file for the outputs as JSON (default: print them)")  # fmt: skip
    group.add_argument("--output-dialect", "--outputDialect", choices=("cromwell", "miniwdl"), default="cromwell",
                       dest="dialect", help="format of the JSON: cromwell for the outputs alone, miniwdl for an object "
                                            "with the outputs and their directory")  # fmt: skip
    group.add_argument("--use-relative-output-paths", action="store_true", dest="relative",
                       help="keep the paths of output files below the working directory of their command")  # fmt: skip
    how = group.add_mutually_exclusive_group()
    for word, text in (
        ("copy", "copy output files out of the store (the default)"),
        ("move", "move output files out of the store, leaving links to them"),
        ("leave", "leave output files in the store, and return their paths there"),
    ):
        how.add_argument(f"--{word}-outputs", action="store_const", const=word, dest="how", default="copy", help=text)
    group.add_argument("--all-call-outputs", "--allCallOutputs", action="store_true",
                       help="also deliver the outputs of all calls of the workflow")  # fmt: skip


def _add_check(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--strict", action="store_true", help="end with exit status 2 if there are warnings")
    group.add_argument("--suppress", default="", metavar="KINDS",
                       help="leave out these warnings, such as UnusedDeclaration,CommandShellCheck")  # fmt: skip


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ResourceError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_execution(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--container", choices=_CONTAINERS, default="auto",
                       help="container engine for commands (default: auto, the first engine that works)")  # fmt: skip
    group.add_argument("--default-container", default=Machine.image, metavar="IMAGE",
                       help=f"image for tasks that name none (default: {Machine.image})")  # fmt: skip
    group.add_argument("--as-root", action="store_true",
                       help="run commands as root in their containers, for example to install packages")  # fmt: skip
    group.add_argument("--runtime-defaults", metavar="JSON", default="{}",
                       help="runtime attributes for tasks that do not have them: a file, or a text such "
                                                   "as '{\"maxRetries\": 2}'")  # fmt: skip
    group.add_argument("--runtime-cpu-max", metavar="N", type=float,
                       help="maximum number of cores of a task, even if it requests more")  # fmt: skip
    group.add_argument("--runtime-memory-max", metavar="SIZE", type=_size,
                       help="maximum memory of a task, even if it requests more")  # fmt: skip
    group.add_argument(
        "--copy-input-files", action="store_true", help="give commands copies of their inputs that they may change"
    )
    group.add_argument("--call-cache", metavar="DIR", default=os.environ.get("TOILFN_WDL_CALL_CACHE"),
                       help="directory of a cache of finished calls, shared by several runs")  # fmt: skip
    group.add_argument("--no-cache", action="store_true", help="do not use this cache")


_INSTEAD = {
    ("--env",): "--set-env NAME=VALUE, or --set-env NAME",
    ("-d", "--dir"): "-o DIR for the outputs, and --store DIR to keep the run",
    ("--as-me",): "no option, since commands run as you unless you pass --as-root",
    ("--cfg",): "options, or --config with a file from 'toilfn config'",
    ("--copy-input-files-for",): "--copy-input-files, which applies to all tasks",
    ("--error-json", "--log-json"): "--store DIR, and then 'toilfn events DIR', which prints all events as JSON lines",
    ("-j",): "'toilfn wdl inputs DOCUMENT', which prints a template for an input file",
    ("-v", "--verbose", "--debug"): "--stream-logs for the output of commands, and --log-level debug",
    ("--no-color",): "--no-progress; other output has no colours",
    ("--metadata-output",): "--store DIR, and then 'toilfn stats DIR' or 'toilfn report DIR'",
    ("--options",): "options: -o DIR for final_workflow_outputs_dir, --use-relative-output-paths, --runtime-defaults",
    ("--imports",): "-p DIR, with the archive unpacked there",
}
"""Options of miniwdl and Cromwell, and what to use instead."""


def add_others(parser: argparse.ArgumentParser) -> None:
    """Add the options of other runners, which are refused with an explanation."""
    for flags, instead in _INSTEAD.items():
        parser.add_argument(*flags, action=_Refused, nargs="?", const=instead, help=argparse.SUPPRESS)


class _Refused(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        parser.error(f"{option_string} is an option of another runner; instead use {self.const}")


def command(options: argparse.Namespace) -> int:
    """Run a document, check it, or print its inputs."""
    if options.document == "run" and options.words:  # as in other runners
        options.document = options.words.pop(0)
    if options.document in ("check", "inputs") and (options.words or not os.path.exists(options.document)):
        return _inspect(options)
    place, first = opened(options.document)
    options.inputs = [*first, *options.inputs]
    parsed = document.load_document(place, path=options.path, strict=options.quant_check)
    node = document.entrypoint(parsed, options.entrypoint)
    from toilfn import compute

    if is_dry_run(options):
        promise = _outputs(options, parsed, node)
        settings = {"workflow": node.name, **from_options(options)}
        return print_plan(compute(promise, dry_run=True, **settings), as_json=options.json)
    promise = _promise(options, parsed, node)
    try:
        with _settings(options, node.name) as settings:
            outputs = compute(promise, **settings)
    except FailedTasksError as error:
        _report_failures(error)
        return 1
    if not options.file:
        print(as_text(outputs), end="")
    return 0


_MOST_FAILURES = 10
"""Number of failures to report; there may be one for each item of a scatter."""


def _report_failures(error: FailedTasksError) -> None:
    lines = [reason(failure, name) for failure, name in zip(error.failures[:_MOST_FAILURES], error.names, strict=False)]
    if len(error.failures) > _MOST_FAILURES:
        lines.append(f"and {len(error.failures) - _MOST_FAILURES} more: toilfn status {error.store} --failed")
    if any(map(was_too_large, error.failures)):
        lines.append("--runtime-cpu-max and --runtime-memory-max limit the resources of tasks")
    lines.append(f"to see the log of a task: toilfn logs {error.store} TASK")
    lines.append(f"completed work is kept; to resume: toilfn resume {error.store}")
    for line in lines:
        report(visible(f"toilfn: {line}"))


def _make_directories(*places: str) -> None:
    """Create the output directories before anything runs, to detect errors early."""
    for place in places:
        try:
            if not is_url(place):
                os.makedirs(place, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write the outputs to {place}: {error.strerror}") from None


@contextmanager
def _settings(options: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    """Yield the settings of the run; on this machine, with forked workers, which need not load the modules again."""
    settings = {"retries": 0, "workflow": name, **from_options(options)}
    resolved = Settings.resolve(**settings)
    # A fork server must be forked before any thread is started.
    is_here = resolved.cluster in (None, "local") and threading.active_count() == 1
    launcher = fork_server() if is_here else None
    if launcher is None:
        yield settings
        return
    with closing(launcher):
        yield {**settings, "cluster": local_cluster(resolved, launcher=launcher)}


def _promise(options: argparse.Namespace, parsed: Any, node: Any) -> Any:
    """Return the promise of the delivered outputs."""
    outputs = _outputs(options, parsed, node)
    directory = options.directory if is_url(options.directory) else os.path.abspath(options.directory)
    file = os.path.abspath(options.file) if options.file else None
    _make_directories(directory, os.path.dirname(file or directory))
    return deliver(
        outputs,
        node.name,
        Delivery(directory, file, options.dialect, options.relative, secrets.token_hex(8), options.how),
    )


def _outputs(options: argparse.Namespace, parsed: Any, node: Any) -> Any:
    """Return the promise of the outputs before delivery."""
    from toilfn.wdl.tasks import start

    given, base = _given(node, [*options.inputs, *options.words])
    given |= dict.fromkeys(options.none) | {name: inputs.empty(node, name) for name in options.empty}
    link: Link | None = "symlink" if options.reference_inputs else None
    encoded = inputs.encode_inputs(node, given, base, link=link, on_workers=options.run_imports_on_workers)
    return start(parsed, node, encoded, _machine(options), alone=True)


def _machine(options: argparse.Namespace) -> Machine:
    defaults = inputs.read_inputs(options.runtime_defaults)
    for name, value in defaults.items():
        check_override("runtime", name, value)
    most = {"cores": options.runtime_cpu_max, "memory": options.runtime_memory_max}
    return Machine(
        container=options.container,
        image=options.default_container,
        copy_inputs=options.copy_input_files,
        as_root=options.as_root,
        cache=None if options.no_cache or not options.call_cache else os.path.abspath(options.call_cache),
        all_outputs=options.all_call_outputs,
        defaults=defaults,
        most={name: value for name, value in most.items() if value is not None},
    )


def _inspect(options: argparse.Namespace) -> int:
    """Run ``toilfn wdl check`` or ``toilfn wdl inputs``."""
    if len(options.words) != 1:
        raise InputError(f"toilfn wdl {options.document} takes exactly one document")
    parsed = document.load_document(opened(options.words[0]).document, path=options.path, strict=options.quant_check)
    if options.document == "inputs":
        node = document.entrypoint(parsed, options.entrypoint)
        print(json.dumps(inputs.template(node, only_required=options.required), indent=2))
        return 0
    warnings = document.lint(parsed, options.suppress.split(","))
    for line in warnings:
        print(line)
    return 2 if warnings and options.strict else 0


_PAIR = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")
"""The beginning of ``NAME=VALUE``; in a URL, a colon comes first."""


def _given(node: Any, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Read all inputs, of which later ones take precedence; also return the directory or URL of the last input file."""
    given: dict[str, Any] = {}
    pairs, base = [], ""
    for word in words:
        if _PAIR.match(word) and not os.path.exists(word):
            pairs.append(word)
            continue
        given.update(inputs.read_inputs(word))
        if word != "-" and not word.lstrip().startswith("{"):
            base = os.path.dirname(word if is_url(word) else os.path.abspath(word))
    return {**given, **inputs.arguments(node, pairs)}, base


@dataclass(frozen=True)
class Delivery:
    """The destination of a run's outputs. It is an argument of a task, so a resumed run delivers to the same place.

    Attributes
    ----------
    directory : str
        The path or URL for files.
    file : str or None
        The file for the JSON.
    dialect : {"cromwell", "miniwdl"}
        Whether the JSON is just the outputs (cromwell), or an object that contains them (miniwdl).
    is_relative : bool
        Whether files keep their paths relative to the working directory of their command; otherwise each is written to
        a folder named after its output.
    run : str
        A text unique to the run, so that each run delivers its files again: those of an earlier run may be gone.
    how : {"copy", "move", "leave"}
        Whether files are copied, moved (leaving links in the store), or left in the store.
    """

    directory: str
    file: str | None
    dialect: str
    is_relative: bool
    run: str
    how: str = "copy"


@task(cores=0.1, memory="256M", local=True, version="2", delivers=True)
def deliver(outputs: Mapping[str, Any], name: str, delivery: Delivery) -> dict[str, Any]:
    """Export all files in outputs, and return the outputs as JSON values.

    Parameters
    ----------
    outputs : mapping
        The encoded outputs by name.
    name : str
        The name of the workflow, which is the prefix of the names of outputs.
    delivery : Delivery
        The destination.
    """
    full = {f"{name}.{output}": plain for output, plain in outputs.items()}
    delivery = replace(
        delivery, directory=absolute(delivery.directory), file=delivery.file and relocated(delivery.file)
    )
    directory = delivery.directory.rstrip("/")
    with Exports(move=delivery.how == "move") as exports:
        put = _put(directory, delivery, exports)
        found = {output: _json(plain, f"{directory}/{output}", put) for output, plain in full.items()}
    result = {"outputs": found, "dir": delivery.directory} if delivery.dialect == "miniwdl" else found
    if delivery.file is not None:
        with open(delivery.file, "w", encoding="utf-8") as stream:
            stream.write(as_text(result))
    return result


def as_text(result: Mapping[str, Any]) -> str:
    """Return outputs as a JSON text."""
    return json.dumps(result, indent=2) + "\n"


Put = Callable[[Stored, str], str]
"""A function that exports a file or directory, given its position in the outputs, and returns its path or URL."""


def _put(directory: str, delivery: Delivery, exports: Exports) -> Put:
    if delivery.how == "leave":
        return _leave
    return _by_working_directory(directory, exports) if delivery.is_relative else _in_own_folder(exports)


def _leave(stored: Stored, place: str) -> str:
    if isinstance(stored.content, Directory):
        raise WDLError(
            f"output {stored.content.name} is a directory, which has no single location in the store",
            hint="leave out --leave-outputs",
        )
    return left(stored.content)


def _in_own_folder(exports: Exports) -> Put:
    return lambda stored, place: exports.add(stored.content, f"{place}/")


def _by_working_directory(directory: str, exports: Exports) -> Put:
    """Return a function that keeps the paths of files relative to the working directory of their command."""
    taken: dict[str, tuple[Stored, str]] = {}

    def put(stored: Stored, place: str) -> str:
        folder = os.path.join(directory, work_folder(stored.folder))
        other, output = taken.setdefault(f"{folder}/{stored.content.name}", (stored, place))
        if other.content != stored.content:
            names = " and ".join(each.removeprefix(f"{directory}/") for each in (output, place))
            raise WDLError(f"{names} are both {stored.content.name}", hint="leave out --use-relative-output-paths")
        return exports.add(stored.content, f"{folder}/")

    return put


_PLAIN = re.compile(r"\w+")
"""Names of members that are safe as folder names; those of an Object may come from a file and be any text."""


def _json(plain: Any, place: str, put: Put) -> Any:
    if isinstance(plain, PathText):
        return put(plain.file, place)
    if isinstance(plain, Stored):
        return put(plain, place)
    if isinstance(plain, list):
        return [_json(item, f"{place}/{number}", put) for number, item in enumerate(plain)]
    if isinstance(plain, tuple):
        return {"left": _json(plain[0], f"{place}/left", put), "right": _json(plain[1], f"{place}/right", put)}
    if isinstance(plain, Entries):
        pairs = ((_key(key), item) for key, item in plain.items)
        return {key: _json(item, f"{place}/{number}", put) for number, (key, item) in enumerate(pairs)}
    if isinstance(plain, dict):
        return {
            name: _json(item, f"{place}/{name if _PLAIN.fullmatch(name) else number}", put)
            for number, (name, item) in enumerate(plain.items())
        }
    return plain


def _key(plain: Any) -> str:
    """Return a key of a Map as text, for JSON."""
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float):
        return f"{plain:.6f}"
    if isinstance(plain, Stored):
        return f"{plain.folder}/{plain.content.name}"
    return str(plain)
