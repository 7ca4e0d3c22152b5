"""Recreate a cluster from the record of a run, to resume the run or to find its jobs."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeAlias

from toilfn.clusters import REGISTRY, cluster_class
from toilfn.clusters.base import Cluster
from toilfn.errors import ClusterError

__all__ = ["Recipe", "make_again", "make_from", "name_of", "recipe_of"]

Recipe: TypeAlias = dict[str, Any]
"""The constructor's arguments as plain values under ``args`` and ``settings``; or, if they cannot be recorded, the
reason under ``unknown``."""

_SECRET = re.compile(r"password|token|credential|secret$|(^|_)key$", re.IGNORECASE)
"""Names of settings that are never recorded; they are read from the configuration again."""

_IMPORT = "toilfn:import"
"""The key under which a recipe has the import name of a function or class instead of the object."""


def name_of(cluster: object) -> str:
    """Return a name of a cluster's class for `make_again`: its registered name, or else ``module:class``."""
    path = f"{type(cluster).__module__}:{type(cluster).__qualname__}"
    return next((name for name, (place, _) in REGISTRY.items() if place == path), path)


def recipe_of(cluster: object) -> Recipe:
    """Return the constructor's arguments of a cluster as plain values that a record can hold, without secrets.

    Functions and classes are represented by their import names. If a value cannot be represented, the recipe contains
    only the reason.
    """
    args, settings = getattr(cluster, "constructor_arguments", ((), {}))
    try:
        bound = inspect.signature(type(cluster)).bind(*args, **settings)
        named: dict[str, Any] = {}
        rest: tuple[Any, ...] = ()
        for name, value in bound.arguments.items():
            match bound.signature.parameters[name].kind:
                case inspect.Parameter.VAR_KEYWORD:
                    named |= value
                case inspect.Parameter.VAR_POSITIONAL:
                    rest = value
                case _:
                    named[name] = value
        left_out: frozenset[str] = getattr(cluster, "not_recorded", frozenset())
        named = {name: value for name, value in named.items() if name not in left_out and not _SECRET.search(name)}
        known = {name: _plain(value) for name, value in named.items()}
        return {"args": [_plain(value) for value in rest], "settings": known}
    except (TypeError, ValueError) as error:
        return {"unknown": str(error)}


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if callable(value) and module not in (None, "__main__") and name.isidentifier():
        return {_IMPORT: f"{module}:{name}"}
    raise ValueError(f"{value!r:.100} cannot be recorded")


def make_from(name: str, recipe: Recipe) -> Cluster:
    """Build a cluster from a recipe.

    Parameters
    ----------
    name : str
        The name from `name_of`.
    recipe : Recipe

    Raises
    ------
    ClusterError
        If the recipe is incomplete, or the class no longer exists.
    """
    if "settings" not in recipe:
        raise ClusterError(f"the settings of cluster {name!r} were not recorded: {recipe.get('unknown', 'none')}")
    found = _class(name)
    cluster: Cluster = found(*map(_value, recipe["args"]), **{key: _value(v) for key, v in recipe["settings"].items()})
    return cluster


def _value(plain: Any) -> Any:
    if isinstance(plain, Mapping):
        return _load(plain[_IMPORT]) if _IMPORT in plain else {key: _value(value) for key, value in plain.items()}
    return [_value(item) for item in plain] if isinstance(plain, (list, tuple)) else plain


def make_again(name: str, address: Mapping[str, Any]) -> Cluster:
    """Build a cluster object that can find the jobs of an earlier one.

    Parameters
    ----------
    name : str
        The name from `name_of`, or the name of a registered cluster.
    address : mapping
        The arguments from `Cluster.address`. Everything else comes from the configuration.

    Raises
    ------
    ClusterError
        If the class no longer exists.
    """
    cluster: Cluster = _class(name)(**address)
    return cluster


def _class(name: str) -> Any:
    return _load(name) if ":" in name else cluster_class(name)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ClusterError(f"cannot import {path}, which the run used: {error}") from None
