"""Podman with runc, its own image store, and a registry on loopback; images are built here, without a network.

``python -m tests.servers.containers start`` prints the variables that make podman find it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, cache_folder, end_process, main, wait_for

IMAGE = "toilfn-tests/busybox:1"
PORT = 26850
REMOTE_IMAGE = f"127.0.0.1:{PORT}/toilfn-tests/busybox:remote"
"""An image that is only in the registry until it is pulled."""

CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
image_default_transport = "docker://"
"""

STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/images"
runroot = "{folder}/run"
"""

REGISTRIES = """\
unqualified-search-registries = []
[[registry]]
location = "127.0.0.1:{port}"
insecure = true
"""

REGISTRY = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Containers(Server):
    """Podman for root. The images have busybox and bash, and are a few megabytes large."""

    name = "containers"
    packages = ("podman", "runc", "docker-registry")
    commands = ("podman", "runc", "docker-registry")

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which podman finds its configuration and its images."""
        return {
            "CONTAINERS_CONF": f"{self.folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{self.folder}/registries.conf",
        }

    def configure(self) -> None:
        """Write the configuration of podman and of the registry."""
        if os.getuid():
            raise ServerMissingError("podman is tried as root only")
        values = {"folder": self.folder, "port": PORT}
        (self.folder / "containers.conf").write_text(CONTAINERS)
        (self.folder / "storage.conf").write_text(STORAGE.format(**values))
        (self.folder / "registries.conf").write_text(REGISTRIES.format(**values))
        (self.folder / "registry.yml").write_text(REGISTRY.format(**values))

    def start(self) -> None:
        """Start the registry, and build the images."""
        self._registry()
        with tempfile.TemporaryDirectory() as folder:
            archive = root_file_system(Path(folder))
            self.run("podman", "import", "--change", 'CMD ["/bin/sh"]', str(archive), IMAGE)
        self.publish(REMOTE_IMAGE.rpartition(":")[2])

    def stop(self) -> None:
        """Remove all containers and images, and stop the registry."""
        if (self.folder / "storage.conf").exists():
            self.run("podman", "rm", "--all", "--force", "--time", "0", check=False)
            self.run("podman", "rmi", "--all", "--force", check=False)
        subprocess.run(["umount", "--quiet", f"{self.folder}/images/overlay"], check=False)
        end_process(self.folder / "registry.pid")

    def publish(self, tag: str) -> str:
        """Put the image into the registry under another tag, and return its name there."""
        image = f"127.0.0.1:{PORT}/toilfn-tests/busybox:{tag}"
        self.run("podman", "push", "--quiet", IMAGE, f"docker://{image}")
        return image

    def pulls(self, tag: str) -> int:
        """Return how often an image in the registry was requested by its name and delivered."""
        log = (self.folder / "registry.log").read_text()
        return sum(f'"GET /v2/toilfn-tests/busybox/manifests/{tag} ' in line for line in log.splitlines())

    def _registry(self) -> None:
        script = "echo $$ > registry.pid; exec docker-registry serve registry.yml > registry.log 2>&1"
        subprocess.run(["setsid", "--fork", "sh", "-c", script], cwd=self.folder, check=True)
        wait_for(lambda: "listening on" in (self.folder / "registry.log").read_text(), "the registry")


def root_file_system(folder: Path) -> Path:
    """Build an archive of the files that an image needs; the packages are downloaded once."""
    root = folder / "root"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "data"):
        (root / name).mkdir(parents=True)
    for package in ("busybox-static", "bash-static"):
        subprocess.run(["dpkg", "-x", _package(package), folder / package], check=True)
    (folder / "busybox-static/bin/busybox").rename(root / "bin/busybox")
    (folder / "bash-static/bin/bash-static").rename(root / "bin/bash")
    subprocess.run(["chroot", root, "/bin/busybox", "--install", "-s", "/bin"], check=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "tmp").chmod(0o1777)
    archive = folder / "root.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    return archive


def _package(name: str) -> Path:
    cache = cache_folder()
    if not list(cache.glob(f"{name}_*.deb")):
        done = subprocess.run(
            ["apt-get", "download", "-qq", name], cwd=cache, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServerMissingError(f"the Debian package {name} cannot be fetched: {done.stderr.strip()}")
    return next(cache.glob(f"{name}_*.deb"))


if __name__ == "__main__":
    main(Containers())
