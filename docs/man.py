"""Manual pages, made from the parsers of the commands: ``python docs/man.py FOLDER`` (``make man`` writes ``man/``)."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from toilfn import __version__  # noqa: E402
from toilfn.cli import COMMANDS, overview, parser_of  # noqa: E402
from toilfn.config.flags import add_all_flags  # noqa: E402


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page: one for toilfn, and one for each command."""
    summary = "functions become durable workflows"
    others = [f"toilfn-{name}" for name in COMMANDS]
    yield "toilfn.1", page(overview(), summary, others)
    for name, (_, summary) in COMMANDS.items():
        parser = parser_of(name)
        add_all_flags(parser)
        yield f"toilfn-{name}.1", page(parser, summary, ["toilfn"])


def page(parser: argparse.ArgumentParser, summary: str, others: list[str]) -> str:
    """Return a manual page in the language of troff."""
    name = parser.prog.replace(" ", "-")
    usage = parser.format_usage().removeprefix("usage: ").strip()
    lines = [
        f'.TH "{escaped(name.upper())}" 1 "" "toilfn {__version__}" "toilfn"',
        ".SH NAME", f"{escaped(name)} \\- {escaped(summary)}",
        ".SH SYNOPSIS", ".nf", escaped(usage), ".fi",
        ".SH DESCRIPTION", *paragraph(parser.description or ""),
    ]  # fmt: skip
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        if actions:
            lines += [
                f'.SH "{escaped((group.title or "options").upper())}"',
                *(entry(parser, each) for each in actions),
            ]
    if parser.epilog:
        lines += [".SH NOTES", *paragraph(parser.epilog)]
    lines += [".SH SEE ALSO", ", ".join(f"{escaped(other)}(1)" for other in others)]
    return "\n".join(lines) + "\n"


def entry(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the paragraph of an argument."""
    formatter = parser._get_formatter()
    head = formatter._format_action_invocation(action)
    text = formatter._expand_help(action) if action.help else ""
    return f".TP\n.B {escaped(head)}\n{escaped(text) or chr(92) + '&'}"


def paragraph(text: object) -> list[str]:
    """Return text, or what rich draws, such as a table; lines stay as they are if there are several."""
    lines = escaped((text if isinstance(text, str) else drawn(text)).strip())
    return [".nf", lines, ".fi"] if "\n" in lines else [lines]


def drawn(table: object) -> str:
    """Return what rich draws as plain text, lines and corners in ASCII."""
    written = io.BytesIO()
    with io.TextIOWrapper(written, "ascii", write_through=True) as stream:
        Console(file=stream, width=78, color_system=None).print(table)
        text = written.getvalue().decode()
    return "\n".join(line.rstrip() for line in text.splitlines())


def escaped(text: str) -> str:
    """Return text in which nothing is an instruction of troff's."""
    text = re.sub(r"\s*\n\s*\n+", "\n\n", text).replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def main(folder: Path) -> None:
    """Write all pages into a folder."""
    os.environ["COLUMNS"] = "80"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
