"""The functions that run workflows: `compute`, `submit`, `resume` and `rerun`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from toilfn.config.settings import Settings
from toilfn.errors import ENDS_OF_RUNS, GraphError, StoreNotFoundError, without_frames
from toilfn.graph.structure import is_collection, rebuild
from toilfn.graph.task import as_promise

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from toilfn.config.keywords import ResumeSettings, RunSettings
    from toilfn.ids import TaskId
    from toilfn.inspect.plan import Plan
    from toilfn.inspect.view import TaskInfo
    from toilfn.leader.loading import Force
    from toilfn.leader.run import WorkflowRun

__all__ = ["SOMETHING_TO_RUN", "DryRun", "Run", "Sketch", "compute", "instead_of_running", "rerun", "resume", "submit"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


SOMETHING_TO_RUN = 3
"""The exit status of a command with ``--dry-run`` if something would run."""


class _StopScriptError(SystemExit):
    """Ends the script in a dry run, at the first `compute` that has something to run."""


class DryRun:
    """Collects the plan of a command with ``--dry-run``.

    Attributes
    ----------
    plan : Plan or None
        The combined plan of all calls of `compute` so far; None before the first call.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None

    def add(self, wanted: Any, settings: Settings, force: Force) -> None:
        """Add the plan of a call of `compute`; end the script if something would run."""
        plan = _plan(wanted, settings, force)
        self.plan = plan if self.plan is None else plan.after(self.plan)
        if plan:
            raise _StopScriptError(SOMETHING_TO_RUN)


class Sketch:
    """Collects the tasks of a script, to draw its graph.

    Attributes
    ----------
    tasks : dict
        The tasks of all calls of `compute` so far, by id.
    """

    def __init__(self) -> None:
        self.tasks: dict[TaskId, TaskInfo] = {}

    def add(self, wanted: Any, settings: Settings, force: Force) -> None:
        """Add the tasks of a call of `compute`; end the script if something would run."""
        from toilfn.leader.planning import sketch_compute

        tasks, would_run = sketch_compute(wanted, settings)
        self.tasks |= {task.id: task for task in tasks}
        if would_run:
            raise _StopScriptError(SOMETHING_TO_RUN)


_watching: list[DryRun | Sketch] = []
"""The active dry run or sketch, if there is one."""

_Watching = TypeVar("_Watching", DryRun, Sketch)


@contextmanager
def instead_of_running(watching: _Watching) -> Iterator[_Watching]:
    """Pass each call of `compute` inside the block to a dry run or a sketch, instead of running it.

    If all results of a call are in the store, it returns them. The first call with something to run ends the script.
    """
    _watching.append(watching)
    try:
        yield watching
    finally:
        _watching.pop()


@overload
def compute(*promises: Any, dry_run: Literal[True], force: Any = (), **settings: Unpack[RunSettings]) -> Plan: ...
@overload
def compute(promise: A, /, *, force: Any = (), **settings: Unpack[RunSettings]) -> A: ...
@overload
def compute(first: A, second: B, /, *, force: Any = (), **settings: Unpack[RunSettings]) -> tuple[A, B]: ...
@overload
def compute(
    first: A, second: B, third: C, /, *, force: Any = (), **settings: Unpack[RunSettings]
) -> tuple[A, B, C]: ...
@overload
def compute(*promises: Any, force: Any = (), **settings: Unpack[RunSettings]) -> Any: ...
def compute(*promises: Any, dry_run: bool = False, force: Any = (), **settings: Unpack[RunSettings]) -> Any:
    """Run the tasks that promises need, and return the promises' values.

    Parameters
    ----------
    *promises
        Promises, or structures that contain promises. An empty list or dict is returned unchanged.
    dry_run : bool
        Return a `Plan` of what would run and what would be reused; run and write nothing.
    force : object or sequence of them
        Promises, tasks (which stand for all their calls) or names of tasks. They run again although they are done, and
        so do all tasks that depend on them.
    **settings
        ``store`` (path or URL; by default a temporary one), ``cluster`` (a cluster object or a name such as "local"
        or "inline"), ``clean`` ("always", "onError", "never", "onSuccess"), ``retries``, ``progress`` and all other
        keys of `toilfn.config.keywords.RunSettings`.

    Returns
    -------
    object
        The value of one promise; a tuple of values for several. With `dry_run`, a `Plan`.

    Raises
    ------
    FailedTasksError
        If tasks failed permanently; all tasks that did not depend on them have run.
    GraphError
        If there is no promise among the arguments, or `force` names something that is not part of the graph.
    StoreError
        If the store cannot be used.
    """
    from toilfn.leader.loading import Force
    from toilfn.leader.run import WorkflowRun

    wanted, resolved, forced = _wanted(promises), Settings.resolve(**settings), Force.of(force)
    if dry_run:
        return _plan(wanted, resolved, forced)
    if _watching:
        _watching[-1].add(wanted, resolved, forced)
    try:
        with WorkflowRun(resolved, workflow=_workflow(resolved)) as run:
            return run.compute(wanted, forced)
    except ENDS_OF_RUNS as error:
        raise without_frames(error) from None


def submit(*promises: Any, force: Any = (), **settings: Unpack[RunSettings]) -> Run:
    """Start a run in a thread of this process, and return at once; otherwise like `compute`.

    Parameters
    ----------
    *promises, force, **settings
        As for `compute`.

    Returns
    -------
    Run
        A handle with ``status()``, ``result()`` and ``kill()``.

    Raises
    ------
    GraphError, StoreError
        If the run cannot be started; for the same reasons as in `compute`.
    """
    from toilfn.leader.loading import Force
    from toilfn.leader.run import WorkflowRun

    wanted, resolved, forced = _wanted(promises), Settings.resolve(**settings), Force.of(force)
    if _watching:
        _watching[-1].add(wanted, resolved, forced)
    run = WorkflowRun(resolved, workflow=_workflow(resolved))
    return Run(run, lambda: run.compute(wanted, forced))


