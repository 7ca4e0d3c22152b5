"""What Slurm's ResumeProgram and SuspendProgram do: turn names of nodes into machines of a cloud, and back."""

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
"""The administrator's comment of a job that was warned."""


def expand(nodes: str) -> list[str]:
    """Return the names that a Slurm expression such as ``cpu-[0-3],big-1`` stands for.

    Raises
    ------
    ClusterError
        If Slurm does not understand it, or is not there.
    """
    return scontrol("show", "hostnames", nodes).split()


def resume(description: Description, machines: Machines, names: Sequence[str]) -> list[str]:
    """Start machines for nodes, and let Slurm give up those that are not available.

    Slurm runs the jobs of a node that was given up elsewhere, and tries the node again after ``scaling.cooldown``.

    Parameters
    ----------
    description : Description
        The cluster.
    machines : Machines
        Where they come from.
    names : sequence of str
        Nodes, as Slurm names them.

    Returns
    -------
    list of str
        The nodes that were given up, each with the reason.
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
    """Set nodes down, so that Slurm looks elsewhere, and let it try them again later.

    Meanwhile the reason is there for people, and for leaders whose jobs have been given up with the nodes.
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
    """Remove what there is of nodes that did not come up in time, and let Slurm try them again.

    Slurm leaves such nodes down, so that without this a pool would lose one with each machine that fails to boot.
    """
    suspend(description, machines, names)
    scontrol("update", f"nodename={','.join(names)}", "state=resume")


def drain(node: str, reason: str) -> None:
    """Let a node take nothing new; Slurm powers it down when its jobs have left.

    Parameters
    ----------
    node : str
        Slurm's name for it.
    reason : str
        Why, for people who look at the node.

    Raises
    ------
    ClusterError
        If Slurm does not answer.
    """
    scontrol("update", f"nodename={node}", "state=power_down_asap", f"reason=toilfn: {reason}"[:200])


def warn(node: str, warned: set[str]) -> bool:
    """Send TERM to the jobs on a node, each of them once; return whether some have still to be warned.

    A second signal would interrupt a task that saves its state, so a job that was warned is marked in Slurm: the next
    `watch` on this machine, after a crash or beside this one, leaves it alone.

    Parameters
    ----------
    node : str
        Slurm's name for it.
    warned : set of str
        The jobs that were warned before; the others are added.

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
            _log.info("%s", error)  # the job has just ended, or Slurm is away for a moment
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
    """Run scontrol, and return what it prints.

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
        raise ClusterError(f"{command[0]} is not installed; run this on a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command)}: no response within 60 seconds") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        is_away = re.search(SlurmCluster.away, said, re.IGNORECASE)
        raise (UnavailableError if is_away else ClusterError)(f"{' '.join(command)}: {said}")
    return done.stdout
