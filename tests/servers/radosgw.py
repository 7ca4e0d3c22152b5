"""A real S3 server: Ceph's RADOS gateway, on a monitor and a storage daemon that keeps all in memory.

It checks credentials, and writes with ``If-None-Match: *`` for one of several writers only.
``python -m tests.servers.radosgw start`` prints the variables with which S3's tools find it.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
import uuid
from collections.abc import Iterable
from pathlib import Path

from tests.servers.machine import Server, end_process, main, wait_for

PORT = 27480
KEY, SECRET = "toilfn-tests", "a-secret-of-tests-only"  # a store must never hold it
KMS_KEY = "toilfn-tests-kms"

CONFIGURATION = """\
[global]
fsid={fsid}
mon_initial_members=a
mon_host={monitor}
public_network=127.0.0.0/8
cluster_network=127.0.0.0/8
public_addr=127.0.0.1
cluster_addr=127.0.0.1
auth_cluster_required=none
auth_service_required=none
auth_client_required=none
osd_pool_default_size=1
osd_pool_default_min_size=1
osd_pool_default_pg_num=1
osd_pool_default_pgp_num=1
osd_pool_default_pg_autoscale_mode=off
osd_crush_chooseleaf_type=0
mon_allow_pool_size_one=true
mon_max_pg_per_osd=2000
mon_pg_warn_min_per_osd=0
run_dir={folder}/run
log_file={folder}/log/$name.log
admin_socket={folder}/run/$name.asok
pid_file={folder}/run/$name.pid
[mon]
mon_data={folder}/mon
[osd]
osd_data={folder}/osd
osd_objectstore=memstore
memstore_device_bytes=6442450944
osd_op_num_shards=1
osd_class_dir=/usr/lib/x86_64-linux-gnu/rados-classes
[client.rgw]
rgw_data={folder}/rgw
ms_mon_client_mode=crc
rgw_frontends=beast endpoint=127.0.0.1:{port}
rgw_enable_usage_log=false
rgw_run_sync_thread=false
rgw_gc_obj_min_wait=5
rgw_gc_processor_period=5
rgw_gc_processor_max_time=5
rgw_crypt_require_ssl=false
rgw_crypt_s3_kms_backend=testing
rgw_crypt_s3_kms_encryption_keys={kms_key}=dGhpcnR5LXR3byBieXRlcywgZm9yIHRlc3RzIG9ubHk=
"""


class RadosGateway(Server):
    """S3 with the buckets that tests create."""

    name = "radosgw"
    packages = ("ceph-mon", "ceph-osd", "radosgw")
    commands = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    port = PORT

    @property
    def url(self) -> str:
        """The address at which the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def monitor(self) -> str:
        """The address at which its monitor listens."""
        return f"[v2:127.0.0.1:{self.port - 80},v1:127.0.0.1:{self.port - 79}]"

    def requests(self) -> dict[str, int]:
        """Return the numbers of requests to the gateway: all, those that wrote an object, and those that read one."""
        counted = json.loads(self._ceph("ceph", "daemon", f"{self.folder}/run/client.rgw.asok", "perf", "dump", "rgw"))
        return {name: counted["rgw"][name] for name in ("req", "put", "get")}

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the drivers of S3 read, for this process and its descendants."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def pid_files(self) -> Iterable[Path]:
        """Return the pid files of Ceph's daemons."""
        return (self.folder / "run").glob("*.pid")

    def configure(self) -> None:
        """Write ceph.conf and the map of monitors."""
        for name in ("mon", "osd", "run", "log", "rgw"):
            (self.folder / name).mkdir()
        self._fsid = str(uuid.uuid4())
        values = {"fsid": self._fsid, "folder": self.folder, "port": self.port, "kms_key": KMS_KEY}
        values |= {"monitor": self.monitor}
        (self.folder / "ceph.conf").write_text(CONFIGURATION.format(**values))
        self.run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self.monitor, f"{self.folder}/monmap")

    def start(self) -> None:
        """Start the monitor, the storage daemon and the gateway, each once the previous one answers."""
        self._ceph("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{self.folder}/monmap")
        self._ceph("ceph-mon", "-i", "a")
        wait_for(lambda: self._ceph("ceph", "-s"), "the monitor")
        osd = str(uuid.uuid4())
        self._ceph("ceph", "osd", "new", osd)
        self._ceph("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._ceph("ceph-osd", "-i", "0")
        self._ceph("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=tests")
        wait_for(lambda: "1 up" in self._ceph("ceph", "osd", "stat"), "the storage daemon")
        user = ("--uid=tests", "--display-name=tests", f"--access-key={KEY}", f"--secret-key={SECRET}")
        self._ceph("radosgw-admin", "user", "create", *user)
        self._ceph("radosgw", "-n", "client.rgw")
        wait_for(self._answers, "the gateway", 60)

    def stop(self) -> None:
        """Stop all daemons, the gateway first."""
        for name in ("client.rgw", "osd.0", "mon.a"):
            end_process(self.folder / "run" / f"{name}.pid")

    def _ceph(self, program: str, *arguments: str) -> str:
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or program
        return self.run(path, "-c", f"{self.folder}/ceph.conf", *arguments)

    def _answers(self) -> bool:
        with urllib.request.urlopen(self.url, timeout=5) as answer:
            return bool(answer.status == 200)


if __name__ == "__main__":
    main(RadosGateway())
