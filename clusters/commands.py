"""Running the commands of a batch system, and telling a refusal from a controller that is briefly away."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from typing import TypeVar

from toilfn.errors import ClusterError

__all__ = ["AwayError", "Commands", "CredentialsError", "pauses", "portions"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class AwayError(ClusterError):
    """The system's controller did not answer; it may in a while."""


class CredentialsError(AwayError):
    """The system does not accept our credentials. At the start they are wrong; later they have expired, and somebody
    may renew them in a while."""


class Commands:
    """Runs a system's commands.

    Parameters
    ----------
    away : str
        A regular expression for what the commands print when the controller is briefly away.
    timeout : float
        Seconds after which a command counts as not answered.
    """

    def __init__(self, away: str, timeout: float = 120.0) -> None:
        self._away = re.compile(away, re.IGNORECASE)
        self._timeout = timeout

    def run(self, command: Sequence[str], stdin: str = "", accept: Sequence[int] = (0,)) -> str:
        """Run a command and return what it prints.

        Parameters
        ----------
        command : sequence of str
        stdin : str
            What it reads.
        accept : sequence of int
            Exit statuses that are not errors.

        Raises
        ------
        AwayError
            If the controller is briefly away.
        ClusterError
            If it fails in any other way; carries its own words.
        """
        _log.debug("running %s", shlex.join(command))
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout,
                check=False,
            )
        except FileNotFoundError:
            raise ClusterError(
                f"The command {command[0]} is not on this machine's PATH: start the leader where the batch system's "
                "commands work, for example on a login node, or load their module first."
            ) from None
        except subprocess.TimeoutExpired:
            raise AwayError(f"{command[0]} gave no answer within {self._timeout:g} s") from None
        said = done.stderr.strip() or done.stdout.strip()
        if self._away.search(done.stderr):
            raise AwayError(f"{command[0]}: {said}")
        if done.returncode not in accept:
            raise ClusterError(f"{command[0]} failed with exit status {done.returncode}: {said}")
        return done.stdout


def pauses(patience: float, first: float = 0.5, longest: float = 30.0) -> Iterator[float]:
    """Give the seconds to wait before each further try, growing, until they add up to `patience`."""
    total, pause = 0.0, first
    while total < patience:
        yield pause
        total += pause
        pause = min(pause * 2, longest)


def portions(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of at most `most` items."""
    for start in range(0, len(items), most):
        yield items[start : start + most]
