"""Read settings from dask's configuration and from files of the same form, and parse the values of settings."""

from __future__ import annotations

import json
import os
import site
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from toilfn.clusters.common.settings import SECTIONS
from toilfn.errors import InputError
from toilfn.text import checked_variables


def configured() -> dict[str, Any]:
    """Return the settings in the section ``toilfn`` of ``dask.config``."""
    # Importing dask takes a fifth of a second, which a small run can save if the configuration has nothing for toilfn.
    if "dask" not in sys.modules and not _mentioned():
        return {}
    import dask.config

    # The classes of the other clusters read their own sections themselves.
    return _settings_among(dask.config.get("toilfn", None) or {}, ("local", "dask"))


_MAPPINGS = ("set_env", "store_options")
"""Settings whose values are mappings. Any other mapping in a configuration file is a section, not a setting."""


def in_file(path: str) -> dict[str, Any]:
    """Read the settings from a file that has the same form as a configuration file for dask."""
    return _settings_among(_content(path))


def profiled(name: str, config: str | None) -> dict[str, Any]:
    """Return the settings of a profile: a section under ``profiles`` of the configuration of dask or of a file.

    Raises
    ------
    InputError
        If the profile does not exist; the message lists the existing profiles.
    """
    import dask.config

    found = dict(dask.config.get("toilfn.profiles", None) or {})
    if config:
        found |= _content(config).get("profiles") or {}
    if not isinstance(found.get(name), Mapping):
        known = ", ".join(sorted(found)) or "none"
        hint = None if found or config else "name the settings file that has it: --config FILE"
        raise InputError(f"profile {name!r} not found; the settings files have: {known}", hint=hint)
    return _settings_among(found[name])


def in_environment() -> dict[str, Any]:
    """Return the settings from environment variables, such as ``DASK_TOILFN__MAX_JOBS``."""
    from dask.config import collect_env

    return _settings_among(collect_env().get("toilfn") or {})


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings of sections to settings; the second takes precedence."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {**first, **second}}


