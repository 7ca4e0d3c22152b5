"""Read documents from servers, with a timeout."""

from __future__ import annotations

import functools
from typing import Any

from schema_salad.fetcher import DefaultFetcher

__all__ = ["Fetcher"]

_SILENCE = 60.0
"""Seconds without data after which reading a document fails."""


class Fetcher(DefaultFetcher):
    """schema-salad's fetcher, with a timeout, which its session lacks by default."""

    def __init__(self, cache: Any, session: Any) -> None:
        super().__init__(cache, session)
        if session is not None and not isinstance(session.request, functools.partial):
            session.request = functools.partial(session.request, timeout=_SILENCE)
