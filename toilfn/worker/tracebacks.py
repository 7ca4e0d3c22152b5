"""Exceptions for people: one line, and a traceback without toilfn's own frames."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator

from toilfn.errors import ToilfnError
from toilfn.text import abridged, last_lines

__all__ = ["misplaced_file", "missing_module", "one_line", "user_traceback"]

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_NOT_CORE = ("clusters", "cwl", "stores", "wdl")
"""Subpackages of toilfn whose frames say something to users."""
_LONGEST = 500
_MOST_LINES = 1000
"""Lines of a traceback that a store keeps; the text of an exception may have any number."""
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
    """Keep the frames of others, if there are any; say whether there are."""
    kept = [frame for frame in part.stack if not _is_core(frame.filename)]
    if kept:
        part.stack = traceback.StackSummary.from_list(kept)
    return bool(kept)


def _is_core(filename: str) -> bool:
    """Return whether a file belongs to the core of toilfn."""
    return filename.startswith(_PACKAGE) and filename[len(_PACKAGE) :].partition(os.sep)[0] not in _NOT_CORE
