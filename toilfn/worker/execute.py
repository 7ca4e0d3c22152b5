"""Run one attempt of a task, from its record to an outcome or a failure."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from toilfn.clusters.local.channel import AttemptPage, CurrentAttempt
from toilfn.errors import PermanentError, SerializationError, StoreError, ToilfnError
from toilfn.files.scratch import Scratch
from toilfn.files.task_files import TaskFiles
from toilfn.graph import options
from toilfn.graph.record import Recorded, RunningFunction, record, store_payload
from toilfn.graph.serialize import Main, dumps, load_function, loads, resolve
from toilfn.graph.structure import ATOMS
from toilfn.ids import Cause, TaskId
from toilfn.model import records
from toilfn.stdio import flush
from toilfn.text import abridged, last_lines
from toilfn.worker.context import Context
from toilfn.worker.payloads import BlobCache, Payloads, explained
from toilfn.worker.services import NOBODY, Host, serve
from toilfn.worker.surroundings import Surroundings
from toilfn.worker.usage import DiskUse, Meter, spare_memory

if TYPE_CHECKING:
    from toilfn.stores import Store

__all__ = ["Attempt", "AttemptRunner", "Output", "misplaced_file", "missing_module", "one_line", "user_traceback"]

_logger = logging.getLogger(__name__)

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_NOT_CORE = ("clusters", "cwl", "stores", "wdl")
"""Subpackages of toilfn whose frames are useful to users."""
_LONGEST = 500
_MOST_LINES = 1000
"""The most lines of a traceback that a store keeps; the text of an exception may be longer."""
_LAST_LINES = 20
"""Lines of a failed command's output that are shown."""


def one_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its text."""
    try:
        text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    except Exception as fault:
        text = f"{type(error).__qualname__} (its message cannot be shown: {type(fault).__qualname__})"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def misplaced_file(error: BaseException | None, start: str) -> str:
    """Describe a file that a task has not found but that is in the directory where the script was started, with a hint.

    Parameters
    ----------
    error : BaseException
        The exception of the task; its causes count too.
    start : str
        That directory.

    Returns
    -------
    str
        Empty when this is not what happened.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        name = error.filename if isinstance(error, FileNotFoundError) else None
        if isinstance(name, str) and not os.path.isabs(name) and start and os.path.exists(os.path.join(start, name)):
            return (
                f"{name!r} is in {start}, where the script was started, but each task starts in its own empty "
                f"directory: pass pathlib.Path({name!r}) as an argument, or run with own_directory=False"
            )
        error = error.__cause__ or error.__context__
    return ""


def missing_module(one: BaseException | None) -> str:
    """Describe a module that an import in a task has not found, with a hint.

    Returns
    -------
    str
        Which interpreter lacks it, or has another version of it; empty when this is not what happened.
    """
    where = f"{sys.executable} on {socket.gethostname()}"
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, ModuleNotFoundError) and one.name:
            package = one.name.partition(".")[0]
            found = "" if package == one.name or package not in sys.modules else f" in the {package} that it imports"
            return (
                f"{where} has no module {one.name!r}{found}: install it there, choose one that has it with "
                "python=..., or, if it is yours, import it at the top of the script, so that it is sent with the tasks"
            )
        if isinstance(one, ImportError) and one.name and one.path and one.name.partition(".")[0] != "__main__":
            imported = f"{where} imports {one.name!r} from {one.path}"
            return f"{imported}: it may be a different version from the one that the script needs"
        one = one.__cause__  # and not what the task was handling: it may do without that module
    return ""


def user_traceback(error: BaseException) -> str:
    """Format an exception and what caused it, without frames of the core of toilfn.

    It is empty for a `ToilfnError` with no other frames: its message says all. Where another error has only such
    frames, the fault is toilfn's, and they are shown.
    """
    try:
        return _formatted(error)
    except Exception as fault:  # an exception of the user's own may answer any question by another exception
        return f"the traceback of a {type(error).__qualname__} cannot be shown: {type(fault).__qualname__}\n"


