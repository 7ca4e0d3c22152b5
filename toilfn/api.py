"""`compute`, `submit` and `resume`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar, overload

from toilfn.config.settings import Settings
from toilfn.errors import GraphError, StoreError, StoreNotFoundError
from toilfn.graph.structure import is_collection, rebuild
from toilfn.graph.task import as_promise

if TYPE_CHECKING:
    from toilfn.background import Run

__all__ = ["compute", "resume", "submit"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@overload
def compute(promise: A, /, **settings: Any) -> A: ...
@overload
def compute(first: A, second: B, /, **settings: Any) -> tuple[A, B]: ...
@overload
def compute(first: A, second: B, third: C, /, **settings: Any) -> tuple[A, B, C]: ...
@overload
def compute(*promises: Any, **settings: Any) -> Any: ...
def compute(*promises: Any, **settings: Any) -> Any:
    """Run what promises need, and give their values.

    Parameters
    ----------
    *promises
        Promises, or structures that hold some; an empty list or dict is its own value.
    **settings
        ``store`` (path or URL; a temporary one without), ``cluster`` (a cluster object or a name such
        as "local" or "inline"), ``clean`` ("always", "onError", "never", "onSuccess"), ``retries``,
        ``progress`` and all other fields of `toilfn.config.settings.Settings`.

    Returns
    -------
    object
        The value of one promise; a tuple of values for several.

    Raises
    ------
    FailedTasksError
        If tasks failed for good; what did not depend on them has run.
    GraphError
        If there is no promise among the arguments.
    StoreError
        If the store cannot be used.
    """
    from toilfn.leader.run import Session

    wanted, resolved = _wanted(promises), Settings.resolve(**settings)
    try:
        with Session(resolved, workflow=_workflow(resolved)) as session:
            return session.compute(wanted)
    except StoreError as error:
        from toilfn.stores.checked import without_frames

        raise without_frames(error) from None


def submit(*promises: Any, **settings: Any) -> Run:
    """Start what `compute` would do, in the background of this process.

    Parameters
    ----------
    *promises, **settings
        As for `compute`.

    Returns
    -------
    Run
        A handle with ``status()``, ``result()`` and ``kill()``.

    Raises
    ------
    GraphError, StoreError
        As `compute`, for what can be known before anything runs.
    """
    from toilfn.background import Run
    from toilfn.leader.run import Session

    wanted, resolved = _wanted(promises), Settings.resolve(**settings)
    session = Session(resolved, workflow=_workflow(resolved))
    return Run(session, lambda: session.compute(wanted))


def resume(store: str | os.PathLike[str], **settings: Any) -> Any:
    """Finish the newest run of a store.

    Parameters
    ----------
    store : str or path
        The store of a run that was killed, interrupted or failed.
    **settings
        As for `compute`.

    Returns
    -------
    object
        What `compute` would have returned.

    Raises
    ------
    StoreNotFoundError
        If there is no store, or nothing was ever run in it.
    StoreLockedError
        If another leader runs it now.
    """
    from toilfn.leader.run import Session

    try:
        with Session(Settings.resolve(**{**settings, "store": os.fspath(store)}), create=False) as session:
            if not session.index.runs:
                raise StoreNotFoundError(f"store {store}: no workflow has run in it yet, so there is nothing to resume")
            return session.resume()
    except StoreError as error:
        from toilfn.stores.checked import without_frames

        raise without_frames(error) from None


def _wanted(promises: tuple[Any, ...]) -> Any:
    """Check what `compute` was given, and turn other dask collections in it into promises."""
    if not promises:
        raise GraphError("compute() needs at least one promise", hint="call a task to get one")
    wanted = tuple(map(_checked, promises))
    return wanted[0] if len(wanted) == 1 else wanted


def _checked(item: Any) -> Any:
    """Turn the dask collections in a structure into promises; what is empty needs none."""
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
    """Name the workflow: what the user calls it, else the script's path."""
    if settings.workflow:
        return settings.workflow
    script = getattr(sys.modules["__main__"], "__file__", None)
    return os.path.abspath(script) if script else "interactive"
