"""Torque; `toilfn.clusters.pbs.cluster` has the base class that it shares with PBS Professional."""

from __future__ import annotations

import math

from toilfn.clusters.common.commands import AwayError
from toilfn.clusters.pbs.answers import TORQUE_EXITS, xml_jobs
from toilfn.clusters.pbs.cluster import PBSBase, kilobytes, time_request
from toilfn.resources import Resources

__all__ = ["TorqueCluster"]


class TorqueCluster(PBSBase):
    """Runs tasks as Torque jobs; see `JobSettings` and `PBSSettings` for the settings."""

    name = "torque"
    index = "PBS_ARRAYID"
    array_option = "-t"
    exits = TORQUE_EXITS

    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Return the values of ``-l``."""
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        nodes = f"nodes=1:ppn={math.ceil(resources.cores)}" + (f":gpus={gpus}" if gpus else "")
        return [nodes, f"mem={kilobytes(resources)}kb", *time_request(walltime)]

    def status(self, *arguments: str) -> dict[str, dict[str, str]]:
        """Run qstat and return each job's attributes; see `PBSBase.status`."""
        answer = self.commands.answer(["qstat", "-t", "-f", "-x", *arguments])
        jobs = xml_jobs(answer.text, answer.is_absent)
        if jobs is None:
            raise AwayError(f"qstat -x returned invalid XML: {answer.text[:300]!r}")
        return jobs