def origins(profile: str | None, config: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return each source of settings with its settings, in increasing order of precedence; flags override them all."""
    from dask.config import collect_env, collect_yaml

    found = []
    for place in _config_places():
        for file in sorted(_yaml_files(place)):
            content = next(iter(collect_yaml([str(file)])), {})
            if isinstance(content.get("toilfn"), Mapping):
                found.append((str(file), _settings_among(content["toilfn"])))
    if profile:
        found.append((f"profile {profile}", profiled(profile, config)))
    environment = _settings_among(collect_env().get("toilfn") or {})
    found.append(("environment variable", environment))
    if config:
        found.append((config, in_file(config)))
    return found


def _content(path: str) -> Mapping[str, Any]:
    """Read the section ``toilfn`` of a file."""
    if not os.path.isfile(path):
        raise InputError(f"settings file not found: {path}")
    from dask.config import collect_yaml

    try:
        content = next(iter(collect_yaml([path])), {})
    except ValueError as error:
        raise InputError(f"settings file {path} cannot be read: {error}") from None
    if "toilfn" not in content:
        raise InputError(
            f"settings file {path} has no top-level section 'toilfn:'", hint="toilfn config prints an example"
        )
    section: Mapping[str, Any] = content["toilfn"] or {}
    return section


def _settings_among(entries: Mapping[str, Any], sections: Collection[str] = SECTIONS) -> dict[str, Any]:
    """Return the settings among the entries of a configuration.

    The sections of clusters become the setting ``cluster_settings``; other sections are left out.
    """
    found = {name.replace("-", "_"): value for name, value in entries.items()}
    own = {name: value for name, value in found.items() if name in _MAPPINGS or not isinstance(value, Mapping)}
    clusters = {name: value for name, value in found.items() if name in sections and isinstance(value, Mapping)}
    return {**own, **({"cluster_settings": clusters} if clusters else {})}


def _mentioned() -> bool:
    """Return whether a source that dask reads when it is imported, a file or a variable, mentions toilfn."""
    if "DASK_INTERNAL_INHERIT_CONFIG" in os.environ or any(name.startswith("DASK_TOILFN") for name in os.environ):
        return True
    return any(b"toilfn" in file.read_bytes() for place in _config_places() for file in _yaml_files(place))


def _config_places() -> list[Path]:
    """Return the files and directories from which dask reads its configuration."""
    places = [Path(os.environ.get("DASK_ROOT_CONFIG", "/etc/dask"))]
    places += [Path(prefix, "etc", "dask") for prefix in (sys.prefix, *site.PREFIXES)]
    places.append(Path.home() / ".config" / "dask")
    if own := os.environ.get("DASK_CONFIG"):
        places.append(Path(own))
    return places


def _yaml_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [file for file in place.glob("*") if file.suffix.lower() in (".yaml", ".yml", ".json") and file.is_file()]


def boolean(value: object) -> bool:
    """Parse a boolean: true, yes, on or 1, or false, no, off or 0."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError("write true or false")


def one_of(*choices: str) -> Callable[[object], str]:
    """Build a parser that accepts one of `choices`, in upper or lower case, and returns it as spelled in `choices`."""

    def parse(value: object) -> str:
        for choice in choices:
            if str(value).lower() == choice.lower():
                return choice
        raise ValueError(f"choose from {', '.join(choices)}")

    return parse


def link_kind(value: object) -> str:
    """Parse the way in which files are imported: a kind of link, copy, true (a symbolic link) or false (a copy)."""
    try:
        return "symlink" if boolean(value) else "copy"
    except ValueError:
        return one_of("copy", "reflink", "hard", "symlink", "reference")(value)


def place(value: Any) -> str:
    """Parse a path or a URL."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ValueError("write a path or a URL as a text, or pass a pathlib.Path")
    if not path:
        raise ValueError("it is empty: write a path, '.' for the current directory, or leave it out")
    return path


def text(value: Any) -> str:
    """Parse a text. A number is accepted, too, since configuration files turn a name such as 2026 into a number."""
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise ValueError("write a text that is not empty; in a file, quote it if it looks like a boolean or a date")
    return str(value)


def whole(least: int) -> Callable[[Any], int]:
    """Build a parser of integers that are at least `least`."""

    def parse(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = -1
        if number < least:
            raise ValueError(f"write a whole number that is at least {least}")
        return number

    return parse


def cores(value: Any) -> float:
    """Parse a number of cores, which must be above 0 and may be a fraction."""
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError("write a number above 0")
    return number


count, positive_count = whole(0), whole(1)


def port(value: Any) -> int:
    """Parse the number of a port; 0 means any free port."""
    number = count(value)
    if number > 65535:
        raise ValueError("write the number of a port, from 0 to 65535")
    return number


def probability(value: Any) -> float:
    """Parse a number from 0 to 1."""
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("write a number from 0 to 1")
    return number


def environment(value: Any) -> dict[str, str]:
    """Parse environment variables: a mapping, ``NAME=VALUE``, ``NAME`` for the current value, or a list of these."""
    if isinstance(value, Mapping):
        if None in value.values():
            raise ValueError("None is not a value; write a text, or leave the variable out")
        return checked_variables({str(name): str(text) for name, text in value.items()})
    if isinstance(value, list | tuple | set):
        return {name: text for item in value for name, text in environment(item).items()}
    if not isinstance(value, str):
        raise ValueError("write a mapping, NAME=VALUE, or a list of these")
    name, equals, text = value.partition("=")
    if not name or not (equals or name in os.environ):
        raise ValueError("write NAME=VALUE, or the name of a variable that is set")
    return checked_variables({name: text if equals else os.environ[name]})


def names(value: Any) -> list[str]:
    """Parse one name, or a list of names."""
    found = list(value) if isinstance(value, list | tuple | set) else [value]
    if not all(isinstance(name, str | os.PathLike) and os.fspath(name) for name in found):
        raise ValueError("write a name, or a list of names")
    return [os.fspath(name) for name in found]


def hook(value: Any) -> str | list[str]:
    """Parse a command, which is a line for the shell or a list of words, or a URL."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(word, str) for word in value):
        return list(value)
    raise ValueError("write a command, as a text or as a list of words, or an http or https URL")


def sections(value: Any) -> dict[str, dict[str, Any]]:
    """Parse the sections of clusters: a mapping of their names to mappings of settings."""
    if not isinstance(value, Mapping) or not all(isinstance(own, Mapping) for own in value.values()):
        raise ValueError("write a mapping of clusters to mappings of their settings")
    return {str(name): {str(key).replace("-", "_"): item for key, item in own.items()} for name, own in value.items()}


def named_values(value: Any) -> dict[str, Any]:
    """Parse options: a mapping, JSON of one, ``NAME=VALUE`` with a value that may be JSON, or a list of these."""
    if isinstance(value, str) and value.startswith("{"):
        return named_values(json.loads(value))
    if isinstance(value, Mapping):
        return {str(name).replace("-", "_"): part for name, part in value.items()}
    if isinstance(value, list | tuple):
        return {name: part for item in value for name, part in named_values(item).items()}
    if not isinstance(value, str):
        raise ValueError("write a mapping, NAME=VALUE, or a list of these")
    name, equals, text = value.partition("=")
    if not name or not equals:
        raise ValueError("write NAME=VALUE")
    try:
        return {name.replace("-", "_"): json.loads(text)}
    except ValueError:
        return {name.replace("-", "_"): text}
