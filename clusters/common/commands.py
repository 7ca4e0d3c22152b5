"""Run the commands of a batch system, and distinguish refusals from temporary outages.

A query (`Commands.ask`) either returns an answer or counts as an outage: no error message, exit status or failure to
start the command says anything about a job. The only exception is the system's message "no such job".
A site may print lines of its own before and after JSON: `json_values` finds it.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from toilfn.errors import ClusterError

__all__ = [
    "SET_CLOCK",
    "Answer",
    "Commands",
    "CredentialsError",
    "UnavailableError",
    "clock_hint",
    "has_beginning",
    "json_values",
    "pauses",
    "portions",
    "retried",
    "user_name",
]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_MISSING_HINT = (
    "start the leader where the batch system's commands work, for example on a login node, or load their module first"
)
_MOST_WORDS = 2000
"""Number of characters of a command's output to quote in an error."""


class UnavailableError(ClusterError):
    """The system did not answer, or its answer could not be parsed; it may answer later."""


class CredentialsError(UnavailableError):
    """The system rejected the credentials. At the start, they are wrong; later, they have expired, and the user may
    renew them."""


SET_CLOCK = "set this machine's clock and try again"
"""The hint for a request that a service refuses because this machine's clock is wrong."""


def clock_hint(error: Exception) -> str | None:
    """Return `SET_CLOCK` if a certificate was rejected for its dates: then this machine's clock is wrong. Else None."""
    is_other_time = re.search("certificate (is not yet valid|has expired)", str(error))
    return SET_CLOCK if is_other_time else None


class Answer(NamedTuple):
    """The output of a command, and whether it said that a requested job does not exist."""

    text: str
    is_absent: bool


