"""Torque; see `toilfn.clusters.pbs` for what it has in common with PBS Professional."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree as ET

from toilfn.clusters.base import JobId
from toilfn.clusters.pbs import PBSBase, kilobytes, time_request
from toilfn.clusters.words.pbs import TORQUE_EXITS
from toilfn.errors import ClusterError
from toilfn.resources import Resources

__all__ = ["TorqueCluster"]


class TorqueCluster(PBSBase):
    """Run tasks as Torque jobs; see `JobSettings` and `PBSSettings` for what it can be told."""

    name = "torque"
    index = "PBS_ARRAYID"
    array_option = "-t"
    exits = TORQUE_EXITS

    def request(self, resources: Resources, walltime: float | None) -> list[str]:
        """Give the values of ``-l``."""
        gpus = sum(accelerator.count for accelerator in resources.accelerators)
        nodes = f"nodes=1:ppn={math.ceil(resources.cores)}" + (f":gpus={gpus}" if gpus else "")
        return [nodes, f"mem={kilobytes(resources)}kb", *time_request(walltime)]

    def status(self, *arguments: str) -> Iterator[tuple[JobId, Mapping[str, str]]]:
        """Run qstat and give each job's attributes."""
        output = self.commands.run(["qstat", "-t", "-f", "-x", *arguments], accept=(0, 153))
        try:
            root = ET.fromstring(output or "<Data/>")  # noqa: S314  # it comes from the scheduler that runs our code
        except ET.ParseError as error:
            raise ClusterError(f"qstat -x answered what is not XML ({error}): {output[:300]}") from None
        for job in root.iter("Job"):
            attributes = {child.tag: child.text or "" for child in job}
            yield JobId(attributes["Job_Id"]), attributes
