"""Build the boot data that turns machines into a Slurm cluster: cloud-init's files, and Slurm's configuration."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

import toilfn
from toilfn.cloud import image
from toilfn.cloud.description import Description, PoolDescription
from toilfn.cloud.machines import MachineType, usable
from toilfn.errors import ClusterError

__all__ = ["Secrets", "controller_data", "epilog", "node_names", "slurm_conf", "worker_data"]

_MIB = 2**20
_HOME = "/opt/toilfn"
"""The Python environment with toilfn. It is on the controller; other machines mount it at the same path."""
_ETC = "/etc/toilfn"
"""The folder with the keys, the configuration and the programs of a machine."""
_FILE = f"{_ETC}/cluster.yaml"


@dataclass(frozen=True, repr=False)
class Secrets:
    """The keys of a cluster. They are generated when it is launched, and stored only in the boot data of its machines.

    Attributes
    ----------
    munge : bytes
        The key with which Slurm's daemons authenticate each other.
    host_private, host_public : str
        The ssh host key of the controller. The public key is also in a tag of the controller, or in its metadata on
        Google Cloud.
    """

    munge: bytes
    host_private: str
    host_public: str

    @classmethod
    def fresh(cls) -> Secrets:
        """Generate new keys.

        Raises
        ------
        ClusterError
            If OpenSSH's ssh-keygen is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "key")
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except FileNotFoundError:
                raise ClusterError("ssh-keygen is not installed", hint="install the client of OpenSSH") from None
            public = path.with_suffix(".pub").read_text(encoding="ascii").strip()
            return cls(os.urandom(1024), path.read_text(encoding="ascii"), public)


def node_names(pool: PoolDescription) -> list[str]:
    """Return the names of all nodes that a pool can have."""
    return [f"{pool.name}-{index}" for index in range(pool.max)]


# Slurm


def slurm_conf(description: Description, sizes: Mapping[str, MachineType], host: str = "controller") -> str:
    """Return Slurm's configuration. Each pool is a partition, whose nodes exist only while jobs need them.

    Parameters
    ----------
    description : Description
        The cluster.
    sizes : mapping
        The sizes of its machine types, by their names.
    host : str, optional
        The host name of the controller.
    """
    scaling = description.scaling
    always = ",".join(name for pool in description.pools for name in node_names(pool)[: pool.min])
    lines = [
        f"ClusterName={description.name}",
        f"SlurmctldHost={host}",
        "SlurmUser=slurm",
        "AuthType=auth/munge",
        "StateSaveLocation=/var/lib/slurm/slurmctld",
        "SlurmdSpoolDir=/var/lib/slurm/slurmd",
        "SlurmctldLogFile=/var/log/slurm/slurmctld.log",
        "SlurmdLogFile=/var/log/slurm/slurmd.log",
        "ProctrackType=proctrack/cgroup",
        "TaskPlugin=task/cgroup,task/affinity",
        "ReturnToService=2",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "JobAcctGatherType=jobacct_gather/cgroup",
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={host}",
        "SlurmctldParameters=enable_configless,idle_on_node_suspend,cloud_reg_addrs",
        "CommunicationParameters=NoAddrCache",
        "TreeWidth=65533",
        "PrivateData=cloud",
        f"ResumeProgram={_ETC}/resume",
        f"SuspendProgram={_ETC}/suspend",
        f"ResumeFailProgram={_ETC}/restore",
        f"ResumeTimeout={round(scaling.boot_time)}",
        f"SuspendTime={round(scaling.idle_time)}",
        "SuspendTimeout=120",
        f"Epilog={_ETC}/epilog",
        *([f"SuspendExcNodes={always}"] if always else []),
        *(line for pool in description.pools for line in _pool_lines(description, pool, sizes)),
        f"PartitionName=all Nodes={','.join(map(_range, description.pools))} Default=YES MaxTime=INFINITE State=UP",
    ]
    return "\n".join(lines) + "\n"


def _pool_lines(description: Description, pool: PoolDescription, sizes: Mapping[str, MachineType]) -> list[str]:
    kinds = [sizes[kind] for kind in pool.types]
    rooms = [usable(kind, overhead=description.scaling.overhead) for kind in kinds]
    cores, memory = min(room.cores for room in rooms), min(room.memory for room in rooms)
    weight = max(1, round(100 * min(kind.cost() for kind in kinds)))
    features = ",".join([pool.name, *(["spot"] if pool.spot else [])])
    size = f"CPUs={cores:.0f} RealMemory={memory // _MIB:.0f}"
    return [
        f"NodeName={_range(pool)} {size} State=CLOUD Weight={weight} Features={features}",
        f"PartitionName={pool.name} Nodes={_range(pool)} MaxTime=INFINITE State=UP",
    ]


