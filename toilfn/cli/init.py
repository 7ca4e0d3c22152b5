"""``toilfn init [DIRECTORY]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from toilfn.errors import InputError

__all__ = ["command", "configure"]

_SCRIPT = '''\
"""Count the words of texts, and add the counts up."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import toilfn as toil


@dataclass
class Params:
    texts: list[Path] = field(default_factory=lambda: [Path("example.txt")])
    """The texts."""


count = toil.shell("wc -w < {text}", name="count", cores=1, memory="100M")


@toil.task(memory="100M")
def total(counts: list[str]) -> int:
    return sum(map(int, counts))


def workflow(texts: list[Path]) -> int:
    return total(count.map([toil.input(text) for text in texts]))


if __name__ == "__main__":
    print(toil.compute(workflow(toil.params(Params).texts)))
'''

_CONFIG = """\
# Settings of this project: toilfn run --config toilfn.yaml flow.py
# `toilfn config` prints all settings, `toilfn config show --config toilfn.yaml` the values in effect.
toilfn:
  store: run1

  profiles:
    # toilfn run --config toilfn.yaml --profile hpc flow.py
    hpc:
      cluster: slurm
      # slurm:
      #   partition: long
"""

_TEST = '''\
"""Run with: pytest"""

from pathlib import Path

import toilfn as toil

from flow import total, workflow


def test_the_function_of_a_task():
    assert total.__wrapped__(["1\\n", "2\\n"]) == 3


def test_the_workflow(tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("one two three")
    assert toil.compute(workflow([text]), store=tmp_path / "run", cluster="inline") == 3
'''

_FILES = {
    "flow.py": _SCRIPT,
    "toilfn.yaml": _CONFIG,
    "test_flow.py": _TEST,
    "example.txt": "one word and two words\n",
    ".gitignore": "run1/\n",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        nargs="?",
        default=".",
        help="directory of the project (default: the current directory)",
    )


def command(options: argparse.Namespace) -> int:
    """Write a small project: a script, its settings, and a test.

    Raises
    ------
    InputError
        If one of the files already exists. Then nothing is written.
    """
    folder = Path(options.directory)
    there = [name for name in _FILES if (folder / name).exists()]
    if there:
        raise InputError(f"{folder / there[0]} exists", hint="name a new directory: toilfn init DIRECTORY")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in _FILES.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    enter = "" if options.directory == "." else f"cd {folder} && "
    print(f"wrote {', '.join(_FILES)}")
    print(f"run it:      {enter}toilfn run --config toilfn.yaml flow.py")
    print("dry run:     toilfn run --config toilfn.yaml --dry-run flow.py")
    return 0
