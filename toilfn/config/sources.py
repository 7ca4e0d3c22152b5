"""Reads settings from dask's configuration and from files of the same form."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toilfn.errors import InputError


def configured() -> dict[str, Any]:
    """Return what ``dask.config`` has under ``toilfn``; mappings among it are sections of other parts."""
    # Importing dask takes a fifth of a second: too long for a small run when it has nothing to say.
    if "dask" not in sys.modules and not _mentioned():
        return {}
    import dask.config

    return _settings_among(dask.config.get("toilfn", None) or {})


_MAPPINGS = ("set_env", "store_options")
"""Settings that are mappings themselves, where other mappings are sections of other parts."""


def in_file(path: str) -> dict[str, Any]:
    """Read a file of the form that dask's configuration has."""
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
    return _settings_among(content["toilfn"] or {})


def _settings_among(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the sections of other parts, such as those of clusters."""
    found = {name.replace("-", "_"): value for name, value in entries.items()}
    return {name: value for name, value in found.items() if name in _MAPPINGS or not isinstance(value, Mapping)}


def _mentioned() -> bool:
    """Return whether any source that dask reads when it is imported may have something for toilfn."""
    if "DASK_INTERNAL_INHERIT_CONFIG" in os.environ or any(name.startswith("DASK_TOILFN") for name in os.environ):
        return True
    return any(b"toilfn" in file.read_bytes() for place in _config_places() for file in _yaml_files(place))


def _config_places() -> list[Path]:
    """The places that dask reads configuration from."""
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
