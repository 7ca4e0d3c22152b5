"""Output and warnings of running tasks, from clusters that do not carry messages: through the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from toilfn.leader.jobs import SubmittedBatch
from toilfn.leader.mailbox import Mailbox
from toilfn.protocol import Log, Warnings, decode

__all__ = ["OutputMessages"]

_LOOK = 2.0
"""Seconds between two looks at what tasks print."""

_WARNINGS_LOOK, _FAR_WARNINGS_LOOK = 5.0, 60.0
"""The same where only warnings are wanted, in a store on this machine and in another one, where each look costs."""


class OutputMessages:
    """Reads the answers of batches that run, for what they tell of tasks' output.

    Parameters
    ----------
    mailbox : Mailbox
    is_wanted : bool
        Whether anybody is shown what tasks print, not only their warnings.
    """

    def __init__(self, mailbox: Mailbox, *, is_wanted: bool) -> None:
        self._mailbox = mailbox
        period = _WARNINGS_LOOK if mailbox.is_near else _FAR_WARNINGS_LOOK
        self._period = _LOOK if is_wanted else period
        self._heard: dict[str, int] = {}
        self._looked = time.monotonic()

    def news(self, batches: Iterable[SubmittedBatch]) -> Iterator[tuple[SubmittedBatch, bytes]]:
        """Look now and then for new messages about output."""
        if time.monotonic() - self._looked < self._period:
            return
        self._looked = time.monotonic()
        counts = self._mailbox.left()
        for batch in list(batches):
            heard = self._heard.get(batch.name, 0)
            if counts.get(batch.name, 0) > heard:
                new = self._mailbox.so_far(batch.name, heard)
                self._heard[batch.name] = heard + len(new)
                yield from ((batch, message) for message in new if _is_output(message))

    def rest(self, name: str, answers: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the answers of a batch that ended, without those that `news` has yielded."""
        heard = self._heard.pop(name, 0)
        return (message for n, message in enumerate(answers) if n >= heard or not _is_output(message))


def _is_output(message: bytes) -> bool:
    return isinstance(decode(message), Log | Warnings)
