"""Generated pages of the site: the reference, made from the code, and pages that live elsewhere in the repository.

`mkdocs.yml` names this module as a hook, so ``mkdocs build`` calls the functions whose names begin with ``on_``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
"""A relative link: an exclamation mark for a picture, its text, its target, and its anchor."""

ELSEWHERE = {
    "index.md": "README.md",
    "reference/format.md": "stores/FORMAT.md",
    "reference/performance.md": "benchmarks/README.md",
}
"""Pages of the site that are files of the repository outside of ``docs``."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to files that the site does not have lead to the repository, or nowhere if that has no address."""
    source = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return relocated(markdown, source, page.file.src_uri, set(files.src_uris))


def relocated(markdown: str, source: str, uri: str, known: set[str]) -> str:
    """Return a page with its links as they must be where it is on the site.

    Parameters
    ----------
    markdown : str
        The page.
    source : str
        Its file, relative to the repository.
    uri : str
        Its place on the site.
    known : set of str
        All places on the site.
    """
    homes = {path: name for name, path in ELSEWHERE.items()}

    def replaced(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        place = homes.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if path == "docs/decisions":
            place = "reference/decisions.md"
        if place in known:
            return f"{picture}[{text}]({os.path.relpath(place, os.path.dirname(uri) or '.')}{anchor})"
        if source.startswith("docs/reference/"):
            return found[0]
        address = repository()
        return f"[{text}]({address}/blob/main/{path}{anchor})" if address else text

    return _outside_of_code(_LINK, replaced, markdown)


def _outside_of_code(pattern: re.Pattern[str], replaced: Callable[[re.Match[str]], str], markdown: str) -> str:
    pieces = re.split(r"((?s:```.*?```)|`[^`\n]+`(?!\]))", markdown)
    return "".join(piece if number % 2 else pattern.sub(replaced, piece) for number, piece in enumerate(pieces))


def repository() -> str | None:
    """Return the address of the repository, which `pyproject.toml` alone knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address: str | None = project.get("urls", {}).get("Source")
    return address


def pages() -> dict[str, str]:
    """Return the pages that are made, by their places."""
    made = {name: (ROOT / path).read_text() for name, path in ELSEWHERE.items()}
    made["reference/python.md"] = _names("Python", _python_names())
    made["reference/clusters.md"] = _names("Clusters", _cluster_names()) + _cluster_settings()
    made["reference/exceptions.md"] = _names("Exceptions", _exception_names())
    made["reference/commands.md"] = _commands()
    made["reference/settings.md"] = _settings()
    made["reference/decisions.md"] = _decisions()
    return made


def homes() -> dict[str, str]:
    """Return the full name of each public name: where it is defined."""
    import toilfn

    found = {name: f"{getattr(toilfn, name).__module__}.{name}" for name in toilfn.__all__ if name != "__version__"}
    return found | {"task": "toilfn.graph.task.task", "Promise": "toilfn.graph.promise.Promise"}


def _exception_names() -> list[str]:
    return [name for name in homes() if name.endswith("Error")]


def _cluster_names() -> list[str]:
    return [name for name in homes() if name.endswith("Cluster")]


def _python_names() -> list[str]:
    return [name for name in homes() if name not in {*_exception_names(), *_cluster_names()}]


def _names(title: str, names: list[str]) -> str:
    known = homes()
    entries = (f"::: {known[name]}\n    options:\n      heading: toilfn.{name}\n" for name in names)
    return f"# {title}\n\n" + "\n".join(entries)


def _cluster_settings() -> str:
    """Return the entries of the typed dictionaries that say which settings a cluster class takes."""
    import toilfn

    lines = ["", "## Settings of each class", ""]
    for name in _cluster_names():
        cls = getattr(toilfn, name)
        keywords = re.fullmatch(r"Unpack\[(\w+)\]", str(cls.__init__.__annotations__.get("settings")))
        if keywords and keywords[1] != "JobSettings":
            module = _module_of(keywords[1], cls.__init__.__module__)
            lines.append(f"::: {module}.{keywords[1]}\n    options:\n      heading_level: 3\n")
    lines += [f"::: toilfn.clusters.common.{name}\n    options:\n      heading_level: 3\n" for name in _SHARED]
    return "\n".join(dict.fromkeys(lines))


_SHARED = ("settings.JobSettings", "settings.ContainerSettings")
"""The settings that several classes share."""


def _module_of(name: str, module: str) -> str:
    """Return where a settings class is defined: beside its cluster, or in another module of the cluster's package."""
    package = module.rpartition(".")[0]
    beside = (f"{package}.{found.name}" for found in pkgutil.iter_modules(import_module(package).__path__))
    return next(place for place in itertools.chain([module], beside) if _defines(place, name))


def _defines(module: str, name: str) -> bool:
    return getattr(getattr(import_module(module), name, None), "__module__", None) == module


def _commands() -> str:
    from toilfn.cli import COMMANDS

    lines = ["# Commands\n", "Each command prints this with `--help`.\n", f"```text\n{_help()}```\n"]
    lines += [f"## toilfn {name}\n\n```text\n{_help(name)}```\n" for name in COMMANDS]
    return "\n".join(lines)


def _help(*command: str) -> str:
    from toilfn.cli import main

    printed = io.StringIO()
    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return printed.getvalue()


def _settings() -> str:
    from toilfn.config.settings import TITLES, Settings, add_options

    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    flags = {action.dest.removeprefix("toilfn_"): ", ".join(action.option_strings) for action in parser._actions}

    def rows(title: str) -> Iterator[str]:
        for entry in fields(Settings):
            if entry.metadata["group"] == title:
                default = entry.metadata["default"]
                variable = f"DASK_TOILFN__{entry.name.upper()}"
                key = entry.name.replace("_", "-")
                yield (
                    f"| `{entry.name}` | `{flags.get(entry.name, '')}` | `{key}` | `{variable}` "
                    f"| {'' if default is None else f'`{default}`'} | {entry.metadata['help'].replace('|', '/')} |"
                )

    lines = [
        "# Settings\n",
        "A setting is a keyword of `compute`, `submit` and `resume`, a flag of `toilfn run`, `cwl` and `wdl`, a key",
        "under `toilfn:` in a file, and an environment variable. [Which one counts](../settings.md) is another page.\n",
    ]
    for title in TITLES:
        head = "| keyword | flag | key | variable | default | meaning |\n| --- | --- | --- | --- | --- | --- |"
        lines.append(f"## {title[0].upper()}{title[1:]}\n\n{head}\n" + "\n".join(rows(title)) + "\n")
    return "\n".join(lines)


def _decisions() -> str:
    lines = [
        "# Decisions\n",
        "Choices that were not obvious: what was wanted, what was found, what was chosen, its price.\n",
    ]
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        title = path.read_text().partition("\n")[0].lstrip("# ")
        lines.append(f"* [{title}](../decisions/{path.name})")
    return "\n".join(lines) + "\n"
