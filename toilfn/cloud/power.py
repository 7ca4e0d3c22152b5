"""The programs that Slurm calls to start and remove the machines of its nodes (ResumeProgram, SuspendProgram)."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Mapping, Sequence

from toilfn.cloud.bootstrap import node_names
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.provider import Machines
from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.slurm import SlurmCluster
from toilfn.errors import ClusterError, InputError, ToilfnError

__all__ = ["drain", "expand", "restore", "resume", "scontrol", "suspend", "warn"]

_log = logging.getLogger(__name__)

_WARNED = "toilfn: warned, since the cloud takes the machine away"
"""The administrator's comment that marks a job that was warned."""


def expand(nodes: str) -> list[str]:
    """Expand a Slurm expression such as ``cpu-[0-3],big-1`` to the names of nodes.

    Raises
    ------
    ClusterError
        If Slurm rejects the expression, or its commands are not installed.
    """
    return scontrol("show", "hostnames", nodes).split()


def resume(description: Description, machines: Machines, names: Sequence[str]) -> list[str]:
    """Start machines for nodes, and set the nodes for which no machine is available to down.

    Slurm then runs the jobs of such a node on other nodes, and tries the node again after ``scaling.cooldown``.

    Parameters
    ----------
    description : Description
        The cluster.
    machines : Machines
        The machines of its pools.
    names : sequence of str
        The names of the nodes in Slurm.

    Returns
    -------
    list of str
        The nodes without a machine, each with the reason.
    """
    failures = []
    for pool, wanted in _by_pool(description, names):
        reason = f"no capacity for {', '.join(pool.types)}"
        try:
            addresses: Mapping[str, str] = machines.create(pool, wanted)
        except ToilfnError as error:
            addresses, reason = {}, " ".join(str(error).split())
        for name, address in addresses.items():
            scontrol("update", f"nodename={name}", f"nodeaddr={address}", f"nodehostname={name}")
        if missing := [name for name in wanted if name not in addresses]:
            _give_up(missing, f"toilfn: {reason}", description.scaling.cooldown)
            failures += [f"{name}: {reason}" for name in missing]
    return failures


def _give_up(names: Sequence[str], reason: str, cooldown: float) -> None:
    """Set nodes to down, so that Slurm uses others, and let Slurm try them again later.

    Until then, the reason of the nodes is visible to users, and to the leaders of jobs that waited for these nodes.
    """
    nodes = ",".join(names)
    scontrol("update", f"nodename={nodes}", "state=down", f"reason={reason[:200]}")
    again = 'sleep "$1"; scontrol update nodename="$2" state=power_down_force'
    subprocess.Popen(
        ["sh", "-c", again, "sh", f"{cooldown:g}", nodes], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def suspend(description: Description, machines: Machines, names: Sequence[str]) -> None:
    """Remove the machines of nodes."""
    _by_pool(description, names)
    machines.terminate(names)


def restore(description: Description, machines: Machines, names: Sequence[str]) -> None:
    """Remove the machines of nodes that did not start in time, and let Slurm try these nodes again.

    Otherwise they would stay down, and a pool would lose a node with each machine that fails to boot.
    """
    suspend(description, machines, names)
    scontrol("update", f"nodename={','.join(names)}", "state=resume")


def drain(node: str, reason: str) -> None:
    """Drain a node: it gets no new jobs, and Slurm powers it down when its jobs have ended.

    Parameters
    ----------
    node : str
        The name of the node in Slurm.
    reason : str
        The reason to show to users.

    Raises
    ------
    ClusterError
        If Slurm does not answer.
    """
    scontrol("update", f"nodename={node}", "state=power_down_asap", f"reason=toilfn: {reason}"[:200])


def warn(node: str, warned: set[str]) -> bool:
    """Send TERM to each job on a node once; return whether some jobs have not been warned yet.

    A second signal would interrupt a task that is saving its state. So Slurm records which jobs were warned, in case
    that `watch` is started again after a crash, or runs twice on this machine.

    Parameters
    ----------
    node : str
        The name of the node in Slurm.
    warned : set of str
        The jobs that were warned before. Those that are warned now are added.

    Raises
    ------
    ClusterError
        If Slurm does not answer.
    """
    columns = "JobID:30,State:30,admin_comment:60"
    shown = _slurm("squeue", "--noheader", f"--nodelist={node}", "--states=running,configuring", f"--Format={columns}")
    rows = [(line[:30].strip(), line[30:60].strip(), line[60:].strip()) for line in shown.splitlines()]
    warned |= {job for job, _, comment in rows if comment == _WARNED}
    for job in [job for job, state, _ in rows if state == "RUNNING" and job not in warned]:
        try:
            _slurm("scancel", "--signal=TERM", "--full", job)
            warned.add(job)
            _slurm("scontrol", "update", f"jobid={job}", f"admincomment={_WARNED}")
        except ClusterError as error:
            _log.info("%s", error)  # the job has just ended, or Slurm does not answer; the next call tries again
    return any(job not in warned for job, _, _ in rows)


def _by_pool(description: Description, names: Sequence[str]) -> list[tuple[PoolDescription, list[str]]]:
    owners = {name: pool for pool in description.pools for name in node_names(pool)}
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in owners:
            raise InputError(f"cluster {description.name}: none of its pools has a node {name!r}")
        found.setdefault(owners[name].name, []).append(name)
    return [(description.pool(pool), nodes) for pool, nodes in found.items()]


def scontrol(*arguments: str) -> str:
    """Run scontrol, and return its output.

    Raises
    ------
    UnavailableError
        If Slurm's controller does not answer; it may answer later.
    ClusterError
        If it fails for another reason.
    """
    return _slurm("scontrol", *arguments)


def _slurm(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise ClusterError(f"{command[0]} is not installed", hint="run this on a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command)}: no response within 60 seconds") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        is_away = re.search(SlurmCluster.away, said, re.IGNORECASE)
        raise (UnavailableError if is_away else ClusterError)(f"{' '.join(command)}: {said}")
    return done.stdout