def _formatted(error: BaseException) -> str:
    if isinstance(error, ToilfnError) and error.is_explained:
        said = "".join(traceback.format_exception_only(error))
        first, _, rest = said.partition("\n")
        return rest if first.strip() == one_line(error) else said
    whole = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = whole
    has_others = False
    while part is not None:
        has_others |= _leave_out_own(part)
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    if not has_others and isinstance(error, ToilfnError):
        return ""
    text = abridged("".join(whole.format()), _MOST_LINES // 2, _MOST_LINES // 2) + "\n"
    return text + "".join(_output(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, in the order of a traceback."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _output(error: BaseException) -> str:
    """Return the end of a failed command's output, which the exception of `subprocess` contains but does not show."""
    if not isinstance(error, (subprocess.CalledProcessError, subprocess.TimeoutExpired)):
        return ""
    parts = [("standard error", error.stderr), ("standard output", error.stdout)]
    texts = [(name, out.decode(errors="replace") if isinstance(out, bytes) else out or "") for name, out in parts]
    return "".join(f"The end of its {name}:\n{last_lines(out, _LAST_LINES)}\n" for name, out in texts if out.strip())


def _leave_out_own(part: traceback.TracebackException) -> bool:
    """Keep only the frames outside toilfn's core, if there are any; return whether there are."""
    kept = [frame for frame in part.stack if not _is_core(frame.filename)]
    if kept:
        part.stack = traceback.StackSummary.from_list(kept)
    return bool(kept)


def _is_core(filename: str) -> bool:
    """Return whether a file belongs to the core of toilfn."""
    return filename.startswith(_PACKAGE) and filename[len(_PACKAGE) :].partition(os.sep)[0] not in _NOT_CORE


T = TypeVar("T")


_LARGE_LOG = 64 * 1024
"""Logs with more bytes are kept in blobs."""


class Attempt(NamedTuple):
    """A task to run, and the limits of this attempt."""

    task: records.TaskRecord
    number: int
    """The number of the attempt, from 1."""
    limits: Mapping[str, Any]
    """See `docs/architecture.md`, "Messages between leader and worker"."""


class Output(Protocol):
    """The source of an attempt's log."""

    @property
    def position(self) -> int:
        """The position at which the next attempt's log starts."""

    def take(self) -> bytes:
        """Return the output since the last call."""


class _OnlyThisProcess:
    """Ends each process except its own when it leaves a ``with`` block.

    A task may fork, and the child may come back from the task's code, by an exception or by returning. It must not
    answer for the task, nor clean up after it: both are for its parent.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if os.getpid() != self._pid:
            status = 1
            try:
                status = _status_of(error)
                flush()
            finally:
                os._exit(status)


def _status_of(error: BaseException | None) -> int:
    """Return the exit status of a process after an exception, and print the message that the process would print."""
    if error is None:
        return 0
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code if isinstance(error.code, int) else 0
    with suppress(Exception):
        traceback.print_exception(error)
    return 1


class AttemptRunner:
    """Runs attempts, and keeps the objects that the next attempt may also need.

    Parameters
    ----------
    store : Store
        Where functions, large values and files are.
    output : Output
        Captures the output of attempts.
    page : AttemptPage
        Shows the cluster which task runs.
    surroundings : Surroundings
        Directory and environment of the attempts.
    fatal : type of exceptions, or several
        Exceptions that end the attempt without a record; all others are failures of the task.
    blobs : BlobCache, optional
        Reads the store's blobs, and may have some already.
    """

    def __init__(
        self,
        store: Store,
        output: Output,
        page: AttemptPage,
        surroundings: Surroundings,
        fatal: type[BaseException] | tuple[type[BaseException], ...],
        blobs: BlobCache | None = None,
    ) -> None:
        self._store = store
        self._output = output
        self._page = page
        self._surroundings = surroundings
        self._fatal = fatal
        self._scratch = Scratch()
        self._records: dict[bytes, records.Function] = {}
        self._recorded: set[bytes] = set()
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._mains: dict[bytes, Main] = {}
        self._told_requests = 0
        self._spare = spare_memory()
        self._disk: DiskUse | None = None
        self._only_this_process = _OnlyThisProcess()
        self.blobs = blobs or BlobCache(store.get_blob)

    def learn(self, functions: Iterable[records.Function], *, recorded: bool) -> None:
        """Add functions that tasks will name by their digests, with whether the store has their records."""
        for function in functions:
            self._records.setdefault(function.digest, function)
            if recorded:
                self._recorded.add(function.digest)

    def knows(self, task: records.TaskRecord) -> bool:
        """Return whether the task's function is one of those."""
        return task.function in self._records

    def options(self, task: records.TaskRecord) -> Mapping[str, Any]:
        """Return the options of the task's call, combined with those of its function's decorator."""
        function = self._records[task.function].options
        return options.merge(function, task.options) if task.options else function

    def run(self, attempt: Attempt, payloads: Payloads, host: Host = NOBODY) -> records.Outcome | records.Failure:
        """Run an attempt.

        Parameters
        ----------
        attempt : Attempt
            The task's function must be known.
        payloads : Payloads
            The values that the task needs.
        host : Host
            The hooks for the task if it is a service; by default it has no clients, and stops at once.
        """
        return self._surroundings.context().run(self._run, attempt, payloads, host)

    def _run(self, attempt: Attempt, payloads: Payloads, host: Host) -> records.Outcome | records.Failure:
        task = attempt.task
        settings = self.options(task)
        name = settings.get("name") or self._records[task.function].name
        meter = Meter()
        own = self._scratch.own_dir() if self._surroundings.has_own_directories else None
        context = Context(task.id, name, attempt.number, attempt.limits, self._scratch, own)
        disk = self._disk = DiskUse(context)
        files = TaskFiles(self._store, lambda: context.temp_dir)
        self._announce(attempt, meter)
        variables, directory = settings.get("env") or {}, -1 if own is None else own.fd
        self._surroundings.enter(task.id, meter.start, context.cores, variables, directory)
        try:
            with context, files, self._only_this_process:
                value = self._load(task, payloads)()
                if options.SERVICE in settings:
                    self._serve(value, task.id, host, settings[options.SERVICE])
                    value = None
                result: Recorded | BaseException = self._record(value, context, files, task, disk)
        except self._fatal:
            raise
        except BaseException as error:  # whatever a task raises is its own failure, SystemExit too
            result = error
        finally:
            context.close(disk.measure)
            self._surroundings.leave()
        return self._end(attempt, result, files, meter)

    def look(self) -> None:
        """Measure the disk space of the running attempt, if there is one; another thread calls this periodically."""
        disk = self._disk
        if disk is not None:
            disk.look()

    def close(self) -> None:
        """Remove the files that the attempts needed on this machine."""
        self._scratch.close()

    def _announce(self, attempt: Attempt, meter: Meter) -> None:
        limits = attempt.limits
        self._page.write(
            CurrentAttempt(
                attempt.task.id,
                meter.start,
                limits.get("memory") or 0,
                limits.get("walltime") or 0.0,
                self._output.position,
                time.monotonic(),
                meter.base,
                self._spare,
            )
        )

    def _load(self, task: records.TaskRecord, payloads: Payloads) -> partial[Any]:
        """Return the task's function together with its arguments."""
        function = self._function(task.function)
        values = resolve(task.needs, payloads) if task.needs else {}
        args, kwargs = loads(self.blobs.get(task.args), values)
        self._surroundings.restore_environment()
        return partial(function, *args, **kwargs)

    def _serve(self, made: Any, id_: TaskId, host: Host, interval: float) -> None:
        def announce(value: Any) -> None:
            host.announce(id_, store_payload(dumps(value)[0], self._store, []))

        serve(made, announce, host.wait, interval)

    def _function(self, digest: bytes) -> Callable[..., Any]:
        function = self._functions.get(digest)
        if function is None:
            function, self._mains[digest] = load_function(
                self.blobs.get(self._records[digest].payload), self._scratch.new_dir
            )
            self._functions[digest] = function
        self._surroundings.be_main(self._mains[digest])
        return function

    def _record(
        self, value: Any, context: Context, files: TaskFiles, task: records.TaskRecord, disk: DiskUse
    ) -> Recorded:
        try:
            # Files in a value are moved into the store, so the disk space is measured before.
            if (type(value) not in ATOMS and disk.measure()) or files.deleted:
                value = files.adopt(value)
            running = RunningFunction(self._records[task.function], self._functions[task.function])
            return record(value, context.spawned, task, self._store, self._recorded.__contains__, running)
        except SerializationError as error:
            # The frames of recording and pickling tell the user nothing.
            raise explained(error, value, context.name).with_traceback(None) from None

    def _end(
        self, attempt: Attempt, result: Recorded | BaseException, files: TaskFiles, meter: Meter
    ) -> records.Outcome | records.Failure:
        log = self._keep_log(_or_default(self._output.take, b""))
        stats = self._with_requests(_or_default(meter.read, records.Stats(meter.start)))
        if self._disk is not None and self._disk.peak:
            stats = stats._replace(disk=self._disk.peak)
        self._disk = None
        self._page.clear()
        if isinstance(result, BaseException):
            failure = _failure(attempt, result, log, stats)
            hint = missing_module(result)
            if not hint and self._surroundings.has_own_directories:
                hint = misplaced_file(result, self._surroundings.start)
            return failure._replace(message=f"{failure.message}; {hint}") if hint else failure
        return records.Outcome(
            attempt.task.id, attempt.number, result.value, result.refs, tuple(result.tasks), tuple(result.functions),
            (*result.blobs, *files.made), tuple(files.deleted), log, stats, tuple(files.temporary),
        )  # fmt: skip

    def _with_requests(self, stats: records.Stats) -> records.Stats:
        before, self._told_requests = self._told_requests, self._store.objects.requests
        return stats._replace(requests=self._told_requests - before) if self._told_requests != before else stats

    def _keep_log(self, log: bytes) -> bytes | records.BlobRef:
        if len(log) <= _LARGE_LOG:
            return log
        try:
            return self._store.put_blob(log)
        except StoreError:
            return log[-_LARGE_LOG:]


def _failure(
    attempt: Attempt, error: BaseException, log: bytes | records.BlobRef, stats: records.Stats
) -> records.Failure:
    if isinstance(error, BdbQuit):
        error = PermanentError(
            "the task starts a debugger, but a worker has no terminal",
            hint="use cluster='inline', or `toilfn debug` for this task alone",
        )
    cause = Cause.ERROR
    if isinstance(error, MemoryError):
        cause = Cause.MEMORY
    elif isinstance(error, (SerializationError, PermanentError)):
        cause = Cause.INPUT
    said, trace = one_line(error), user_traceback(error)
    return records.Failure(attempt.task.id, attempt.number, cause.value, said, trace, log, stats)


def _or_default(measure: Callable[[], T], default: T) -> T:
    """Return a function's result, or a default if it fails: a lost log must not lose the task's answer."""
    try:
        return measure()
    except Exception:
        _logger.exception("the output or the resource use of a task could not be determined")
        return default
