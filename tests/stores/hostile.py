"""A relay in front of a bucket's server that behaves like networks and busy servers at their worst."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

from tests.servers.relay import Answer, Relay, Request

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
TOO_MANY = b'{"error": {"code": 429, "message": "rateLimitExceeded"}}'


class Hostile(Relay):
    """Throttles, cuts connections before, after and amid an answer, delays, and hands requests on twice.

    Parameters
    ----------
    upstream : int
        The port of the server behind.
    share : float
        Of the requests that are treated so.
    seed : int
        Of the choice among them.
    """

    def __init__(self, upstream: int, share: float, seed: int) -> None:
        super().__init__(upstream)
        self.share = share
        self.done: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        """Do one of the things that can happen."""
        with self._lock:
            kinds = (self.throttle, self.lose_request, self.lose_answer, self.cut, self.delay, self.repeat)
            kind = self._rng.choice(kinds) if self._rng.random() < self.share else self.ask
            self.done[kind.__name__] += 1
        return kind(request)

    def throttle(self, request: Request) -> Answer:
        if "/storage/v1/" in request.path:
            return Answer(429, [("Content-Type", "application/json")], TOO_MANY)
        return Answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)

    def lose_request(self, request: Request) -> Answer:
        return Answer(200, [], b"", cut=-1)

    def lose_answer(self, request: Request) -> Answer:
        return self.ask(request)._replace(cut=-1)

    def cut(self, request: Request) -> Answer:
        answer = self.ask(request)
        return answer._replace(cut=len(answer.body) // 2 or -1)

    def delay(self, request: Request) -> Answer:
        time.sleep(0.3)
        return self.ask(request)

    def repeat(self, request: Request) -> Answer:
        self.ask(request)
        return self.ask(request)
