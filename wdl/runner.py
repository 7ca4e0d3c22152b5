"""``toilfn-wdl-runner`` and ``toilfn wdl``."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from toilfn.settings import add_options, from_options
from toilfn.wdl import document, inputs
from toilfn.wdl.command import Machine
from toilfn.wdl.paths import is_url

__all__ = ["command", "configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("document", metavar="WDL", help="a path, a URL, or the id of a tool in a registry")
    parser.add_argument("words", metavar="INPUTS", nargs="*", help="a JSON file of inputs, or inputs as name=value")
    parser.add_argument("-i", "--input", "--inputs", action="append", default=[], dest="inputs",
                        help="a JSON file or URL, a JSON text, or name=value; may be given several times")  # fmt: skip
    parser.add_argument("-o", "--output-directory", "--outputDirectory", default="wdl-out", dest="directory",
                        help="a path or URL for the output files (default: wdl-out)")  # fmt: skip
    parser.add_argument("-m", "--output-file", "--outputFile", dest="file",
                        help="a file for the outputs' JSON; by default it is printed")  # fmt: skip
    parser.add_argument("--output-dialect", "--outputDialect", choices=("cromwell", "miniwdl"), default="cromwell",
                        dest="dialect", help="cromwell: the outputs; miniwdl: these in an object")  # fmt: skip
    parser.add_argument("--entrypoint", "--task", dest="entrypoint", metavar="NAME",
                        help="the task or workflow to run; by default the document's workflow")  # fmt: skip
    parser.add_argument("--container", default="auto",
                        help="docker, podman, singularity, apptainer, none, or auto for what is there")  # fmt: skip
    add_options(parser)


def command(options: argparse.Namespace) -> int:
    """Run a document."""
    from toilfn import compute
    from toilfn.wdl.outputs import deliver
    from toilfn.wdl.program import path_of, program
    from toilfn.wdl.tasks import start

    parsed = document.load_document(options.document)
    node = document.entrypoint(parsed, options.entrypoint)
    given, base = _given(node, [*options.inputs, *options.words])
    encoded = inputs.encode_inputs(node, given, base)
    outputs = start(program(document.source(parsed)), *path_of(parsed, node), encoded, Machine(options.container))
    settings = {"retries": 0, **from_options(options)}
    directory = options.directory if is_url(options.directory) else os.path.abspath(options.directory)
    _tell(options, directory, compute(deliver(outputs, node.name, directory, secrets.token_hex(8)), **settings))
    return 0


def _given(node: Any, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Read all inputs; later ones win. Also gives the directory of the last file of inputs."""
    given: dict[str, Any] = {}
    base = ""
    for word in words:
        if "=" in word and not word.lstrip().startswith("{") and not os.path.exists(word):
            continue
        given.update(inputs.read_inputs(word))
        base = os.path.dirname(os.path.abspath(word)) if os.path.exists(word) else os.path.dirname(word)
    pairs = [w for w in words if "=" in w and not w.lstrip().startswith("{") and not os.path.exists(w)]
    given.update(inputs.arguments(node, pairs))
    return given, base


def _tell(options: argparse.Namespace, directory: str, outputs: dict[str, Any]) -> None:
    told: Any = outputs
    if options.dialect == "miniwdl":
        told = {"outputs": outputs, "dir": directory}
    text = json.dumps(told, indent=2)
    if options.file:
        with open(options.file, "w", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
    else:
        print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``toilfn wdl`` by its other name."""
    from toilfn import cli

    return cli.main(["wdl", *(sys.argv[1:] if arguments is None else arguments)])