class Commands:
    """Runs a system's commands.

    Parameters
    ----------
    away : str
        A regular expression for the messages of commands while the controller is temporarily unavailable.
    absent : str
        A regular expression for the system's message "no such job"; empty if it has none.
    timeout : float
        Seconds after which a command is killed and counts as unanswered.
    cleared : str
        A regular expression for environment variables that are not passed to commands: they would change a command's
        behaviour, or they belong to a job in which the leader itself runs. Empty: all variables are passed.
    """

    def __init__(self, away: str, absent: str = "", timeout: float = 120.0, cleared: str = "") -> None:
        self._away = re.compile(away, re.IGNORECASE)
        self._absent = re.compile(absent, re.IGNORECASE) if absent else None
        self._timeout = timeout
        self._cleared = re.compile(cleared) if cleared else None
        self._known: set[str] = set()

    def expect(self, names: Iterable[str]) -> None:
        """Check that commands exist. If one of them is missing later, that counts as an outage.

        Raises
        ------
        ClusterError
            If one of them is not on PATH. The hint says what to do.
        """
        for name in names:
            if shutil.which(name) is None:
                raise ClusterError(_missing(name), hint=_MISSING_HINT)
            self._known.add(name)

    def environment(self) -> dict[str, str]:
        """Return the environment of commands."""
        return {name: value for name, value in os.environ.items() if not self._is_cleared(name)}

    def ignored(self) -> list[str]:
        """Return the names of this process's environment variables that are not passed to commands."""
        return sorted(name for name in os.environ if self._is_cleared(name))

    def run(self, command: Sequence[str], stdin: str = "", accept: Sequence[int] = (0,)) -> str:
        """Run a command that changes something, and return its output.

        Parameters
        ----------
        command : sequence of str
        stdin : str
            Text for its standard input.
        accept : sequence of int
            Exit statuses that are not errors.

        Raises
        ------
        UnavailableError
            If the system is temporarily unavailable, the command could not be started, or it was killed by a signal.
            The command may nevertheless have had its effect.
        ClusterError
            If the system refuses. The error quotes its message.
        """
        done = self._started(command, stdin)
        if done.returncode == 0:
            return done.stdout
        said = _message(done)
        if self._away.search(done.stderr):
            raise UnavailableError(f"{command[0]}: {said}")
        if done.returncode in accept:
            return done.stdout
        if done.returncode < 0 or done.returncode in (126, 127):
            raise UnavailableError(f"{command[0]} {_end(done.returncode)}: {said}")
        raise ClusterError(f"{command[0]} failed with exit status {done.returncode}: {said}")

    def ask(self, command: Sequence[str], accept: Sequence[int] = ()) -> str:
        """Run a query, and return its output.

        Exit status 0 means that there is an answer, regardless of standard error. With any other status, there is an
        answer only if the system's message is "no such job".

        Parameters
        ----------
        command : sequence of str
        accept : sequence of int
            Other exit statuses that the command's documentation gives for a valid answer. Avoid them.

        Raises
        ------
        UnavailableError
            If there is no answer, for any reason.
        """
        return self.answer(command, accept).text

    def answer(self, command: Sequence[str], accept: Sequence[int] = ()) -> Answer:
        """Run a query like `ask`, and also return whether a job does not exist."""
        done = self._started(command, "")
        if done.returncode == 0:
            return Answer(done.stdout, False)
        said = _message(done)
        is_absent = self.is_absent(done.stderr + done.stdout)
        if not self._away.search(done.stderr) and (done.returncode in accept or is_absent):
            return Answer(done.stdout, is_absent)
        raise UnavailableError(f"{command[0]} {_end(done.returncode)}: {said}")

    def consult(self, command: Sequence[str]) -> str:
        """Run a query whose answer is optional, such as for a site's limits; return an empty text if it is refused.

        Raises
        ------
        UnavailableError
            If the system says that it is temporarily unavailable.
        """
        try:
            return self.run(command)
        except UnavailableError:
            raise
        except ClusterError as error:
            _log.info("%s; continuing without this information", error)
            return ""

    def is_absent(self, words: str) -> bool:
        """Return whether a text contains the system's message "no such job"."""
        return self._absent is not None and bool(self._absent.search(words))

    def _started(self, command: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
        _log.debug("running %s", shlex.join(command))
        try:
            done = subprocess.run(
                command,
                input=stdin.encode(errors="surrogateescape"),  # paths in a script need not be valid Unicode
                capture_output=True,
                timeout=self._timeout,
                check=False,
                env=self.environment(),
            )
        except FileNotFoundError:
            missing = _missing(command[0])
            raise (UnavailableError if command[0] in self._known else ClusterError)(
                missing, hint=_MISSING_HINT
            ) from None
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{command[0]} did not respond within {self._timeout:g} s") from None
        except OSError as error:  # for example, no more processes can be started, or the command's file system hangs
            raise UnavailableError(f"{command[0]} could not be started: {error}") from None
        self._known.add(command[0])
        return subprocess.CompletedProcess(command, done.returncode, _text(done.stdout), _text(done.stderr))

    def _is_cleared(self, name: str) -> bool:
        return self._cleared is not None and bool(self._cleared.fullmatch(name))


def _text(output: bytes) -> str:
    return output.decode(errors="replace").replace("\r\n", "\n")


def _missing(name: str) -> str:
    return f"command {name!r} not found on this machine's PATH"


def _end(status: int) -> str:
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the end of a command's output, without the command's name before each line; errors take precedence."""
    text = (done.stderr.strip() or done.stdout.strip())[-_MOST_WORDS:]
    return "\n".join(line.removeprefix(f"{done.args[0]}: ") for line in text.splitlines())


def pauses(patience: float, first: float = 0.5, longest: float = 30.0) -> Iterator[float]:
    """Yield the seconds to wait between attempts: twice as many each time, up to `longest`, `patience` in total."""
    total, pause = 0.0, first
    while total < patience:
        yield pause
        total += pause
        pause = min(pause * 2, longest)


def retried(ask: Callable[[], T], patience: float, tolerate: Callable[[UnavailableError], None]) -> T:
    """Repeat a request until the system answers, for at most `patience` seconds.

    Parameters
    ----------
    ask : callable
        Sends the request; it raises `UnavailableError` if there is no answer.
    patience : float
        Seconds to wait in total between the attempts.
    tolerate : callable
        Called with each `UnavailableError` but the last; it may raise an exception to give up early.

    Raises
    ------
    UnavailableError
        If the last attempt has no answer either.
    """
    for pause in pauses(patience):
        try:
            return ask()
        except UnavailableError as error:
            tolerate(error)
        time.sleep(pause)
    return ask()


def portions(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Split a sequence into parts of at most `most` items."""
    for start in range(0, len(items), most):
        yield items[start : start + most]


_DECODER = json.JSONDecoder(strict=False)
_BEGINNING = re.compile(r"^[ \t]*([\[{])", re.MULTILINE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_PLACES = 20
"""Maximum number of lines at which to try to parse JSON, so that a long output of other text costs little time."""


def json_values(text: str) -> Iterator[Any]:
    """Yield each complete JSON object or array that begins on a new line."""
    text = _SURROGATE.sub(r"\\ufffd", text)  # lone surrogates cannot be encoded
    for begin in itertools.islice(_BEGINNING.finditer(text), _PLACES):
        try:
            value, _ = _DECODER.raw_decode(text, begin.start(1))
        except (ValueError, RecursionError):
            continue
        yield value


def has_beginning(text: str) -> bool:
    """Return whether a text contains the beginning of a JSON value, complete or not."""
    return _BEGINNING.search(text) is not None


def user_name() -> str | None:
    """Return the user's name for a query, from the password database, since LOGNAME may name another user.

    None if the user id has no name, or if the batch systems would read the name as something else than one user: a
    list, a pattern, or a user and a host.
    """
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
    return name if re.fullmatch(r"\w[\w. -]*\$?", name) else None
