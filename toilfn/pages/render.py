"""Templates to HTML: everything that is not markup is escaped, control characters too."""

from __future__ import annotations

import json
import re
import time
from functools import lru_cache
from importlib import resources
from typing import Any

from toilfn.errors import InputError
from toilfn.inspect.view import State
from toilfn.pages.markup import Markup
from toilfn.text import visible
from toilfn.units import format_duration, format_size

__all__ = ["POLICY", "asset", "render"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of pages: nothing inline, nothing from elsewhere."""


def render(template: str, **values: Any) -> str:
    """Return a template's HTML.

    Raises
    ------
    InputError
        If jinja2 is not installed.
    """
    return str(_environment().get_template(template).render(values))


def asset(name: str) -> str:
    """Return a file of the package that pages refer to, as text."""
    return resources.files("toilfn.pages").joinpath("static").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise InputError("pages need the package jinja2", hint="pip install 'toilfn[server]'") from None

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("toilfn.pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, finalize=_finalized,
    )  # fmt: skip
    environment.filters |= {
        "duration": _duration, "size": lambda value: format_size(round(value)), "when": _when, "ago": _ago,
        "number": lambda value: f"{value:,}", "json": lambda value: markupsafe.Markup(_json(value)),  # noqa: S704 - has no markup in it
        "raw": markupsafe.Markup, "log": _log,
    }  # fmt: skip
    environment.globals |= {"States": list(State), "now": time.time}
    return environment


def _finalized(value: Any) -> Any:
    """Escape control characters of texts that come from tasks."""
    if isinstance(value, Markup) or hasattr(value, "__html__") or not isinstance(value, str):
        return value
    return visible(value)


def _log(text: str) -> str:
    """Return a log as a terminal shows it: without colors, and with one line for each progress bar."""
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)", "", text)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _json(value: Any) -> str:
    """Return JSON that can stand in an element of HTML."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _duration(seconds: float) -> str:
    if seconds >= 100:
        return format_duration(round(seconds))
    return format_duration(round(seconds, 1 if seconds >= 10 else 2))


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""


def _ago(moment: float) -> str:
    return f"{format_duration(max(0, round(time.time() - moment)))} ago" if moment else ""
