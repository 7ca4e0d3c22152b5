"""A fake schedd for HTCondor's Python bindings: the same jobs as the fake commands'.

It stands in for ``htcondor2.Schedd`` alone: submit descriptions, constraints, ClassAds and constants are the real
package's. It follows the bindings' documentation of ``Schedd.submit``, ``query``, ``history`` and ``act``.
"""

from __future__ import annotations

from typing import Any

import classad2
import htcondor2

from tests.servers.fake import engine, htcondor
from tests.servers.fake.engine import RefusedError


class Result:
    """The result of `Schedd.submit`."""

    def __init__(self, number: int) -> None:
        self._number = number

    def cluster(self) -> int:
        """Return the number of the new cluster."""
        return self._number


class Schedd:
    """See ``htcondor2.Schedd``."""

    def __init__(self) -> None:
        if engine.is_away():
            raise htcondor2.HTCondorException("Unable to locate local daemon.")

    def submit(self, description: Any) -> Result:
        """Submit a real ``htcondor2.Submit``."""
        assert isinstance(description, htcondor2.Submit)
        values, count = dict(description.items()), int(description.getQArgs())
        if unknown := values.keys() - htcondor.KEYS:
            raise htcondor2.HTCondorException(f"Failed to commit: unknown {sorted(unknown)}")
        plain = {name: value.replace("$(DOLLAR)", "$") for name, value in values.items()}
        try:
            return Result(htcondor.queued(plain, count)[0])
        except RefusedError as error:
            raise htcondor2.HTCondorException(str(error)) from error

    def query(self, constraint: str, projection: list[str], *, opts: Any) -> list[Any]:
        """Return the ads in the queue."""
        assert opts in (htcondor2.QueryOpt.Default, htcondor2.QueryOpt.DefaultMyJobsOnly)
        return self._ads(constraint, projection, (1, 2, 5))

    def history(self, constraint: str, projection: list[str]) -> list[Any]:
        """Return the ads of jobs that have left the queue."""
        return self._ads(constraint, projection, (3, 4))

    def act(self, action: Any, job_spec: str) -> None:
        """Remove all jobs that a constraint holds for."""
        assert action == htcondor2.JobAction.Remove
        for one in self._ads(job_spec, ["ClusterId", "ProcId"], (1, 2, 5)):
            htcondor.remove(one["ClusterId"], one["ProcId"])

    def _ads(self, constraint: str, projection: list[str], statuses: tuple[int, ...]) -> list[Any]:
        expression = classad2.ExprTree(constraint)
        found = [classad2.ClassAd(values) for values in htcondor.ads(statuses)]
        fitting = [one for one in found if expression.eval(one) is True]
        return [classad2.ClassAd({name: one[name] for name in projection if name in one}) for one in fitting]
