"""Batches run in the leader's own process, for `toilfn.clusters.inline`."""

from __future__ import annotations

from bdb import BdbQuit

from toilfn.clusters.slot import Slot
from toilfn.stores import open_store
from toilfn.work.answers import Answers
from toilfn.work.batch import Batch
from toilfn.work.capture import NoCapture
from toilfn.work.execute import Executor
from toilfn.work.surroundings import Surroundings
from toilfn.worker import unpack, work

__all__ = ["InProcess"]


class InProcess:
    """Runs batches when it is called. What tasks print is not captured, so that a debugger can talk.

    Parameters
    ----------
    store : str
        The store's URL.
    """

    def __init__(self, store: str) -> None:
        surroundings = Surroundings(limit_threads=False)
        self._executor = Executor(
            open_store(store, create=False), NoCapture(), Slot(), surroundings, (KeyboardInterrupt, BdbQuit)
        )

    def __call__(self, message: bytes) -> list[bytes]:
        """Run a batch; gives what a worker would have answered."""
        said: list[bytes] = []
        _, *rest = unpack(message)
        answers = Answers(said.append)
        work(Batch(self._executor, *rest), self._executor, answers)
        answers.done()
        return said

    def close(self) -> None:
        """Remove temporary directories."""
        self._executor.close()