def _range(pool: PoolDescription) -> str:
    return f"{pool.name}-[0-{pool.max - 1}]"


_DBD = """\
AuthType=auth/munge
DbdHost=controller
SlurmUser=slurm
LogFile=/var/log/slurm/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm
StorageUser=slurm
"""

_EPILOG = """\
#!/bin/sh
# Removes what a run of toilfn has left on this machine, as the job's user, when no process of the run is left here and
# none of its jobs is queued. Slurm drains a node whose epilog fails, so this one never does.
PATH=/usr/local/bin:/usr/bin:/bin
export TOILFN_WORK_DIR={work_dir}
[ -d "$TOILFN_WORK_DIR/toilfn-$SLURM_JOB_UID" ] || exit 0
queued=$(squeue --noheader --user "$SLURM_JOB_UID" --states pending,requeued,configuring --format %j) || exit 0
printf '%s\\n' "$queued" | setpriv --reuid "$SLURM_JOB_UID" --regid "$(id -g "$SLURM_JOB_UID")" --init-groups \\
    {python} -I -m toilfn.worker --clean > /dev/null 2>&1
exit 0
"""


def epilog(python: str = f"{_HOME}/bin/python", work_dir: str = "/tmp") -> str:  # noqa: S108
    """Return the program that cleans up a machine after each job. Slurm runs it as root.

    Parameters
    ----------
    python : str, optional
        The Python interpreter with toilfn.
    work_dir : str, optional
        The directory for the files of workers.
    """
    return _EPILOG.format(python=shlex.quote(python), work_dir=shlex.quote(work_dir))


def _program(action: str) -> str:
    """Return a program that Slurm calls with node names; it reads no standard input, which is that of slurmctld."""
    command = f'{_HOME}/bin/toilfn cluster {action} --file {_FILE} "$1"'
    return f"#!/bin/sh\nexec {command} < /dev/null >> /var/log/slurm/power.log 2>&1\n"


_CONTROLLER = """\
#!/bin/sh
set -eu
hostnamectl set-hostname controller
grep -q ' controller$' /etc/hosts || echo "$(hostname -I | cut -d ' ' -f 1) controller" >> /etc/hosts
install -o munge -g munge -m 400 {etc}/munge.key /etc/munge/munge.key
systemctl restart munge
install -d -o slurm -g slurm /var/lib/slurm/slurmctld /var/log/slurm
install -o slurm -g slurm -m 600 {etc}/slurmdbd.conf /etc/slurm/slurmdbd.conf
install -m 644 {etc}/slurm.conf /etc/slurm/slurm.conf
printf 'ConstrainRAMSpace=yes\\nConstrainCores=yes\\n' > /etc/slurm/cgroup.conf
mysql -e "create database if not exists slurm; create user if not exists slurm@localhost identified via unix_socket; \
grant all on slurm.* to slurm@localhost"
python3 -m venv {home}
{home}/bin/pip install -q {requirement}
{image}ln -sf {programs}/bin/toilfn /usr/local/bin/toilfn
echo '/home *(rw,no_root_squash,no_subtree_check)' > /etc/exports
echo '{home} *(ro,no_subtree_check)' >> /etc/exports
{exports}exportfs -ra
systemctl enable --now slurmdbd slurmctld
"""

_WORKER = """\
#!/bin/sh
set -eu
{names}hostnamectl set-hostname "$node"
grep -q ' controller$' /etc/hosts || echo "$controller controller" >> /etc/hosts
install -o munge -g munge -m 400 {etc}/munge.key /etc/munge/munge.key
systemctl restart munge
install -d {home}
mount -t nfs controller:/home /home
mount -t nfs controller:{home} {home}
{image}install -d /var/lib/slurm/slurmd /var/log/slurm
slurmd -b --conf-server controller -N "$node"
# When the cloud announces that it takes the machine away, this drains the node and warns its jobs.
systemd-run --unit=toilfn-watch --property=Restart=on-failure {home}/bin/toilfn cluster watch "$node" --cloud {cloud}
"""


_NAMES = {
    "aws": """\
metadata() {
    token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' http://169.254.169.254/latest/api/token)
    curl -fsS -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1"
}
# The controller sets these tags after it has created the machine.
until node=$(metadata tags/instance/toilfn-node) && controller=$(metadata tags/instance/toilfn-controller); do
    sleep 2
done
""",
    "google": """\
metadata() {
    curl -fsS -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}
until node=$(metadata name) && controller=$(metadata attributes/toilfn-controller); do
    sleep 2
done
node=${node#toilfn-CLUSTER-}
""",
}
"""Shell commands that set the variables ``node``, the machine's name in Slurm, and ``controller``, its address."""


