"""Set up the surroundings of an attempt, and restore its process for the next one.

A worker runs one attempt after the other, and no attempt may see the changes of an earlier one: `Surroundings` gives
each its directory and environment variables, and `ProcessState` restores what the attempt left altered.
"""

from __future__ import annotations

import contextvars
import ctypes
import gc
import locale
import logging
import operator
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from _locale import setlocale as _setlocale
from _signal import getsignal as _getsignal  # type: ignore[import-not-found]  # no enumerations
from _signal import pthread_sigmask as _sigmask
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from toilfn.ids import TaskId
from toilfn.model.traces import VARIABLE as TRACE_VARIABLE
from toilfn.model.traces import TraceContext, attempt_span
from toilfn.stdio import flush, text_output

__all__ = [
    "OWN_DIRECTORY_VARIABLE", "START_VARIABLE", "Surroundings", "in_forked_children", "put_back", "replace_variables",
]  # fmt: skip

OWN_DIRECTORY_VARIABLE = "TOILFN_OWN_DIRECTORY"
"""The environment variable that is 0 where attempts stay in the directory of their process."""

START_VARIABLE = "TOILFN_START_DIRECTORY"
"""The environment variable with the directory in which the script was started."""

_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)  # fmt: skip


class Surroundings:
    """Sets up the environment of an attempt, and restores the previous one.

    Parameters
    ----------
    limit_threads : bool
        Whether numerical libraries use as many threads as the task has cores, unless the user has set their number.
    is_worker : bool
        Whether the process exists for tasks alone. Another one is the user's own: its random numbers continue after a
        task where they were, and timers that it has set stay.
    is_shared : bool
        Whether other threads run tasks at the same time. Then only environment variables are set and put back: all else
        belongs to the whole process.
    """

    def __init__(self, *, limit_threads: bool, is_worker: bool = False, is_shared: bool = False) -> None:
        self._home = os.open(".", os.O_RDONLY)
        self._threads = [name for name in _THREADS if name not in os.environ] if limit_threads else []
        self._main = sys.modules["__main__"]
        self._cores = 0.0
        self._is_worker = is_worker
        self._replaced: dict[str, str | None] = {}
        self._state = None if is_shared else ProcessState(is_worker=is_worker)
        self.start = os.environ.get(START_VARIABLE, "")
        """The directory in which the script was started."""
        self._search_paths = _absolute_search_paths(self.start) if self.start else {}
        self._traces = None if is_shared else AttemptTraces.of_environment()
        self._own_directory = os.environ.get(OWN_DIRECTORY_VARIABLE, "1") != "0"

    @property
    def has_own_directories(self) -> bool:
        """Whether each attempt starts in its own directory."""
        return self._own_directory and self._state is not None and threading.current_thread() is threading.main_thread()

    def context(self) -> contextvars.Context:
        """Return a context for an attempt: context variables, the decimal context and the like end with it."""
        if self._is_worker:
            return contextvars.Context()
        context = contextvars.copy_context()
        if "decimal" in sys.modules:
            decimal = sys.modules["decimal"]
            context.run(lambda: decimal.setcontext(decimal.getcontext().copy()))
        return context

    def enter(
        self, task: TaskId, start: float, cores: float, variables: Mapping[str, str], directory: int = -1
    ) -> None:
        """Prepare an attempt with so many cores and these environment variables, in an open directory if given.

        `start` is the time of its begin in seconds since the epoch.
        """
        if cores != self._cores:
            self._cores = cores
            os.environ.update(dict.fromkeys(self._threads, str(max(1, int(cores)))))
            if self._state is not None:
                self._state.take()
        if self._traces is not None:
            self._trace(self._traces, task, start)
        if directory >= 0:
            os.fchdir(directory)
            if self._search_paths:
                variables = {**self._search_paths, **variables}
        if variables:
            self._replaced |= replace_variables(variables)

    def _trace(self, traces: AttemptTraces, task: TaskId, start: float) -> None:
        if self._is_worker and self._state is not None:
            self._state.expect(*traces.set(task, start))  # the next attempt replaces it
        else:
            self._replaced = {TRACE_VARIABLE: os.environ.get(TRACE_VARIABLE)}
            traces.set(task, start)

    def be_main(self, main: ModuleType) -> None:
        """Have a module be ``__main__`` until the attempt ends."""
        if self._state is not None:
            sys.modules["__main__"] = main

    def restore_environment(self) -> None:
        """Count all changes so far as earlier than the attempt: all that it needs is loaded, and its code runs next."""
        if self._state is not None:
            self._state.restore_environment(self._replaced)

    def leave(self) -> None:
        """Put back what `enter` and the attempt changed."""
        os.fchdir(self._home)
        if self._state is not None:
            sys.modules["__main__"] = self._main
        put_back(self._replaced)
        self._replaced = {}
        if self._state is not None:
            self._state.restore()


