"""Two ways to talk to HTCondor's schedd: its commands, and its Python bindings (the package ``htcondor``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from toilfn.clusters.common.commands import AwayError, Commands
from toilfn.clusters.common.json_output import has_beginning
from toilfn.clusters.htcondor.answers import ATTRIBUTES, json_ads
from toilfn.errors import ClusterError

__all__ = ["AWAY", "Bindings", "CommandQueue", "NoticesError", "Queue", "chosen_queue"]

AWAY = (
    "Failed to (connect|fetch ads|commit|query|start)|Can't (find address|connect)|Couldn't contact|communication error"
    "|timed out|[Uu]nable to (locate|connect)|SECMAN|AUTHENTICATE|Connection (refused|reset)|QMGMT|not responding"
)
"""A regular expression for the messages of a temporarily unavailable schedd."""

Ad: TypeAlias = dict[str, Any]


class NoticesError(AwayError):
    """The answer is text without any job: either a notice of the site, since HTCondor prints nothing if there are no
    jobs, or a failure."""


class Queue(Protocol):
    """A connection to a schedd. A submission is the id of an HTCondor cluster; a job is such an id, or ``4711.3``."""

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """Submit a description with the user's additional arguments; return the answer, ``4711.0 - 4711.3``."""

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """Return the ads of the jobs of some clusters in the queue, or, without clusters, of all jobs of this user."""

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """Return the ads of jobs that have left the queue."""

    def remove(self, jobs: Sequence[str]) -> None:
        """End jobs or whole clusters."""


class CommandQueue:
    """A connection through HTCondor's commands."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """Run condor_submit; see `Queue.submit`."""
        return self._commands.run(["condor_submit", "-terse", *arguments], description)

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """Run condor_q; see `Queue.queued`."""
        return self._ads("condor_q", clusters)

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """Run condor_history; see `Queue.history`."""
        return self._ads("condor_history", clusters)

    def remove(self, jobs: Sequence[str]) -> None:
        """Run condor_rm; see `Queue.remove`."""
        self._commands.run(["condor_rm", *jobs])

    def _ads(self, command: str, clusters: Sequence[str]) -> list[Ad]:
        output = self._commands.ask([command, *clusters, "-json", "-attributes", ",".join(ATTRIBUTES)])
        ads = json_ads(output)
        if ads is None:
            kind = AwayError if has_beginning(output) else NoticesError
            raise kind(f"{command} -json returned invalid JSON: {output[:300]!r}")
        return ads


class Bindings:
    """A connection through version 2 of HTCondor's Python bindings, which start no process for each query.

    Raises
    ------
    ImportError
        If the module ``htcondor2`` is not installed.
    """

    def __init__(self) -> None:
        import htcondor2

        self._module = htcondor2

    def finds_schedd(self) -> bool:
        """Return whether HTCondor's configuration on this machine names a schedd."""
        try:
            self._module.Schedd()
        except self._module.HTCondorException:
            return False
        return True

    def submit(self, description: str, arguments: Sequence[str]) -> str:
        """See `Queue.submit`. Arguments must be ``name=value``, as for ``condor_submit -append``."""
        wrong = [word for word in arguments if "=" not in word or word.startswith("-")]
        if wrong:
            raise ClusterError(
                f"submit_args: the Python bindings do not accept {wrong[0]!r}",
                hint="set bindings=False, or use name=value",
            )
        lines = "".join(f"{word}\n" for word in arguments)
        result = self._call(lambda: self._module.Schedd().submit(self._module.Submit(lines + description)))
        return f"{result.cluster()}.0 - {result.cluster()}.0\n"

    def queued(self, clusters: Sequence[str]) -> list[Ad]:
        """See `Queue.queued`."""
        options = self._module.QueryOpt.Default if clusters else self._module.QueryOpt.DefaultMyJobsOnly
        return self._ads(lambda: self._module.Schedd().query(_any(clusters), list(ATTRIBUTES), opts=options))

    def history(self, clusters: Sequence[str]) -> list[Ad]:
        """See `Queue.history`."""
        return self._ads(lambda: self._module.Schedd().history(_any(clusters), list(ATTRIBUTES)))

    def remove(self, jobs: Sequence[str]) -> None:
        """See `Queue.remove`."""
        constraint = " || ".join(map(_is, jobs))
        self._call(lambda: self._module.Schedd().act(self._module.JobAction.Remove, constraint))

    def _ads(self, ask: Any) -> list[Ad]:
        try:
            found = list(ask())
        except self._module.HTCondorException as error:  # a failed query says nothing about jobs
            raise AwayError(f"htcondor: {error}") from error
        return [{name: ad[name] for name in ATTRIBUTES if name in ad} for ad in found]

    def _call(self, ask: Any) -> Any:
        try:
            return ask()
        except self._module.HTCondorException as error:
            kind = AwayError if re.search(AWAY, str(error)) else ClusterError
            raise kind(f"htcondor: {error}") from error


def chosen_queue(commands: Commands, wanted: bool | None) -> Queue:
    """Return the bindings if they are wanted, or if they are installed and find a schedd; else the commands.

    Raises
    ------
    ClusterError
        If the bindings are wanted and not installed.
    """
    if wanted is False:
        return CommandQueue(commands)
    try:
        bindings = Bindings()
    except ImportError as error:
        if wanted:
            raise ClusterError(
                f"bindings=True needs optional packages: {error}", hint="pip install 'toilfn[htcondor]'"
            ) from error
        return CommandQueue(commands)
    return bindings if wanted or bindings.finds_schedd() else CommandQueue(commands)


def _any(clusters: Sequence[str]) -> str:
    return " || ".join(map(_is, clusters)) or "true"


def _is(job: str) -> str:
    """Return a ClassAd expression that matches this job, or all jobs of this cluster."""
    cluster, _, process = job.partition(".")
    return f"(ClusterId == {int(cluster)} && ProcId == {int(process)})" if process else f"ClusterId == {int(cluster)}"
