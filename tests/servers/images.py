"""Debian with Python as a container image, built here under the names that public test suites use.

``python -m tests.servers.containers start`` and then ``python -m tests.servers.images`` has it at hand.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.containers import Containers
from tests.servers.machine import ServerMissingError, cache_folder, debian_mirror

DEBIAN = "docker.io/library/debian:stable-slim"
"""The image itself; all other names are tags of it or layers on it."""

TAGS = (
    "debian:latest",
    "debian:stretch-slim",
    "debian:bookworm-slim",
    "debian:12-slim",
    "ubuntu:latest",
    "ubuntu:18.04",
    "ubuntu:20.04",
    "ubuntu:22.04",
    "ubuntu:24.04",
    "python:2-slim",
    "python:2.7.15-alpine3.7",
    "python:3",
    "python:3-slim",
    "python:3.11-slim",
    "alpine:latest",
    "busybox:latest",
)

BASH_TAGS = ("bash:4.4", "bash:4.4.12", "bash:latest")
"""Names of images whose entry point is a script that passes everything except commands to bash."""

ENTRY_POINT = """\
#!/bin/sh
case "$1" in -*) exec bash "$@";; esac
command -v "$1" >/dev/null || exec bash "$@"
exec "$@"
"""

BASH = """\
FROM {base}
COPY --chmod=755 docker-entrypoint.sh /usr/local/bin/
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["bash"]
"""

UNWANTED = ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "usr/share/man", "usr/share/locale")


def add_images(server: Containers) -> None:
    """Load the images into the engine, if it does not have them yet."""
    with (server.folder / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if DEBIAN in server.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}"):
            return
        server.run("podman", "import", "--change", 'CMD ["/bin/bash"]', str(debian_archive()), DEBIAN)
        for tag in TAGS:
            server.run("podman", "tag", DEBIAN, f"docker.io/library/{tag}")
        _add_bash(server)


def debian_archive() -> Path:
    """Return the root file system, as a tar file that is made once and kept.

    Raises
    ------
    ServerMissingError
        If this is no Debian, or not root's.
    """
    archive = cache_folder() / "debian-python.tar"
    with (cache_folder() / "debian-python.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            with tempfile.TemporaryDirectory() as folder:
                _bootstrap(Path(folder) / "root", archive)
    return archive


def _bootstrap(root: Path, archive: Path) -> None:
    if os.getuid() or not shutil.which("debootstrap"):
        raise ServerMissingError("images are made by debootstrap, as root, on Debian")
    command = ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(root), *debian_mirror()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerMissingError(f"{' '.join(command)}: {done.stdout.strip()[-300:]}")
    for name in UNWANTED:
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "usr/bin/python").symlink_to("python3")
    part = archive.with_suffix(".part")
    subprocess.run(["tar", "-C", root, "-cf", part, "."], check=True)
    part.rename(archive)


def _add_bash(server: Containers) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "docker-entrypoint.sh").write_text(ENTRY_POINT)
        (Path(folder) / "Dockerfile").write_text(BASH.format(base=DEBIAN))
        tags = [part for tag in BASH_TAGS for part in ("--tag", f"docker.io/library/{tag}")]
        server.run("podman", "build", "--quiet", "--format", "docker", *tags, folder)


if __name__ == "__main__":
    add_images(Containers())
