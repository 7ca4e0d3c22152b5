"""Running the commands of a batch system, and telling a refusal from a system that is briefly away.

A command that only asks (`Commands.ask`) has an answer, or there is an outage: nothing that it may say, no exit status
and no failure to start it, means anything about a job. Only the system's own words for "there is no such job" do.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from toilfn.errors import ClusterError

__all__ = ["Answer", "AwayError", "Commands", "CredentialsError", "pauses", "portions"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_MOST_WORDS = 2000
"""How many characters of what a command said are repeated in an error."""


class AwayError(ClusterError):
    """The system did not answer, or its answer cannot be understood; it may in a while."""


class CredentialsError(AwayError):
    """The system does not accept our credentials. At the start they are wrong; later they have expired, and somebody
    may renew them in a while."""


class Answer(NamedTuple):
    """The output of a command, and whether it said that a requested job does not exist."""

    text: str
    is_absent: bool


class Commands:
    """Runs a system's commands.

    Parameters
    ----------
    away : str
        A regular expression for what the commands print when the controller is briefly away.
    absent : str
        A regular expression for the system's own words for "there is no such job". Empty: there are none.
    timeout : float
        Seconds after which a command counts as not answered.
    cleared : str
        A regular expression for the names of environment variables that the commands do not get: they would change
        what a command does, or belong to a job that the leader itself runs in.
    """

    def __init__(self, away: str, absent: str = "", timeout: float = 120.0, cleared: str = "") -> None:
        self._away = re.compile(away, re.IGNORECASE)
        self._absent = re.compile(absent, re.IGNORECASE) if absent else None
        self._timeout = timeout
        self._cleared = re.compile(cleared) if cleared else None
        self._known: set[str] = set()

    def expect(self, names: Iterable[str]) -> None:
        """Check that commands exist; if one is gone later, that is an outage.

        Raises
        ------
        ClusterError
            If one of them is not on PATH; says what to do.
        """
        for name in names:
            if shutil.which(name) is None:
                raise ClusterError(_missing(name))
            self._known.add(name)

    def environment(self) -> dict[str, str]:
        """Return the environment that the commands get."""
        return {name: value for name, value in os.environ.items() if not self._is_cleared(name)}

    def ignored(self) -> list[str]:
        """List the variables of this process's environment that the commands do not get."""
        return sorted(name for name in os.environ if self._is_cleared(name))

    def run(self, command: Sequence[str], stdin: str = "", accept: Sequence[int] = (0,)) -> str:
        """Run a command that does something, and return what it prints.

        Parameters
        ----------
        command : sequence of str
        stdin : str
            Text for its standard input.
        accept : sequence of int
            Exit statuses that are not errors.

        Raises
        ------
        AwayError
            If the system is briefly away, the command could not be started or a signal killed it: it may have done
            its work all the same.
        ClusterError
            If the system refuses; carries its own words.
        """
        done = self._started(command, stdin)
        if done.returncode == 0:
            return done.stdout
        said = (done.stderr.strip() or done.stdout.strip())[-_MOST_WORDS:]
        if self._away.search(done.stderr):
            raise AwayError(f"{command[0]}: {said}")
        if done.returncode in accept:
            return done.stdout
        if done.returncode < 0 or done.returncode in (126, 127):
            raise AwayError(f"{command[0]} {_end(done.returncode)}: {said}")
        raise ClusterError(f"{command[0]} failed with exit status {done.returncode}: {said}")

    def ask(self, command: Sequence[str], accept: Sequence[int] = ()) -> str:
        """Run a command that only asks, and return its answer.

        With exit status 0 there is an answer, whatever is on standard error. With any other there is one only where
        the system says in its own words that there is no such job.

        Parameters
        ----------
        command : sequence of str
        accept : sequence of int
            Further exit statuses with which the command is documented to answer, whatever it says. Avoid them.

        Raises
        ------
        AwayError
            If there is no answer, for whatever reason.
        """
        return self.answer(command, accept).text

    def answer(self, command: Sequence[str], accept: Sequence[int] = ()) -> Answer:
        """Run a command that only asks, as `ask` does, and say as well whether it knows of no such job."""
        done = self._started(command, "")
        if done.returncode == 0:
            return Answer(done.stdout, False)
        said = (done.stderr.strip() or done.stdout.strip())[-_MOST_WORDS:]
        is_absent = self.is_absent(done.stderr + done.stdout)
        if not self._away.search(done.stderr) and (done.returncode in accept or is_absent):
            return Answer(done.stdout, is_absent)
        raise AwayError(f"{command[0]} {_end(done.returncode)}: {said}")

    def consult(self, command: Sequence[str]) -> str:
        """Run a command whose answer only refines something, such as a site's limits; empty if it is refused.

        Raises
        ------
        AwayError
            If the system is briefly away, by its own words.
        """
        try:
            return self.run(command)
        except AwayError:
            raise
        except ClusterError as error:
            _log.info("%s: done without", error)
            return ""

    def is_absent(self, words: str) -> bool:
        """Return whether these are the system's own words for "there is no such job"."""
        return self._absent is not None and bool(self._absent.search(words))

    def _started(self, command: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
        _log.debug("running %s", shlex.join(command))
        try:
            done = subprocess.run(
                command,
                input=stdin.encode(errors="surrogateescape"),  # a script may name a folder whose name is not Unicode
                capture_output=True,
                timeout=self._timeout,
                check=False,
                env=self.environment(),
            )
        except FileNotFoundError:
            missing = _missing(command[0])
            raise (AwayError if command[0] in self._known else ClusterError)(missing) from None
        except subprocess.TimeoutExpired:
            raise AwayError(f"{command[0]} did not respond within {self._timeout:g} s") from None
        except OSError as error:  # no process can be started now, or the command's file system is away
            raise AwayError(f"{command[0]} could not be started: {error}") from None
        self._known.add(command[0])
        return subprocess.CompletedProcess(command, done.returncode, _text(done.stdout), _text(done.stderr))

    def _is_cleared(self, name: str) -> bool:
        return self._cleared is not None and bool(self._cleared.fullmatch(name))


def _text(output: bytes) -> str:
    return output.decode(errors="replace").replace("\r\n", "\n")


def _missing(name: str) -> str:
    return (
        f"The command {name} is not on this machine's PATH: start the leader where the batch system's "
        "commands work, for example on a login node, or load their module first."
    )


def _end(status: int) -> str:
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def pauses(patience: float, first: float = 0.5, longest: float = 30.0) -> Iterator[float]:
    """Return the seconds to wait before each further try, growing, until they add up to `patience`."""
    total, pause = 0.0, first
    while total < patience:
        yield pause
        total += pause
        pause = min(pause * 2, longest)


def portions(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of at most `most` items."""
    for start in range(0, len(items), most):
        yield items[start : start + most]