@overload
def resume(store: str | os.PathLike[str], *, dry_run: Literal[True], **settings: Unpack[ResumeSettings]) -> Plan: ...
@overload
def resume(store: str | os.PathLike[str], *, dry_run: bool = False, **settings: Unpack[ResumeSettings]) -> Any: ...
def resume(store: str | os.PathLike[str], *, dry_run: bool = False, **settings: Unpack[ResumeSettings]) -> Any:
    """Finish the newest run of a store.

    Parameters
    ----------
    store : str or path
        The store of a run that was killed, interrupted or failed.
    dry_run : bool
        Return a `Plan` of what would run; run and write nothing.
    **settings
        As for `compute`; the keys of `toilfn.config.keywords.ResumeSettings`.

    Returns
    -------
    object
        The value that `compute` would have returned. With `dry_run`, a `Plan`.

    Raises
    ------
    StoreNotFoundError
        If there is no store, or nothing was ever run in it.
    StoreLockedError
        If another leader runs it now.
    """
    from toilfn.leader.loading import NO_FORCE

    return _resume(store, NO_FORCE, dry_run=dry_run, **settings)


def rerun(
    store: str | os.PathLike[str],
    tasks: Sequence[str],
    *,
    downstream: bool = False,
    dry_run: bool = False,
    **settings: Unpack[ResumeSettings],
) -> Any:
    """Run finished tasks of a store's newest run again, and finish the run.

    Parameters
    ----------
    store : str or path
        The store.
    tasks : sequence of str
        Names of tasks, or starts of their ids.
    downstream : bool
        Whether all tasks that depend on them run again, too. Otherwise, besides the given tasks, only tasks run again
        whose values contain files of the given tasks.
    dry_run : bool
        Return a `Plan` of what would run; run and write nothing.
    **settings
        As for `resume`.

    Returns
    -------
    object
        The value that `compute` would have returned. With `dry_run`, a `Plan`.

    Raises
    ------
    InputError
        If the run has no task with one of the names or ids.
    StoreNotFoundError, StoreLockedError
        As for `resume`.
    """
    from toilfn.leader.loading import Force

    return _resume(store, Force(tuple(tasks), downstream), dry_run=dry_run, **settings)


def _resume(store: str | os.PathLike[str], force: Force, *, dry_run: bool, **settings: Any) -> Any:
    from toilfn.leader.run import WorkflowRun

    resolved = Settings.resolve(**{**settings, "store": store or ""})  # "" is refused; None would be ignored
    if dry_run:
        from toilfn.leader.planning import plan_resume

        return plan_resume(resolved, force)
    try:
        with WorkflowRun(resolved, create=False) as run:
            if not run.index.runs:
                raise StoreNotFoundError(f"store {store}: no workflow has run in it yet, so there is nothing to resume")
            return run.resume(force)
    except ENDS_OF_RUNS as error:
        raise without_frames(error) from None


def _plan(wanted: Any, settings: Settings, force: Force) -> Plan:
    """Return the plan of a run, without writing anything."""
    from toilfn.leader.planning import plan_compute

    return plan_compute(wanted, settings, force)


def _wanted(promises: tuple[Any, ...]) -> Any:
    """Check the arguments of `compute`, and convert other dask collections in them to promises."""
    if not promises:
        raise GraphError("compute() needs at least one promise", hint="call a task to get one")
    wanted = tuple(map(_checked, promises))
    return wanted[0] if len(wanted) == 1 else wanted


def _checked(item: Any) -> Any:
    """Convert the dask collections in a structure to promises; refuse a structure without any, unless it is empty."""
    leaves = found = 0

    def convert(leaf: Any) -> Any:
        nonlocal leaves, found
        leaves += 1
        found += is_collection(leaf)
        return as_promise(leaf)

    wanted = rebuild(item, convert)
    if leaves and not found:
        raise GraphError(f"compute() was given {item!r:.200}, which contains no promise", hint="call a task to get one")
    return wanted


def _workflow(settings: Settings) -> str:
    """Return the name of the workflow: the setting ``workflow``, or else the path of the script."""
    if settings.workflow:
        return settings.workflow
    script: str | None = getattr(sys.modules["__main__"], "__file__", None)
    if not script:
        return "interactive"
    with suppress(FileNotFoundError):  # a relative path, and the current directory no longer exists
        script = os.path.abspath(script)
    return script


class Run:
    """A run that `toilfn.submit` has started in the background.

    The run stops when this process ends; `toilfn resume` can then continue it.
    """

    def __init__(self, run: WorkflowRun, work: Callable[[], Any]) -> None:
        self._workflow_run = run
        self._work = work
        # The thread sets these before it ends; other threads read them only after it has ended, so they need no lock.
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
            Maximum time to wait, in seconds. The default is to wait until the run ends.

        Returns
        -------
        object
            The value or values that `compute` would have returned.

        Raises
        ------
        TimeoutError
            If the run does not end in time.
        ToilfnError
            If the run failed, the error that `compute` would have raised.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the run on {self.store} did not finish within {timeout} seconds")
        if self._error is not None:
            raise self._error
        return self._value

    def kill(self) -> None:
        """Stop the run, and wait until it has stopped. `toilfn resume` can continue it."""
        self._workflow_run.stop()
        self._thread.join()
