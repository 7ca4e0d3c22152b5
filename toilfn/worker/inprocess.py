"""Run batches in the leader's own process, for `toilfn.clusters.local.inline`."""

from __future__ import annotations

import threading
from bdb import BdbQuit
from collections.abc import Callable, Mapping

from toilfn.clusters.local.channel import AttemptPage
from toilfn.files.scratch import CODE_VARIABLE, absolute_places
from toilfn.protocol import Run, expect
from toilfn.stores import Store, open_store
from toilfn.worker.answers import Answers
from toilfn.worker.batch import Batch
from toilfn.worker.capture import NoCapture
from toilfn.worker.execute import AttemptRunner
from toilfn.worker.surroundings import Surroundings, put_back, replace_variables

__all__ = ["InProcess", "InThread", "executor_here"]


class InProcess:
    """Runs batches when it is called. Output of tasks is not captured, so that a debugger can be used.

    Parameters
    ----------
    store : str
        The store's URL.
    environment : mapping
        Variables that workers would get; this process has them until `close`.
    """

    def __init__(self, store: str, environment: Mapping[str, str]) -> None:
        self._store = store
        # This process has the user's modules already.
        self._replaced = replace_variables({k: v for k, v in environment.items() if k != CODE_VARIABLE})
        self._replaced = replace_variables(absolute_places()) | self._replaced
        self._executor = executor_here(open_store(store, create=False))

    def __call__(self, message: bytes) -> list[bytes]:
        """Run a batch; return the answers that a worker would have sent."""
        said: list[bytes] = []
        answers = Answers(said.append)
        Batch(self._executor, expect(Run, message)).run(answers)
        answers.done()
        return said

    def serve(self, message: bytes, say: Callable[[bytes], None], ended: Callable[[], None]) -> InThread:
        """Run a batch that is a service in a separate thread."""
        return InThread(executor_here(open_store(self._store, create=False), is_shared=True), message, say, ended)

    def close(self) -> None:
        """Remove temporary directories, and put the environment back."""
        self._executor.close()
        put_back(self._replaced)


class InThread:
    """A service in a thread.

    Parameters
    ----------
    executor : AttemptRunner
        Its own.
    message : bytes
        The batch.
    say, ended : callable
        Called with the answers of a worker, and at the end; both in the thread.
    """

    def __init__(
        self, executor: AttemptRunner, message: bytes, say: Callable[[bytes], None], ended: Callable[[], None]
    ) -> None:
        self._executor = executor
        self._batch = Batch(executor, expect(Run, message))
        self._answers = Answers(say)
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name="toilfn-service", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._batch.run(self._answers)
            self._answers.flush()
        finally:
            self._executor.close()
            self._ended()

    def stop(self) -> None:
        """Have the service stop."""
        self._batch.stop.set()

    def join(self, patience: float) -> None:
        """Wait until the service has stopped, but no longer than `patience` seconds."""
        self._thread.join(patience)


def executor_here(store: Store, *, is_shared: bool = False) -> AttemptRunner:
    """Build an executor for this process, whose output and threads are the user's own.

    Parameters
    ----------
    store : Store
    is_shared : bool
        Whether it is for a thread beside others that run tasks.
    """
    surroundings = Surroundings(limit_threads=False, is_shared=is_shared)
    return AttemptRunner(store, NoCapture(), AttemptPage(), surroundings, (KeyboardInterrupt, BdbQuit))
