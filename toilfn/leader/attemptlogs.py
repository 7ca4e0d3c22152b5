"""The logs of attempts during a run: shown as they arrive, written to a directory and a log file."""

from __future__ import annotations

import gzip
import logging
import logging.handlers
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toilfn.config.settings import Settings
from toilfn.errors import InputError
from toilfn.ids import TaskId
from toilfn.model.records import Failure, Outcome

__all__ = ["AttemptLogs", "log_file"]

_BACKUPS = 5
"""How many old log files stay."""

_FAILED, _DONE = "failed.log", "done.log"
_TAKEN = (_FAILED, _DONE, f"{_FAILED}.gz", f"{_DONE}.gz")

_MOST_WARNINGS, _MOST_WARNINGS_OF_ONE_NAME = 200, 10
"""How many warnings of tasks are shown in a run, and of these how many of tasks of one name."""

_logger = logging.getLogger("toilfn.leader")


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
            _logger.warning("%s", text)

    def ended(self, name: str, attempt: Outcome | Failure) -> None:
        """Show the rest of an attempt's log, and keep it where the settings say."""
        label = f"{name} ({attempt.id.hex()[:12]}), attempt {attempt.attempt}"
        if isinstance(attempt, Failure):
            _logger.warning("%s failed (%s): %s", label, attempt.cause, attempt.message)
        else:
            _logger.info("%s is done after %.3f s", label, attempt.stats.wall)
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