def controller_data(
    description: Description, sizes: Mapping[str, MachineType], secrets: Secrets, extras: str = "aws"
) -> str:
    """Return the controller's data for cloud-init.

    Parameters
    ----------
    description : Description
        The cluster.
    sizes : mapping
        The sizes of its machine types, by their names.
    secrets : Secrets
        The cluster's keys.
    extras : str, optional
        The extras of toilfn to install on the controller, separated by commas. The version is that of this process, so
        that the controller understands the description and the names of machines.
    """
    requirement = shlex.quote(f"toilfn[{extras}]=={toilfn.__version__}")
    container = description.container
    script = _CONTROLLER.format(
        home=_HOME, etc=_ETC, requirement=requirement, programs=image.PLACE if container else _HOME,
        image=image.unpack_script(container, _ETC) if container else "",
        exports=f"echo '{image.PLACE} *(ro,no_subtree_check)' >> /etc/exports\n" if container else "",
    )  # fmt: skip
    files: dict[str, tuple[str | bytes, int]] = {
        f"{_ETC}/munge.key": (secrets.munge, 0o400),
        f"{_ETC}/slurm.conf": (slurm_conf(description, sizes), 0o644),
        f"{_ETC}/slurmdbd.conf": (_DBD, 0o600),
        f"{_ETC}/resume": (_program("resume"), 0o755),
        f"{_ETC}/suspend": (_program("suspend"), 0o755),
        f"{_ETC}/restore": (_program("restore"), 0o755),
        f"{_ETC}/epilog": (epilog(), 0o755),
        f"{_ETC}/boot": (script, 0o755),
        _FILE: (_plain(description), 0o644),
        **(_image_files() if container else {}),
    }
    packages = ["slurmctld", "slurmdbd", "slurm-client", "mariadb-server", "munge", "nfs-kernel-server", "python3-venv",
                "rsync", *(["podman", "bubblewrap"] if container else [])]  # fmt: skip
    keys = {"ed25519_private": secrets.host_private, "ed25519_public": secrets.host_public}
    return _cloud_config(description, packages, files, {"ssh_deletekeys": True, "ssh_keys": keys})


def _image_files() -> dict[str, tuple[str | bytes, int]]:
    python = f"{image.PLACE}/bin/python"
    return {
        f"{_ETC}/enter": (image.enter(), 0o755),
        f"{_ETC}/image-python": (image.program(python), 0o755),
        f"{_ETC}/image-toilfn": (image.program(f"{python} -m toilfn"), 0o755),
    }


def worker_data(description: Description, secrets: Secrets) -> str:
    """Return the data of a pool's machines for cloud-init."""
    names = _NAMES[description.cloud].replace("CLUSTER", description.name)
    lent = image.mount_script() if description.container else ""
    script = _WORKER.format(home=_HOME, etc=_ETC, cloud=description.cloud, names=names, image=lent)
    files: dict[str, tuple[str | bytes, int]] = {
        f"{_ETC}/munge.key": (secrets.munge, 0o400),
        f"{_ETC}/epilog": (epilog(), 0o755),
        f"{_ETC}/boot": (script, 0o755),
    }
    packages = ["slurmd", "slurm-client", "munge", "nfs-common", "python3-venv", "podman", "rsync", "curl",
                *(["bubblewrap"] if description.container else [])]  # fmt: skip
    return _cloud_config(description, packages, files, {})


def _cloud_config(
    description: Description,
    packages: list[str],
    files: Mapping[str, tuple[str | bytes, int]],
    more: Mapping[str, object],
) -> str:
    writes = [
        {"path": path, "permissions": f"{mode:04o}", "encoding": "b64",
         "content": base64.b64encode(content if isinstance(content, bytes) else content.encode()).decode()}
        for path, (content, mode) in files.items()
    ]  # fmt: skip
    commands = [["sh", "-c", command] for command in description.init]
    config = {"package_update": True, "packages": packages, "write_files": writes,
              "runcmd": [*commands, [f"{_ETC}/boot"]], **more}  # fmt: skip
    return "#cloud-config\n" + yaml.safe_dump(config, sort_keys=False, width=10**6)


def _plain(description: Description) -> str:
    """Return the description as YAML that `toilfn.cloud.description.read` can read."""
    values = asdict(description)
    values["pools"] = [
        {key: value for key, value in pool.items() if value not in (None, (), {})} for pool in values["pools"]
    ]
    return yaml.safe_dump(_lists({key: value for key, value in values.items() if value not in (None, (), {})}))


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
