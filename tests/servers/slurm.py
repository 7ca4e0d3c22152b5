"""A real Slurm: munge, slurmdbd with its own MariaDB, slurmctld, and several slurmd as nodes of one machine.

``python -m tests.servers.slurm start`` prints the variables that make Slurm's commands find it.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, alive, end_process, main, wait_for

CONFIGURATION = """\
ClusterName=toilfn
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26817
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
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0,defer
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={folder}/munge.sock
AccountingStoragePort=26819
AccountingStorageEnforce=limits,qos
MaxArraySize=1001
MaxJobCount=10000
MinJobAge={min_job_age}
KillWait=2
OverTimeLimit=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=4 RealMemory=8000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=26821
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=26822 Gres=gpu:k80:2
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port=26823
NodeName=n4 NodeHostname={host} NodeAddr=127.0.0.1 Port=26824
PartitionName=DEFAULT State=UP MaxTime=INFINITE
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=10
PartitionName=fragile Nodes=n3 PriorityTier=10
PartitionName=patient Nodes=n4 PriorityTier=10
PartitionName=urgent Nodes=n4 PriorityTier=100 PreemptMode=OFF
"""

DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=26819
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm
StorageUser=root
"""


class Slurm(Server):
    """A cluster whose nodes have four cores each, whatever the machine has.

    Two are for everybody; a test may take that of ``fragile`` down, and jobs of ``urgent`` preempt ``patient`` ones.
    With ``--qos=single`` each user has one running job at a time.
    """

    name = "slurm"
    packages = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
    commands = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "sacct")
    nodes = ("n1", "n2", "n3", "n4")
    min_job_age = 60

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands find the configuration, and the database its socket."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "MYSQL_UNIX_PORT": f"{self.folder}/mysql.sock"}

    def configure(self) -> None:
        """Write slurm.conf, slurmdbd.conf, gres.conf and munge's key."""
        if os.getuid():
            raise ServerMissingError("Slurm's daemons must be started by root")
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        values = {"folder": self.folder, "host": socket.gethostname(), "min_job_age": self.min_job_age}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (self.folder / "gres.conf").write_text("NodeName=n2 Name=gpu Type=k80 File=/dev/zero,/dev/null\n")
        self._private("slurmdbd.conf", DATABASE.format(**values).encode())
        self._private("munge.key", os.urandom(1024))

    def start(self) -> None:
        """Start all daemons, each after the one that it needs."""
        self._munge()
        self._mariadb()
        self._daemon("slurmdbd")
        wait_for(lambda: self.run("sacctmgr", "-n", "list", "cluster") is not None, "slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", "toilfn", check=False)
        self.run("sacctmgr", "-i", "add", "qos", "single", "MaxJobsPerUser=1", check=False)
        self.run("sacctmgr", "-i", "modify", "user", "root", "set", "qos+=single", check=False)
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        wait_for(self.is_idle, "the nodes to be idle")

    def stop(self) -> None:
        """Cancel all jobs and stop the daemons, last one first."""
        if alive(self.folder / "slurmctld.pid"):
            self.run("scancel", "--user=root", check=False)
        for name in (*(f"slurmd-{node}" for node in self.nodes), "slurmctld", "slurmdbd", "mysql", "munged"):
            end_process(self.folder / f"{name}.pid")

    def start_controller(self) -> None:
        """Start slurmctld, also after `stop_controller`."""
        self._daemon("slurmctld")
        wait_for(lambda: "UP" in self.run("scontrol", "ping"), "slurmctld")

    def stop_controller(self) -> None:
        """Stop slurmctld alone: its commands fail, and running jobs continue."""
        end_process(self.folder / "slurmctld.pid")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, also after `stop_node`."""
        self._daemon("slurmd", "-N", node)

    def stop_node(self, node: str) -> None:
        """Stop a node's slurmd; its jobs continue until the controller gives the node up."""
        end_process(self.folder / f"slurmd-{node}.pid")

    def is_idle(self) -> bool:
        """Return whether all nodes are up and idle."""
        return set(self.run("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"}

    def _daemon(self, program: str, *arguments: str) -> None:
        subprocess.run([f"/usr/sbin/{program}", *arguments], env=os.environ | self.environment, check=True)

    def _munge(self) -> None:
        files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        self._daemon("munged", "--force", *(f"--{option}={self.folder}/{name}" for option, name in files.items()))

    def _mariadb(self) -> None:
        user = "mysql"
        data = self.folder / "mysql"
        data.mkdir()
        os.chown(data, pwd.getpwnam(user).pw_uid, -1)
        options = ["--no-defaults", f"--user={user}", f"--datadir={data}"]
        prepare = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(prepare, check=True, capture_output=True)
        options += [f"--socket={data}/mysql.sock", f"--pid-file={data}/mysql.pid", "--skip-networking"]
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", f"--log-error={data}/log"]
        subprocess.run(["setsid", "--fork", "/usr/sbin/mariadbd", *options], check=True)
        wait_for((data / "mysql.sock").exists, "MariaDB")
        for name in ("mysql.sock", "mysql.pid"):
            (self.folder / name).symlink_to(data / name)

    def _private(self, name: str, content: bytes) -> None:
        path: Path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


if __name__ == "__main__":
    main(Slurm())
