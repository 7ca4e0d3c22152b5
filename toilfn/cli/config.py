"""``toilfn config``."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from toilfn.cli.common import print_json, print_table
from toilfn.config.flags import flag_of
from toilfn.config.settings import TITLES, Settings, add_options, from_options
from toilfn.config.sources import origins

__all__ = ["command", "configure"]

_WIDTH = 100

_HIDDEN = ("set_env", "store_options")
"""Settings whose values may be secrets: only their names are shown."""

_SECRET = re.compile(r"password|token|credential|secret|(^|_)key$", re.IGNORECASE)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "toilfn config > toilfn.yaml\n       toilfn config show [--all] [--json] [flags]"
    parser.add_argument(
        "action", choices=("show",), nargs="?",
        help="show the settings that have a value, each with its origin; without it, print a file to edit",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="with show: include the settings that have their default value"
    )
    parser.add_argument("--json", action="store_true", help="with show: print JSON, for programs")
    add_options(parser)
    parser.epilog = """\
Save the file as ~/.config/dask/toilfn.yaml, for all users as /etc/dask/toilfn.yaml, or anywhere and name it with
--config FILE.
Each setting can also be given as an environment variable, such as DASK_TOILFN__MAX_JOBS=10."""


def command(options: argparse.Namespace) -> int:
    """Print a file with all settings, each explained and with its default; or show the values and their origins."""
    if options.action == "show":
        rows = list(_shown(from_options(options), defaults=options.all))
        if options.json:
            print_json([{"setting": name, "value": value, "origin": origin} for name, value, origin in rows])
        elif rows:
            print_table(["setting", "value", "origin"], [[n, _text(value), origin] for n, value, origin in rows])
        else:
            print("all settings have their defaults; toilfn config show --all lists them")
        return 0
    print("\n".join(_lines()))
    return 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown(flags: dict[str, Any], *, defaults: bool) -> Iterator[tuple[str, Any, str]]:
    """Return each setting with its value, as it was written, and its origin."""
    resolved = Settings.resolve(**flags)  # a wrong value is an error here, too
    layers = [*origins(resolved.profile, resolved.config), ("flag", flags)]
    found: dict[str, tuple[Any, str]] = {}
    for place, values in layers:
        for name, value in values.items():
            if name == "cluster_settings":
                for section, own in value.items():
                    for key, item in own.items():
                        full = f"{section}.{key.replace('-', '_')}"
                        found[full] = item, _origin(place, full)
            elif value is not None:
                found[name] = value, _origin(place, name)
    for entry in fields(Settings):
        if entry.name in found:
            value, origin = found.pop(entry.name)
            yield entry.name, _visible(entry.name, value), origin
        elif defaults and entry.name != "cluster_settings":
            yield entry.name, entry.metadata["default"], "default"
    for name, (value, origin) in sorted(found.items()):
        yield name, _visible(name, value), origin


def _origin(place: str, name: str) -> str:
    if place == "environment variable":
        return f"environment variable DASK_TOILFN__{name.upper().replace('.', '__')}"
    return f"flag {flag_of(name)}" if place == "flag" else place


def _visible(name: str, value: Any) -> Any:
    if name in _HIDDEN:
        return ", ".join(sorted(value)) if isinstance(value, Mapping) else "(hidden)"
    return "(hidden)" if _SECRET.search(name) else value


def _lines() -> Iterator[str]:
    yield "# Settings of toilfn. Take the '#' from what you change."
    yield "toilfn:"
    for title in TITLES:
        yield from ("", f"  # --- {title} ---")
        for entry in fields(Settings):
            if entry.metadata["group"] == title and entry.name not in ("config", "cluster_settings"):
                yield from _setting(entry)
    yield from (
        "",
        "  # --- clusters: toilfn run --help lists their settings ---",
        "",
        "  # slurm:",
        "  #   partition: long",
    )
    yield from (
        "",
        "  # --- profiles: toilfn run --profile hpc ---",
        "",
        "  # profiles:",
        "  #   hpc:",
        "  #     cluster: slurm",
    )


def _setting(entry: Field[Any]) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(entry.metadata["help"], _WIDTH, initial_indent="  # ", subsequent_indent="  # ")
    yield f"  # {entry.name.replace('_', '-')}: {json.dumps(entry.metadata['default'])}"
