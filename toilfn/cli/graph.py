"""``toilfn graph`` of a store, a script, or a CWL or WDL document."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from toilfn.cli.common import named_options, open_view, output_file
from toilfn.cli.run import add_parameters, sketch_script
from toilfn.errors import InputError
from toilfn.inspect.drawing import Drawing, Step, as_tasks, draw
from toilfn.inspect.view import TaskInfo
from toilfn.stores import open_store

__all__ = ["command", "configure"]

_MOST_BOXES = 50
"""Maximum number of tasks in a picture that has one box for each task."""

_DOCUMENTS = {".cwl": "toilfn.cwl.sketch", ".wdl": "toilfn.wdl.sketch"}
"""The modules that read documents, by the extensions of the documents."""

_PICTURES = ("svg", "png", "pdf")
_FORMATS = ("text", "dot", *_PICTURES)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "toilfn graph (STORE | SCRIPT | DOCUMENT) [flags] [-- the script's own arguments]"
    parser.epilog = (
        "For a store, the picture shows the present state of the newest run. A script (a name that ends in .py) runs "
        "up to its first compute that has something to run, but no task runs; tasks that other tasks create are "
        "therefore missing. Of a CWL or WDL document (.cwl, .wdl), the picture shows the steps of all its workflows, "
        "without inputs. Pictures need the command dot of Graphviz."
    )
    parser.add_argument(
        "source", metavar="STORE", help="path or URL of a job store or of a CWL or WDL document, or a Python script"
    )
    parser.add_argument(
        "--format", choices=_FORMATS, help="output format (default: by the name of the output file, else text)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=output_file, help="write the graph to this file instead of printing it"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="draw every task (default: one box for all tasks of a name in text, and in pictures of more than "
        f"{_MOST_BOXES} tasks); very many parallel tasks become a table",
    )
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--entrypoint", "--task", dest="entrypoint", metavar="NAME",
        help="part of the document to draw (default: its workflow)",
    )  # fmt: skip
    group.add_argument(
        "-p", "--path", metavar="DIR", action="append", default=[], help="directory to search for imports of WDL"
    )
    add_parameters(parser)


def command(options: argparse.Namespace) -> int:
    """Draw the tasks of a script, those of the newest run of a store, or the steps of a document.

    Raises
    ------
    InputError
        If a picture cannot be drawn, or the script calls no `compute`.
    """
    format = options.format or _format_of(options.output)
    if format in ("png", "pdf") and options.output is None:
        raise InputError(f"{format} is not text", hint=f"name a file for it: -o graph.{format}")
    if options.source.endswith(".py"):
        options.script, options.module = options.source, None
        status, tasks = sketch_script(options)
        if status:
            return status
        if not tasks:
            raise InputError(f"{options.source} has not called toilfn.compute, so there is no graph to draw")
        drawing = _drawing(tasks, format, every=options.all)
    elif (steps := _steps(options)) is not None:
        drawing = _drawing_of_steps(steps, format, every=options.all)
    else:
        tasks = open_view(open_store(options.source, create=False, **named_options(options))).current()
        drawing = _drawing(tasks, format, every=options.all)
    _write(drawing, format, options.output)
    return 0


def _steps(options: argparse.Namespace) -> list[Step] | None:
    """Return the steps of a document; None if the source is not one."""
    document = Path(options.source.partition("#")[0])
    if document.suffix not in _DOCUMENTS or document.is_dir():
        return None
    paths = {"path": options.path} if document.suffix == ".wdl" else {}
    found: list[Step] = import_module(_DOCUMENTS[document.suffix]).steps_of(options.source, options.entrypoint, **paths)
    return found


def _format_of(output: Path | None) -> str:
    """Return the format for an output file, by the extension of its name.

    Raises
    ------
    InputError
        If the extension is not that of a known format.
    """
    ending = output.suffix.lower().removeprefix(".") if output else ""
    if ending in ("", "txt"):
        return "text"
    if ending not in _FORMATS:
        raise InputError(
            f"{output}: unknown format {ending!r}",
            hint=f"end the name with .{', .'.join((*_PICTURES, 'dot'))} or .txt, or use --format",
        )
    return ending


def _drawing(tasks: list[TaskInfo], format: str, *, every: bool) -> Drawing:
    is_small = format != "text" and len(tasks) <= _MOST_BOXES
    return draw(tasks, every_task=lambda _: every or is_small)


def _drawing_of_steps(steps: list[Step], format: str, *, every: bool) -> Drawing:
    return draw(as_tasks(steps, by_kind=not every and len(steps) > _MOST_BOXES))


def _write(drawing: Drawing, format: str, output: Path | None) -> None:
    texts: dict[str, Callable[[], str]] = {"text": drawing.text, "dot": drawing.dot}
    data = texts[format]().encode() if format in texts else drawing.picture(format)
    if output is None:
        sys.stdout.write(data.decode())
    else:
        output.write_bytes(data)
