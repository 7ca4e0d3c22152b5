"""Reading documents from servers, none of which is waited for without a limit."""

from __future__ import annotations

import functools
from typing import Any

from schema_salad.fetcher import DefaultFetcher

__all__ = ["Fetcher"]

_SILENCE = 60.0
"""Seconds for which a server may say nothing while a document is read."""


class Fetcher(DefaultFetcher):
    """schema-salad's, whose session has no limit of time by itself."""

    def __init__(self, cache: Any, session: Any) -> None:
        super().__init__(cache, session)
        if session is not None and not isinstance(session.request, functools.partial):
            session.request = functools.partial(session.request, timeout=_SILENCE)
