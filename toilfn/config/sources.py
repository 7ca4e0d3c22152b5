"""Reads settings from dask's configuration and from files of the same form."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from toilfn.clusters.common.settings import SECTIONS
from toilfn.errors import InputError


def configured() -> dict[str, Any]:
    """Return what ``dask.config`` has under ``toilfn``; mappings among it are sections of other parts."""
    # Importing dask takes a fifth of a second: too long for a small run when it has nothing to say.
    if "dask" not in sys.modules and not _mentioned():
        return {}
    import dask.config

    # The other clusters' classes read their sections themselves.
    return _settings_among(dask.config.get("toilfn", None) or {}, ("local", "dask"))


_MAPPINGS = ("set_env", "store_options")
"""Settings that are mappings themselves, where other mappings are sections of other parts."""


def in_file(path: str) -> dict[str, Any]:
    """Read a file of the form that dask's configuration has."""
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
    """Return the settings that environment variables have."""
    from dask.config import collect_env

    return _settings_among(collect_env().get("toilfn") or {})


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Join sections; settings of the second win."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {**first, **second}}


def origins(profile: str | None, config: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the sources of settings with what each says, from the weakest to the strongest; flags come after them."""
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
    """Return the settings, with the sections of clusters as one of them; leave out the sections of other parts."""
    found = {name.replace("-", "_"): value for name, value in entries.items()}
    own = {name: value for name, value in found.items() if name in _MAPPINGS or not isinstance(value, Mapping)}
    clusters = {name: value for name, value in found.items() if name in sections and isinstance(value, Mapping)}
    return {**own, **({"cluster_settings": clusters} if clusters else {})}


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
