"""Show people how a run proceeds: its progress, the logs of its attempts, and the hooks that are called at its end.

`Progress` is a bar on a terminal, and a line from time to time elsewhere. `call_hook` serves the settings
``on_success`` and ``on_failure``: commands and URLs.
"""

from __future__ import annotations

import gzip
import json
import logging
import logging.handlers
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, cast
from urllib.parse import urlsplit

from toilfn.config.settings import Settings
from toilfn.errors import InputError, ToilfnError
from toilfn.ids import TaskId
from toilfn.model.records import Failure, Outcome
from toilfn.stdio import LenientStream
from toilfn.stores import Store
from toilfn.text import visible
from toilfn.units import format_duration

__all__ = ["AttemptLogs", "Progress", "call_hook", "log_file"]

_log = logging.getLogger(__name__)
_attempts_log = logging.getLogger("toilfn.leader")

_PATIENCE = 0.5
"""Seconds before progress is shown: a shorter run needs no bar, nor the import of the package that draws it."""
_STEP = 0.2
"""Seconds between two states that are shown."""
_INTERVAL = 10.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Progress reports of a leader on its run, on standard error.

    Parameters
    ----------
    show : bool or None
        False is silent. True and None show a bar on a terminal, and elsewhere a line every ten seconds and
        at the end. None shows nothing of a run that is over at once.
    stream : file, optional
        Where to write instead of standard error.

    Examples
    --------
    >>> with Progress() as progress:
    ...     progress.update({"waiting": 108, "running": 2, "complete": 10}, lambda: ["sort_chunk", "sort_chunk"])
    """

    def __init__(self, show: bool | None = None, stream: TextIO | None = None) -> None:
        self._show = show
        self._stream = LenientStream(stream or sys.stderr)
        self._display: _Display | None = None
        self._counts: Mapping[str, int] = {}
        self._running: Sequence[str] = ()
        self._began = self._next = time.monotonic()

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to count the time."""
        self._began = time.monotonic()
        self._next = self._began + _PATIENCE

    def update(self, counts: Mapping[str, int], running: Callable[[], Sequence[str]] = tuple) -> None:
        """Report the state of the run; calls are cheap, so make them often.

        Parameters
        ----------
        counts : mapping of str to int
            How many tasks are in each state of the scheduler: see `toilfn.scheduler.Scheduler.counts`.
        running : callable
            Gives the names of tasks that are running; called when the state is shown, a few times a second at most.
        """
        self._counts = counts
        now = time.monotonic()
        if self._show is not False and now >= self._next:
            self._next = now + _STEP
            self._running = running()
            self._shown().show(self._line(), self._done, self._total)

    def message(self, text: str) -> None:
        """Write a line that stays, above the bar if there is one; control characters are escaped."""
        text = visible(text)
        if self._display is not None:
            self._display.message(text)
        else:
            print(text, file=self._stream)

    def stop(self) -> None:
        """Stop reporting. May be called twice, and without `start`."""
        if self._show is True and self._counts:
            self._shown()
        if self._display is not None:
            self._display.stop(self._line(), self._done, self._total)
        self._display, self._counts = None, {}

    @property
    def _done(self) -> int:
        return self._counts.get("complete", 0) + self._counts.get("expanded", 0)

    @property
    def _total(self) -> int:
        return sum(self._counts.values())

    def _shown(self) -> _Display:
        if self._display is None:
            terminal = self._stream.isatty()
            self._display = _Bar(self._stream) if terminal else _Lines(self._stream)
        return self._display

    def _line(self) -> str:
        """Return the state in one line, such as ``12/80 tasks, 2 running, 12.5s, 1.0 tasks/s (sort x 2)``."""
        elapsed = time.monotonic() - self._began
        rate = self._done / max(elapsed, 1e-9)
        parts = [f"{self._done}/{self._total} tasks"]
        parts += [f"{count} {word}" for word in ("running", "failed") if (count := self._counts.get(word, 0))]
        parts += [format_duration(round(elapsed, 1)), f"{rate:.{0 if rate >= 10 else 1}f} tasks/s"]
        return ", ".join(parts) + _names(self._running)


