"""AWS Batch: moto with the parts that it lacks (``fake/awsbatch.py``), whose jobs are containers of podman.

``python -m tests.servers.containers start`` must come before ``python -m tests.servers.awsbatch start``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers.containers import Containers
from tests.servers.machine import end_process, main, wait_for
from tests.servers.moto import Moto

PORT = 27456
QUEUE = "toilfn-queue"
ROOT = Path(__file__).parent.parent.parent

HOST = ("/bin", "/lib", "/lib64", "/usr", "/etc/ssl")
"""Folders of this machine that jobs see, so that its Python works in an image that has none."""


class AWSBatch(Moto):
    """AWS Batch with a queue, and podman behind it."""

    name = "awsbatch"
    port = PORT

    @property
    def folders(self) -> dict[str, str]:
        """The value for a cluster's setting `volumes`: the machine's programs, and this Python with its packages."""
        places = [*HOST, sys.base_prefix, sys.prefix, str(ROOT)]
        return {place: place for place in dict.fromkeys(places) if os.path.isdir(place)}

    def start(self) -> None:
        """Start podman's service and moto, and create a queue."""
        socket = f"unix://{self.folder}/podman.sock"
        self._begin_process("podman", ["podman", "system", "service", "--time=0", socket], Containers().environment)
        wait_for((self.folder / "podman.sock").exists, "podman's socket")
        command = [sys.executable, "-m", "tests.servers.fake.awsbatch", "-H", "127.0.0.1", "-p", str(PORT)]
        docker = {"DOCKER_HOST": socket, "MOTO_DOCKER_NETWORK_MODE": "host"}
        self._begin_process("moto", command, {**self.environment, **docker})
        wait_for(self._answers, "moto")
        self._make_queue()

    def stop(self) -> None:
        """Stop both."""
        end_process(self.folder / "moto.pid")
        end_process(self.folder / "podman.pid")

    def client(self, service: str) -> Any:
        """Return a client of boto3, to be closed."""
        import boto3

        return boto3.client(service, endpoint_url=self.url, **self._account)

    @property
    def _account(self) -> dict[str, str]:
        return {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}

    def _begin_process(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        script = f"echo $$ > {self.folder}/{name}.pid; exec {shlex.join(command)} > {self.folder}/{name}.log 2>&1"
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        everything = os.environ | environment | {"PYTHONPATH": paths}
        # In the folder: what watches a container leaves a file where podman was started when memory runs out.
        subprocess.run(["setsid", "--fork", "sh", "-c", script], env=everything, cwd=self.folder, check=True)

    def _make_queue(self) -> None:
        iam, batch = self.client("iam"), self.client("batch")
        role = iam.create_role(RoleName="toilfn", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        batch.create_compute_environment(
            computeEnvironmentName="toilfn", type="UNMANAGED", state="ENABLED", serviceRole=role
        )
        order = [{"order": 1, "computeEnvironment": "toilfn"}]
        for name, state in ((QUEUE, "ENABLED"), (f"{QUEUE}-off", "DISABLED")):
            batch.create_job_queue(jobQueueName=name, state=state, priority=1, computeEnvironmentOrder=order)
        iam.close()
        batch.close()


if __name__ == "__main__":
    main(AWSBatch())
