"""What tasks print while they run, from clusters that do not carry messages: it comes through the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from toilfn.leader import messages
from toilfn.leader.jobs import Out
from toilfn.leader.mailbox import Answers

__all__ = ["Streams"]

_LOOK = 2.0
"""Seconds between two looks."""


class Streams:
    """Reads the answers of batches that run, for what they tell of tasks' output.

    Parameters
    ----------
    answers : Answers
    is_wanted : bool
        Whether anybody is shown it.
    """

    def __init__(self, answers: Answers, *, is_wanted: bool) -> None:
        self._answers = answers
        self._is_wanted = is_wanted
        self._heard: dict[str, int] = {}
        self._looked = 0.0

    def news(self, outs: Iterable[Out]) -> Iterator[tuple[Out, bytes]]:
        """Look now and then for new messages about output."""
        if not self._is_wanted or time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        counts = self._answers.left()
        for out in list(outs):
            heard = self._heard.get(out.name, 0)
            if counts.get(out.name, 0) > heard:
                new = self._answers.so_far(out.name, heard)
                self._heard[out.name] = heard + len(new)
                yield from ((out, message) for message in new if _is_log(message))

    def rest(self, name: str, answers: Sequence[bytes]) -> Iterator[bytes]:
        """Leave out of all answers of a batch that ended what `news` gave before."""
        heard = self._heard.pop(name, 0)
        return (message for n, message in enumerate(answers) if n >= heard or not _is_log(message))


def _is_log(message: bytes) -> bool:
    return messages.read(message)[0] == "log"