def _names(running: Sequence[str]) -> str:
    """Name the three most frequent kinds of running tasks."""
    often = Counter(visible(name, one_line=True) for name in running).most_common(4)
    shown = [name if count == 1 else f"{name} x {count}" for name, count in often[:3]]
    return f" ({', '.join(shown + ['...'] * (len(often) > 3))})" if shown else ""


class _Display(Protocol):
    def show(self, line: str, done: int, total: int) -> None: ...
    def message(self, text: str) -> None: ...
    def stop(self, line: str, done: int, total: int) -> None: ...


class _Lines:
    """Plain lines, at most one every few seconds."""

    def __init__(self, stream: LenientStream) -> None:
        self._stream = stream
        self._next = time.monotonic() + _INTERVAL

    def show(self, line: str, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _INTERVAL
            self.message(line)

    def message(self, text: str) -> None:
        print(text, file=self._stream)

    def stop(self, line: str, done: int, total: int) -> None:
        self.message(line)


class _Bar:
    """One line of a terminal that is drawn over and over."""

    def __init__(self, stream: LenientStream) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Rich
        from rich.table import Column

        bar = BarColumn(bar_width=20, table_column=Column(min_width=20))
        line = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._rich = Rich(bar, line, console=Console(file=cast(TextIO, stream)), refresh_per_second=5)
        self._task = self._rich.add_task("")
        self._rich.start()

    def show(self, line: str, done: int, total: int) -> None:
        self._rich.update(self._task, description=line, completed=done, total=total)

    def message(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False)

    def stop(self, line: str, done: int, total: int) -> None:
        self.show(line, done, total)
        self._rich.stop()


_BACKUPS = 5
"""How many old log files stay."""

_FAILED, _DONE = "failed.log", "done.log"
_TAKEN = (_FAILED, _DONE, f"{_FAILED}.gz", f"{_DONE}.gz")

_MOST_WARNINGS, _MOST_WARNINGS_OF_ONE_NAME = 200, 10
"""How many warnings of tasks are shown in a run, and of these how many of tasks of one name."""


class AttemptLogs:
    """Handles the logs of attempts as the settings say.

    Parameters
    ----------
    settings : Settings
    read : callable
        Gives the whole log of an attempt that ended.
    show : callable
        Writes a line for people to see.

    Attributes
    ----------
    is_needed : bool
        Whether the settings ask for anything.
    """

    def __init__(
        self, settings: Settings, read: Callable[[Outcome | Failure], bytes], show: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._folder = Path(settings.write_logs) if settings.write_logs else None
        self._read = read
        self._show = show
        self._shown: Counter[TaskId] = Counter()
        self._warned: Counter[str] = Counter()
        self.is_needed = bool(settings.write_logs or settings.stream_logs or settings.log_file)

    def said(self, name: str, id: TaskId, text: bytes) -> None:
        """Show the output of a running attempt."""
        self._shown[id] += len(text)
        for line in text.decode(errors="replace").splitlines():
            self._show(f"{name}: {line}")

    def warned(self, name: str, text: str) -> None:
        """Show a limited number of messages that a running task has logged at the level WARNING or above."""
        if self._warned.total() >= _MOST_WARNINGS or self._warned[name] > _MOST_WARNINGS_OF_ONE_NAME:
            return
        self._warned[name] += 1
        if self._warned[name] > _MOST_WARNINGS_OF_ONE_NAME:
            self._warn(f"further warnings of {name} are not shown here; `toilfn logs` shows the log of each task")
            return
        self._warn(f"{name}: {text}")
        if self._warned.total() == _MOST_WARNINGS:
            self._warn("further warnings of tasks are not shown here; `toilfn logs` shows the log of each task")

    def _warn(self, text: str) -> None:
        self._show(text)
        if self._settings.log_file:
            _attempts_log.warning("%s", text)

    def ended(self, name: str, attempt: Outcome | Failure) -> None:
        """Show the rest of an attempt's log, and keep it where the settings say."""
        label = f"{name} ({attempt.id.hex()[:12]}), attempt {attempt.attempt}"
        if isinstance(attempt, Failure):
            _attempts_log.warning("%s failed (%s): %s", label, attempt.cause, attempt.message)
        else:
            _attempts_log.info("%s is done after %.3f s", label, attempt.stats.wall)
        if self._settings.stream_logs:
            log = self._read(attempt)
            self.said(name, attempt.id, log[self._shown[attempt.id] :])
            del self._shown[attempt.id]
        if self._folder is not None and (isinstance(attempt, Failure) or self._settings.write_logs_success):
            self._write(self._folder, name, attempt)

    def _write(self, folder: Path, name: str, attempt: Outcome | Failure) -> None:
        text = self._read(attempt) + (attempt.traceback.encode() if isinstance(attempt, Failure) else b"")
        folder.mkdir(parents=True, exist_ok=True)
        label = "-".join([re.sub(r"[^\w.-]+", "_", name), attempt.id.hex()[:12]])
        file = _numbered(folder / label, attempt.attempt, _FAILED if isinstance(attempt, Failure) else _DONE)
        if self._settings.write_logs_gzip:
            file, text = file.with_name(f"{file.name}.gz"), gzip.compress(text)
        file.write_bytes(text)


def _numbered(label: Path, number: int, end: str) -> Path:
    """Name an attempt's file: after those of earlier runs, in which the numbers began at 1, too."""
    while any(label.with_name(f"{label.name}-{number}-{taken}").exists() for taken in _TAKEN):
        number += 1
    return label.with_name(f"{label.name}-{number}-{end}")


@contextmanager
def log_file(settings: Settings) -> Iterator[None]:
    """Write what toilfn logs in this process to the file that the settings name, which is replaced when it is large.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    if settings.log_file is None:
        yield
        return
    try:
        handler = logging.handlers.RotatingFileHandler(
            settings.log_file, maxBytes=settings.log_file_size, backupCount=_BACKUPS
        )
    except OSError as error:
        raise InputError(f"the log file {settings.log_file} cannot be written: {error}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("toilfn")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


_HOOK_TIMEOUT = 60.0
"""Seconds that a hook may take."""


def call_hook(settings: Settings, store: Store, status: str) -> None:
    """Report the end of a run to its hook, if there is one; warn if that does not work, since the run's result stands.

    Parameters
    ----------
    settings : Settings
        Its hooks are http or https URLs, which get the run's summary by POST; commands as lists; or lines for the
        shell. Commands read the summary from standard input.
    store : Store
    status : str
        As in `toilfn.model.records.End`.
    """
    name = "on_success" if status == "done" else "on_failure"
    hook = getattr(settings, name)
    if hook is None:
        return
    try:
        data = json.dumps(_summary(store)).encode()
        if isinstance(hook, str) and hook.startswith(("http://", "https://")):
            _post(hook, data)
        else:
            _run(hook, data)
    except (ToilfnError, OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning("the hook %s failed: %s; this does not change the result of the run", name, _reason(hook, error))


def _summary(store: Store) -> dict[str, Any]:
    from toilfn.inspect.fold.run import Fold
    from toilfn.inspect.stores import summary

    fold = Fold()
    fold.update(store)
    fold.stop_running()
    return summary(store.url, fold, None)


def _post(url: str, data: bytes) -> None:
    from urllib.request import Request, urlopen

    request = Request(url, data, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - by the caller
    with urlopen(request, timeout=_HOOK_TIMEOUT) as answer:  # noqa: S310 - http or https, as the caller has checked
        answer.read()


def _run(command: str | Sequence[str], data: bytes) -> None:
    """Run a command; its output goes to standard error, like the leader's messages."""
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=_standard_error(), start_new_session=True)
    try:
        with suppress(BrokenPipeError):  # it need not read the summary
            process.communicate(data, timeout=_HOOK_TIMEOUT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    if status:
        raise subprocess.CalledProcessError(status, arguments)


def _standard_error() -> int | None:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or a stream of a notebook or a test
        return 2


def _reason(hook: str | Sequence[str], error: Exception) -> str:
    """Return why a hook failed, without the path of a URL or the arguments of a command, which may be secrets."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"it exited with status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not finish within {_HOOK_TIMEOUT:.0f} s"
    if isinstance(hook, str) and hook.startswith("http"):
        return f"{urlsplit(hook).hostname}: {getattr(error, 'reason', None) or error}"
    return str(error)
