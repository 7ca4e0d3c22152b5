"""A Docker engine with its own socket and images; the image is built here, without a network.

``python -m tests.servers.docker start`` prints the variable that makes its commands find it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.servers.containers import IMAGE, root_file_system
from tests.servers.machine import Server, ServerMissingError, end_process, main, start_daemon, wait_for


class DockerEngine(Server):
    """Docker's daemon. Containers have no network, because the machine's network is left alone."""

    name = "docker"
    packages = ("docker.io",)
    commands = ("dockerd", "docker")

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which docker's commands find the daemon."""
        return {"DOCKER_HOST": f"unix://{self.folder}/docker.sock"}

    def configure(self) -> None:
        """Check that the daemon can be started here; all its settings are on the command line."""
        if os.getuid():
            raise ServerMissingError("Docker's daemon is tried as root only")

    def start(self) -> None:
        """Start the daemon, and build the image."""
        places = [f"--{name}={self.folder}/{name}" for name in ("data-root", "exec-root", "pidfile")]
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        start_daemon(self.folder, "dockerd", "dockerd", "--host", self.environment["DOCKER_HOST"], *places, *network)
        wait_for(lambda: self.run("docker", "version"), "Docker's daemon")
        with tempfile.TemporaryDirectory() as folder:
            archive = root_file_system(Path(folder))
            self.run("docker", "import", "--change", 'CMD ["/bin/sh"]', str(archive), IMAGE)

    def stop(self) -> None:
        """Remove all containers, and stop the daemon."""
        left = self.run("docker", "ps", "--all", "--quiet", check=False).split()
        if left:
            self.run("docker", "rm", "--force", *left, check=False)
        end_process(self.folder / "dockerd.pid")


if __name__ == "__main__":
    main(DockerEngine())
