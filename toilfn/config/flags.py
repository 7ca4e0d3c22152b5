"""Flags for the settings of cluster classes, such as ``--slurm-partition``, generated from their typed dictionaries."""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from toilfn.clusters.common.settings import SECTIONS, ContainerSettings, JobSettings, checked, settings_of, typed
from toilfn.errors import InputError

__all__ = ["add_all_flags", "add_cluster_flags", "add_for_completion", "add_when_mentioned", "flag_of"]

_SHORT = {("local", "cores"): "--cores", ("local", "memory"): "--memory", ("local", "disk"): "--disk"}
"""The flags that do not contain the name of their cluster."""

_NAMES = ("Kubernetes", "Python")
"""First words of help texts that keep their capital letter, since they are names."""


_ADD = "add_cluster_flags"
"""The attribute of a parser that adds the flags of clusters."""


def flag_of(name: str) -> str:
    """Return the flag of a setting: ``--retries`` for ``retries``, or ``--slurm-queue`` for ``slurm.queue``."""
    section, _, own = name.partition(".")
    return _SHORT.get((section, own), f"--{name.replace('.', '-').replace('_', '-')}")


def add_when_mentioned(parser: argparse.ArgumentParser, dest: str) -> None:
    """Let a parser add the flags of a cluster only if a command line has one of them, or requests help.

    Generating the flags of all clusters would import all their modules.
    """
    parse = parser.parse_known_args
    added: set[str] = set()

    def add(sections: Iterable[str]) -> None:
        for section in sections:
            if section not in added:
                added.add(section)
                add_cluster_flags(parser, section, dest)

    def parse_known_args(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        add(SECTIONS if {"-h", "--help"} & set(words) else _mentioned(words))
        return parse(words, namespace)

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]
    setattr(parser, _ADD, add)


def add_for_completion(parser: argparse.ArgumentParser, word: str) -> None:
    """Add the flags of each cluster that has flags beginning with `word`, if that has at least one letter after --."""
    add = getattr(parser, _ADD, None)
    start = re.match(r"--(?:no-)?(.+)", word)
    if add is not None and start:
        add(name for name in SECTIONS if f"{name}-".startswith(start[1]) or start[1].startswith(f"{name}-"))


def add_all_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all clusters, if the parser has any of them."""
    add = getattr(parser, _ADD, None)
    if add is not None:
        add(SECTIONS)


def _mentioned(words: Sequence[str]) -> list[str]:
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [
        section
        for section in SECTIONS
        if any(flag.startswith((f"--{section}-", f"--no-{section}-")) for flag in flags)
        or any(place == section and short in flags for (place, _), short in _SHORT.items())
    ]


def add_cluster_flags(parser: argparse.ArgumentParser, section: str, dest: str) -> None:
    """Add a group with a flag for each setting of a cluster; their values are collected under `dest`."""
    group = parser.add_argument_group(f"toilfn: cluster {section}")
    helps = dict(_helps(typed(section)))
    for name, kind in settings_of(section).items():
        flag = flag_of(f"{section}.{name}")
        if flag in parser._option_string_actions:  # the CWL or WDL runner has its own option of this name
            continue
        help = helps.get(name, "").replace("%", "%%") or None
        collect = _Collect if kind is not bool else _CollectTruth
        extra: dict[str, Any] = {"nargs": 0} if kind is bool else {"metavar": _metavar(kind)}
        flags = [flag, f"--no-{flag[2:]}"] if kind is bool else [flag]
        group.add_argument(
            *flags,
            action=_action(collect, section, name, kind),
            dest=dest,
            default=argparse.SUPPRESS,
            help=help,
            **extra,
        )


def _metavar(kind: Any) -> str:
    names = _kinds(kind)
    if Mapping in names:
        return "NAME=VALUE" if str not in names else "VALUE"
    return "N" if names <= {int, float} else "WORD" if Sequence in names else "VALUE"


def _kinds(kind: Any) -> set[Any]:
    union = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return {get_origin(one) or one for one in union}


def _helps(kind: type) -> Iterator[tuple[str, str]]:
    """Yield each setting with its text from the docstrings of a typed dictionary and of those that it extends."""
    own = get_type_hints(kind)
    # Before Python 3.12, a typed dictionary does not know which others it extends.
    shared = [base for base in (JobSettings, ContainerSettings) if set(get_type_hints(base)) <= set(own)]
    for base in (*shared, kind):
        doc = getattr(base, "__doc__", None) or ""
        if "Parameters\n" not in doc:
            continue
        for match in re.finditer(r"^ {4}(\w[\w, ]*) : .*\n((?: {8}.*\n?)+)", doc, re.MULTILINE):
            text = " ".join(match[2].split()).replace("``", "").replace("`", "")
            yield from ((name.strip(), _uncapitalized(text.rstrip("."))) for name in match[1].split(","))


def _uncapitalized(text: str) -> str:
    """Return a text without the capital of its first word, unless the word is a name such as AWS or Kubernetes."""
    first = text.partition(" ")[0]
    return text if first in _NAMES or first[1:] != first[1:].lower() else text[:1].lower() + text[1:]


class _Collect(argparse.Action):
    """Collects values of flags as sections: ``{"slurm": {"partition": "long"}}``."""

    section = name = ""
    kind: Any = str

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        try:
            value = self.read(values, option_string or "")
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        sections = {key: dict(own) for key, own in getattr(namespace, self.dest, {}).items()}
        own = sections.setdefault(self.section, {})
        before = own.get(self.name)
        if isinstance(value, list) and isinstance(before, list):
            value = [*before, *value]
        elif isinstance(value, dict) and isinstance(before, dict):
            value = {**before, **value}
        own[self.name] = value
        setattr(namespace, self.dest, sections)

    def read(self, text: Any, flag: str) -> Any:
        """Convert a flag's value to the type of the setting; each value of a list or mapping is added to the others."""
        kinds = _kinds(self.kind)
        if Mapping in kinds and ("=" in text or str not in kinds):
            if text.startswith("{"):
                return json.loads(text)
            name, equals, value = text.partition("=")
            if not equals:
                raise ValueError(f"{text!r}: write NAME=VALUE")
            return {name: value}
        if kinds <= {int, float}:
            try:
                text = int(text) if float(text).is_integer() and float not in kinds else float(text)
            except ValueError:
                raise ValueError(f"{text!r} is not a number") from None
        try:
            return checked(self.section, {self.name: text}, {self.name: self.kind})[self.name]
        except InputError as error:
            raise ValueError(error.message) from None


class _CollectTruth(_Collect):
    """Collects the values of flags without an argument: true, or false for ``--no-...``."""

    def read(self, text: Any, flag: str) -> bool:
        """Return False for a flag that begins with ``--no-``, else True."""
        return not flag.startswith("--no-")


def _action(base: type[_Collect], section: str, name: str, kind: Any) -> Any:
    return type(base.__name__, (base,), {"section": section, "name": name, "kind": kind})
