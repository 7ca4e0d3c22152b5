"""A site's configuration of LSF: the unit of memory, whether memory is reserved per core, and the limit of arrays.

This module follows the reference pages of lsf.conf (LSF_UNIT_FOR_LIMITS) and of lsb.params (RESOURCE_RESERVE_PER_TASK
and the older RESOURCE_RESERVE_PER_SLOT, MAX_JOB_ARRAY_SIZE), which ``bparams -a`` shows.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from toilfn.errors import InputError

__all__ = ["Site", "memory_unit", "read_parameters"]

_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


@dataclass(frozen=True, slots=True)
class Site:
    """The parameters of a site from ``bparams -a``.

    Attributes
    ----------
    is_per_core : bool
        Whether ``rusage[mem=...]`` counts per core of a job.
    array_limit : int
        Maximum number of elements of a job array. LSF's default is 1000.
    """

    is_per_core: bool
    array_limit: int


def read_parameters(text: str) -> Site:
    """Parse the output of ``bparams -a``."""
    per_core = re.search(r"^\s*RESOURCE_RESERVE_PER_(TASK|SLOT)\s*=\s*Y", text, re.MULTILINE | re.IGNORECASE)
    longest = re.search(r"^\s*MAX_JOB_ARRAY_SIZE\s*=\s*(\d{1,9})\b", text, re.MULTILINE)
    return Site(per_core is not None, int(longest[1]) if longest else 1000)


def memory_unit(wanted: str | None) -> int:
    """Return the number of bytes in LSF's unit of memory: the given one, else that of lsf.conf, else KB.

    Raises
    ------
    InputError
        If there is no such unit.
    """
    name = (wanted or _configured()).upper()
    if name not in _UNITS:
        raise InputError(f"units={name!r} is unknown", hint=f"choose from {', '.join(_UNITS)}")
    return _UNITS[name]


def _configured() -> str:
    try:
        text = Path(os.environ.get("LSF_ENVDIR", "/etc"), "lsf.conf").read_text(errors="replace")
    except OSError:
        return "KB"
    match = re.search(r"^\s*LSF_UNIT_FOR_LIMITS\s*=\s*\"?(\w+)", text, re.MULTILINE)
    return match[1] if match else "KB"