_SEARCH_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "CLASSPATH", "PERL5LIB", "R_LIBS", "R_LIBS_USER")
"""Environment variables with lists of folders in which commands look for programs and modules."""


def _absolute_search_paths(start: str) -> dict[str, str]:
    """Return the variables that contain relative folders, with these folders joined to a directory."""
    found = {}
    for name in _SEARCH_PATHS:
        parts = os.environ.get(name, "").split(os.pathsep)
        whole = os.pathsep.join(os.path.normpath(os.path.join(start, part)) if part else part for part in parts)
        if any(part and not os.path.isabs(part) for part in parts):
            found[name] = whole
    return found


def replace_variables(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Set environment variables, and return their previous values."""
    replaced = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    return replaced


def put_back(replaced: Mapping[str, str | None]) -> None:
    """Undo `replace_variables`."""
    for name, value in replaced.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class ProcessState:
    """Remembers the parts of a process that any code may change, as they were before a task.

    Most tasks change nothing, and `_is_same` sees that in a few microseconds.
    """

    def __init__(self, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._seeds = _Seeds(is_worker=is_worker)
        self._loggers = _Loggers()
        self._steps = (
            self._restore_environment, self._restore_path, self._restore_system, self._restore_python,
            self._restore_warnings, self._loggers.restore, self._seeds.restore,
        )  # fmt: skip
        self.take()

    def take(self) -> None:
        """Remember everything as it is now."""
        self._modules = len(sys.modules)
        self._temporary = None if self._is_worker else tempfile.tempdir
        self._environ, self._variables = os.environ, _variables().copy()
        self._path, self._entries = sys.path, sys.path.copy()
        self._argv, self._arguments = sys.argv, sys.argv.copy()
        self._umask = os.umask(0o77)
        os.umask(self._umask)
        self._handlers = _handlers()
        self._mask = _sigmask(signal.SIG_BLOCK, ())
        self._locale = locale.setlocale(locale.LC_ALL)
        self._warnings, self._filters = warnings.filters, list(warnings.filters)
        self._streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        self._attributes = [(owner, name, getattr(owner, name)) for owner, name in _ATTRIBUTES]
        self._objects = _objects()
        self._numbers = _numbers()
        self._loggers.take()

    def expect(self, name: bytes, value: bytes) -> None:
        """Treat a value of a variable as the one from before the task."""
        self._variables[name] = value

    def restore_environment(self, replaced: Mapping[str, str | None]) -> None:
        """Accept the changes by modules that were imported since, and seed random numbers again."""
        tempfile.tempdir = None  # the folder of earlier code: each task looks at its own TMPDIR
        if len(sys.modules) != self._modules:
            self.take()
            for name, value in replaced.items():  # these are the attempt's own
                self._variables.pop(os.fsencode(name), None)
                if value is not None:
                    self._variables[os.fsencode(name)] = os.fsencode(value)
        self._seeds.renew()

    def restore(self) -> None:
        """Put everything back. One part that cannot be put back does not keep the others from it."""
        tempfile.tempdir = self._temporary
        if self._is_worker and self._is_same():
            return
        for restore in self._steps:
            try:
                restore()
            except Exception:
                logging.getLogger(__name__).exception("the changes that a task made to its worker could not be undone")

    def _is_same(self) -> bool:
        """Return whether there is nothing to put back."""
        try:
            return (
                all(map(operator.is_, _objects(), self._objects))
                and _variables() == self._variables
                and sys.path == self._entries
                and sys.argv == self._arguments
                and warnings.filters == self._filters
                and _numbers() == self._numbers
                and not (sys.stdout.closed or sys.stderr.closed)
                and os.umask(self._umask) == self._umask
                and signal.getitimer(_ITIMER_REAL) == (0.0, 0.0)
                and _sigmask(signal.SIG_BLOCK, ()) == self._mask
                and _handlers() == self._handlers  # twice as quick as one by one
                and _setlocale(locale.LC_ALL) == self._locale
                and self._loggers.are_same()
            )
        except Exception:  # something is missing, or is of another kind now
            return False

    def _restore_environment(self) -> None:
        if os.environ is not self._environ:
            os.environ = self._environ  # noqa: B003  # the original object
        now = _variables()
        if now == self._variables:
            return
        zone = now.get(b"TZ")
        for name in now.keys() - self._variables.keys():
            del os.environb[name]
        for name, value in self._variables.items():
            if now.get(name) != value:
                os.environb[name] = value
        if zone != self._variables.get(b"TZ"):
            time.tzset()

    def _restore_path(self) -> None:
        if sys.path is not self._path:
            sys.path = self._path
        if sys.path != self._entries:
            sys.path[:] = self._entries
        if sys.argv is not self._argv or sys.argv != self._arguments:
            sys.argv, sys.argv[:] = self._argv, self._arguments

    def _restore_system(self) -> None:
        os.umask(self._umask)
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        socket.setdefaulttimeout(self._numbers[1])
        if threading.current_thread() is not threading.main_thread():
            return  # only that one may set handlers
        _sigmask(_SIG_SETMASK, self._mask)
        if self._is_worker:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not all(map(operator.is_, map(_getsignal, _SIGNALS), self._handlers)):
            for number, handler, before in zip(_SIGNALS, _handlers(), self._handlers, strict=True):
                if handler is not before:
                    signal.signal(number, signal.SIG_DFL if before is None else before)

    def _restore_python(self) -> None:
        self._restore_streams()
        for owner, name, value in self._attributes:
            if getattr(owner, name, None) is not value:
                setattr(owner, name, value)
        recursion, _, collects, interval, trace, profile = self._numbers
        if sys.getrecursionlimit() != recursion:
            sys.setrecursionlimit(recursion)
        (gc.enable if collects else gc.disable)()
        sys.setswitchinterval(interval)
        if sys.gettrace() is not trace:
            sys.settrace(trace)
        if sys.getprofile() is not profile:
            sys.setprofile(profile)

    def _restore_streams(self) -> None:
        """Put standard output and error back; a worker that a task has taken them from gets new ones."""
        for name, fd in (("stdout", 1), ("stderr", 2)):
            now, stream = getattr(sys, name), self._streams[name]
            if now is not stream:
                flush(now)
            if self._is_worker and not _is_usable(stream):
                stream = self._streams[name] = text_output(fd)
                setattr(sys, f"__{name}__", stream)
            if now is not stream:
                setattr(sys, name, stream)
        self._objects = _objects()

    def _restore_warnings(self) -> None:
        if warnings.filters is not self._warnings:
            warnings.filters = self._warnings
        if warnings.filters != self._filters:
            warnings.resetwarnings()  # which also forgets what was decided by the old filters
            self._warnings[:] = self._filters  # type: ignore[index]  # a list, whatever typeshed says


_ATTRIBUTES: tuple[tuple[Any, str], ...] = (
    (sys, "stdin"), (sys, "excepthook"), (sys, "displayhook"),
    (threading, "excepthook"), (warnings, "showwarning"), (warnings, "formatwarning"),
)  # fmt: skip

_SIGNALS = sorted(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
_SIG_SETMASK = int(signal.SIG_SETMASK)
_ITIMER_REAL = int(signal.ITIMER_REAL)


def _numbers() -> tuple[int, float | None, bool, float, Any, Any]:
    """Return the numbers and functions that Python has for the whole process or thread."""
    return (
        sys.getrecursionlimit(), socket.getdefaulttimeout(), gc.isenabled(), sys.getswitchinterval(), sys.gettrace(),
        sys.getprofile(),
    )  # fmt: skip


def _objects() -> tuple[object, ...]:
    """Return the single objects that a task may replace."""
    return (
        os.environ, sys.path, sys.argv, sys.stdin, sys.stdout, sys.stderr, sys.excepthook, sys.displayhook,
        threading.excepthook, warnings.filters, warnings.showwarning, warnings.formatwarning, logging.root.manager,
    )  # fmt: skip


def _handlers() -> list[Any]:
    return [*map(_getsignal, _SIGNALS)]


def _variables() -> dict[bytes, bytes]:
    """Return the dictionary behind `os.environ`, which compares a hundred times as quickly."""
    variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return variables


def _is_usable(stream: Any) -> bool:
    try:
        return stream is not None and not stream.closed
    except ValueError:  # its buffer is detached
        return False


class _Seeds:
    """The generators of random numbers that all code of a process shares: those of `random` and of `numpy.random`.

    No task of a worker finds them as another one has left them. In the user's own process they also are what they
    were, afterwards.
    """

    def __init__(self, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._python = _Generator(random, random.Random, bytes)
        self._numpy: _Generator | None = None
        self._undo: list[Callable[[], None]] = []

    def renew(self) -> None:
        """Seed the random generators that a task has used with unpredictable numbers."""
        if not self._is_worker:
            self._remember()
        self._python.renew()
        if (numpy := sys.modules.get("numpy.random")) is not None:
            if self._numpy is None:
                self._numpy = _Generator(numpy, numpy.RandomState, _words)
            self._numpy.renew()

    def restore(self) -> None:
        """Go back to where they were, in the user's own process."""
        undo, self._undo = self._undo, []
        for step in undo:
            step()

    def _remember(self) -> None:
        state = random.getstate()
        self._undo = [lambda: random.setstate(state)]
        if (numpy := sys.modules.get("numpy.random")) is not None:
            legacy = numpy.get_state()
            self._undo.append(lambda: numpy.set_state(legacy))


class _Generator:
    """A shared generator of random numbers, and whether someone has used it.

    To seed it takes as long as most of what else is done around a small task. So it has a twin, which no one else
    knows, with the same seed, and both draw at the same times: as long as they draw the same, no one else has drawn
    from this one or seeded it, and what it gives next is as unpredictable as after the seed.

    Parameters
    ----------
    shared : module
        Its functions ``random`` and ``seed``.
    twin : callable
        Makes another generator of the same kind.
    form : callable
        Makes a seed for it of bytes.
    """

    def __init__(self, shared: Any, twin: Callable[[], Any], form: Callable[[bytes], Any]) -> None:
        self._shared = shared
        self._twin = twin()
        self._form = form

    def renew(self) -> None:
        """Seed it unless it is unused."""
        if self._shared.random() != self._twin.random():
            seed = self._form(os.urandom(32))
            self._shared.seed(seed)
            self._twin.seed(seed)


def _words(data: bytes) -> list[int]:
    return memoryview(data).cast("I").tolist()


class _Loggers:
    """Levels, handlers and filters of all loggers."""

    _state = operator.itemgetter("level", "disabled", "propagate", "handlers", "filters")

    def take(self) -> None:
        """Remember them as they are now."""
        self._manager = logging.root.manager
        self._disabled = self._manager.disable
        self._known = self._all()
        self._attributes = [*map(vars, self._known)]  # twice as quick to read as attributes
        self._states = [
            (*plain, [*handlers], [*filters]) for *plain, handlers, filters in map(self._state, self._attributes)
        ]
        self._count = len(self._manager.loggerDict)

    def are_same(self) -> bool:
        """Return whether there is nothing to put back."""
        manager = self._manager
        return (
            manager.disable == self._disabled
            and len(manager.loggerDict) == self._count
            and list(map(self._state, self._attributes)) == self._states
        )

    def restore(self) -> None:
        """Restore all loggers; new loggers get the default settings."""
        if self._manager.disable != self._disabled:
            self._manager.disable = self._disabled
        if len(self._manager.loggerDict) != self._count:
            for logger in self._all()[len(self._known) :]:
                self._known.append(logger)
                self._attributes.append(vars(logger))
                self._states.append((logging.NOTSET, False, True, [], []))
            self._count = len(self._manager.loggerDict)
        for logger, state in zip(self._known, self._states, strict=True):
            if self._state(vars(logger)) != state:
                self._reset(logger, *state)

    def _all(self) -> list[logging.Logger]:
        known = getattr(self, "_known", [logging.root])
        seen = set(known)
        found = self._manager.loggerDict.values()
        return [*known, *(logger for logger in found if isinstance(logger, logging.Logger) and logger not in seen)]

    def _reset(
        self,
        logger: logging.Logger,
        level: int,
        disabled: bool,
        propagate: bool,
        handlers: list[Any],
        filters: list[Any],
    ) -> None:
        if logger.level != level:
            logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
        logger.handlers[:], logger.filters[:] = handlers, filters


_NAME = TRACE_VARIABLE.encode()


class AttemptTraces:
    """Sets ``TRACEPARENT`` for one attempt after the other, so that spans of its programs are below the attempt's own.

    `os.putenv` keeps each value for ever, and an attempt may be one of a million. So the entry of the environment is
    our own memory, as putenv(3) allows, and only the digits of the span's id change.

    Parameters
    ----------
    run : TraceContext
        The run's span.
    """

    def __init__(self, run: TraceContext) -> None:
        before, after = f"00-{run.trace}-".encode(), f"-{run.flags}".encode()
        self._ends = before, after
        self._entry = ctypes.create_string_buffer(_NAME + b"=" + str(run).encode())
        start = len(_NAME) + 1 + len(before)
        self._digits = memoryview(self._entry).cast("B")[start : start + 16]
        self._put = ctypes.CDLL(None).putenv
        self._variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
        _entries.append(self._entry)  # the environment points to it for as long as the process lives

    @classmethod
    def of_environment(cls) -> AttemptTraces | None:
        """Return what sets the variable below the span that it names now; None if it names none."""
        run = TraceContext.read(os.environ.get(TRACE_VARIABLE, ""))
        return None if run is None else cls(run)

    def set(self, task: TaskId, start: float) -> tuple[bytes, bytes]:
        """Set the variable for an attempt, and return its name and value."""
        span = attempt_span(task, start).encode()
        self._digits[:] = span
        self._put(self._entry)  # it may have been replaced
        value = self._variables[_NAME] = self._ends[0] + span + self._ends[1]
        return _NAME, value


_entries: list[ctypes.Array[Any]] = []


def in_forked_children(forget: Callable[[], None]) -> None:
    """Have a function that removes a handler of SIGTERM called in each process that this one forks.

    SIGTERM waits until then: one that came before would call the handler, or be lost with it.
    """
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def begin() -> None:
        forget()
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=begin)
