"""A real Slurm whose nodes do not exist until jobs ask for them: its ResumeProgram starts a slurmd on this machine.

A machine is "made" as a cloud would make it: by toilfn's own programs, through `LocalMachines`, which may be told to
have none. It is an instance of its own beside `tests.servers.slurm`, without accounting.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, alive, end_process, main, wait_for
from toilfn.cloud.bootstrap import epilog, node_names
from toilfn.cloud.description import Description, PoolDescription, read
from toilfn.cloud.power import expand, restore, resume, suspend

DESCRIPTION = """\
name: local
region: here
scaling: {cooldown: 10s}
pools:
  - name: cpu
    types: [box]
    max: 2
  - name: none
    types: [rare]
    max: 1
  - name: slow
    types: [box]
    max: 1
  - name: spot
    types: [box]
    max: 2
    spot: true
"""

CONFIGURATION = """\
ClusterName=cloudy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26917
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,defer
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
MinJobAge=60
KillWait=2
SlurmdTimeout=20
SlurmdParameters=config_overrides
SlurmctldParameters=idle_on_node_suspend,cloud_reg_addrs
CommunicationParameters=NoAddrCache
PrivateData=cloud
ResumeProgram={folder}/resume
SuspendProgram={folder}/suspend
ResumeFailProgram={folder}/restore
Epilog={folder}/epilog
ResumeTimeout=30
SuspendTime=5
SuspendTimeout=5
BatchStartTimeout=60
DebugFlags=Power
{nodes}
PartitionName=all Nodes=cpu-[0-1] Default=YES MaxTime=INFINITE State=UP
PartitionName=none Nodes=none-0,cpu-0 MaxTime=INFINITE State=UP
PartitionName=slow Nodes=slow-0 MaxTime=INFINITE State=UP
PartitionName=spot Nodes=spot-[0-1] MaxTime=INFINITE State=UP
"""

PROGRAM = """\
#!/bin/sh
export SLURM_CONF={folder}/slurm.conf PYTHONPATH={root}
cd {root} && exec {python} -m tests.servers.slurmcloud {action} "$1" < /dev/null >> {folder}/power.log 2>&1
"""

PORT = 26921


class LocalMachines:
    """A cloud whose machines are processes here: each a slurmd that has just booted.

    Parameters
    ----------
    folder : Path
        Where Slurm's files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, pool: PoolDescription, names: Sequence[str]) -> dict[str, str]:
        """Boot machines; pool ``none`` never has any, and those of ``slow`` never come up."""
        if pool.name == "none":
            return {}
        for name in names if pool.name != "slow" else []:
            subprocess.run(["/usr/sbin/slurmd", "-b", "-N", name], check=True)
        return dict.fromkeys(names, "127.0.0.1")

    def terminate(self, names: Sequence[str]) -> None:
        """End machines, as abruptly as a cloud does."""
        for name in names:
            end_process(self._folder / f"slurmd-{name}.pid")


class SlurmCloud(Server):
    """A Slurm with two nodes in a cloud, two spot ones, one that the cloud never has, and one that never comes up."""

    name = "slurmcloud"
    packages = ("slurm-wlm", "munge")
    commands = ("slurmctld", "slurmd", "munged", "sbatch")

    @property
    def description(self) -> Description:
        """The cluster's description."""
        return read(DESCRIPTION)

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands find the configuration."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf"}

    def configure(self) -> None:
        """Write the configuration, the programs and munge's key."""
        if os.getuid():
            raise ServerMissingError("Slurm's daemons must be started by root")
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        host = socket.gethostname()
        names = [name for pool in self.description.pools for name in node_names(pool)]
        more = {"none-0": "Weight=1", "spot-0": "Weight=10 Features=spot", "spot-1": "Weight=20 Features=spot"}
        nodes = [f"NodeName={name} NodeHostname={host} CPUs=2 RealMemory=2000 State=CLOUD Port={PORT + i}"
                 f" {more.get(name, 'Weight=10')}" for i, name in enumerate(names)]  # fmt: skip
        text = CONFIGURATION.format(folder=self.folder, host=host, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(text)
        for action in ("resume", "suspend", "restore"):
            program = PROGRAM.format(
                folder=self.folder, root=Path(__file__).parents[2], python=sys.executable, action=action
            )
            (self.folder / action).write_text(program)
            (self.folder / action).chmod(0o755)
        (self.folder / "epilog").write_text(epilog(sys.executable, str(self.work)))
        (self.folder / "epilog").chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))

    def start(self) -> None:
        """Start munge and the controller; no node exists."""
        files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{option}={self.folder}/{name}" for option, name in files.items()]
        environment = os.environ | self.environment
        subprocess.run(["/usr/sbin/munged", "--force", *options], check=True, env=environment)
        subprocess.run(["/usr/sbin/slurmctld"], check=True, env=environment)
        wait_for(lambda: "UP" in self.run("scontrol", "ping"), "slurmctld")

    def stop(self) -> None:
        """End the nodes that exist, then the daemons."""
        for path in [*self.folder.glob("slurmd-*.pid"), self.folder / "slurmctld.pid", self.folder / "munged.pid"]:
            end_process(path)

    @property
    def work(self) -> Path:
        """The work directory that the nodes' epilog cleans."""
        return self.folder / "work"

    def state(self, node: str) -> str:
        """Return the state of a node as Slurm shows it, such as ``IDLE+CLOUD+POWERED_DOWN``."""
        words = self.run("scontrol", "show", "node", node).split()
        (found,) = [word.partition("=")[2] for word in words if word.startswith("State=")]
        return found

    def exists(self, node: str) -> bool:
        """Return whether a node's slurmd runs."""
        return alive(self.folder / f"slurmd-{node}.pid")

    def log(self) -> str:
        """Return the calls of Slurm's programs and their output."""
        path = self.folder / "power.log"
        return path.read_text() if path.exists() else ""


def program(action: str, nodes: str) -> None:
    """Do the work of Slurm's ResumeProgram or SuspendProgram."""
    server = SlurmCloud()
    machines, names = LocalMachines(server.folder), expand(nodes)
    print(action, names, flush=True)
    if action == "resume":
        print(resume(server.description, machines, names), flush=True)
    else:
        {"suspend": suspend, "restore": restore}[action](server.description, machines, names)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("resume", "suspend", "restore"):
        program(*sys.argv[1:3])
    else:
        main(SlurmCloud())
