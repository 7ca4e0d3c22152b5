"""The build backend: setuptools, with what an sdist alone needs.

The manual pages in an sdist are made from the parsers of the commands, so the packages that these import have to be
there when it is made. Wheels, and installations from a checkout or an sdist, need none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the other hooks of a backend are those of setuptools

if sys.version_info >= (3, 11):
    import tomllib
else:
    from setuptools.compat.py310 import tomllib

_WITH_COMMANDS = ("cwl", "wdl", "server")
"""Extras whose packages the parsers of some commands import."""


def get_requires_for_build_sdist(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    """Return the requirements that an sdist has in addition to those in ``[build-system]``."""
    project = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for name in _WITH_COMMANDS for each in project["optional-dependencies"][name]]
    return [*build_meta.get_requires_for_build_sdist(config_settings), *project["dependencies"], *extras]
