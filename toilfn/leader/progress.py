"""Showing a person how far a run is: a bar on a terminal, a line from time to time elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO, cast

from toilfn.stdio import Unfailing
from toilfn.text import visible
from toilfn.units import format_duration

__all__ = ["Progress"]

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
        self._stream = Unfailing(stream or sys.stderr)
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
        """Report the state of the run; cheap enough to be called all the time.

        Parameters
        ----------
        counts : mapping of str to int
            How many tasks are in each state of the scheduler's: `toilfn.scheduler.Scheduler.counts`.
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

    def __init__(self, stream: Unfailing) -> None:
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

    def __init__(self, stream: Unfailing) -> None:
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
