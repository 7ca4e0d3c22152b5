"""A relay that counts requests by their kind."""

from __future__ import annotations

import re
from collections import Counter

from tests.servers.relay import Answer, Relay, Request


class Counting(Relay):
    """A relay that counts requests by their method and by the folder of the store that they concern."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.seen: Counter[str] = Counter()

    def answer(self, request: Request) -> Answer:
        """Count one request."""
        folder = re.search(r"/(log|blobs|batches|answers|leases|flags|snapshots|store\.json)\b", request.path)
        kind = "list" if "list-type" in request.path else folder[1] if folder else "other"
        self.seen[f"{request.method} {kind}"] += 1
        return self.ask(request)
