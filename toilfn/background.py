"""A run in the background of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toilfn.errors import ENDS_OF_RUNS, without_frames

if TYPE_CHECKING:
    from toilfn.leader.run import WorkflowRun

__all__ = ["Run"]


class Run:
    """A handle of a run that `toilfn.submit` started.

    The run stops when this process ends; `toilfn resume` then continues it.
    """

    def __init__(self, run: WorkflowRun, work: Callable[[], Any]) -> None:
        self._workflow_run = run
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="toilfn-leader", daemon=True)
        self._thread.start()

    @property
    def store(self) -> str:
        """The store's URL."""
        return str(self._workflow_run.store.url)

    def _run(self) -> None:
        try:
            with self._workflow_run:
                self._value = self._work()
        except BaseException as error:  # raised by result(), in the caller's thread
            self._error = without_frames(error) if isinstance(error, ENDS_OF_RUNS) else error

    def status(self) -> str:
        """Return ``"running"``, ``"done"`` or ``"failed"``."""
        if self._thread.is_alive():
            return "running"
        return "failed" if self._error else "done"

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the values.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        object
            What `compute` would have returned.

        Raises
        ------
        TimeoutError
            If the run is not over in time.
        ToilfnError
            As `compute` would have raised it.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the run on {self.store} did not finish within {timeout} seconds")
        if self._error is not None:
            raise self._error
        return self._value

    def kill(self) -> None:
        """Stop the run; the store can be resumed. Waits until it has stopped."""
        self._workflow_run.stop()
        self._thread.join()
