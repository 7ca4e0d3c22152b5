"""Apptainer, the real one, in a folder of its own: Debian 12 has no package of it, only Debian's next release has.

Its programs are for a newer C library than this machine's, so they get theirs beside them; nothing of it is installed.
``python -m tests.servers.apptainer start`` makes it; its programs are then to be added to the PATH.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, cache_folder, debian_mirror, main

PACKAGES = ("apptainer", "libc6", "libsqlite3-0")
RELEASE = "sid"
PROGRAMS = ("bin/apptainer", "lib/x86_64-linux-gnu/apptainer/bin/starter")

ALL, NONE = "root default capabilities = full", "root default capabilities = no"
"""Root has not got all capabilities to give where the machine is a container itself."""


class Apptainer(Server):
    """The commands ``apptainer`` and ``singularity``, which is the same under its old name. There is no daemon."""

    name = "apptainer"
    packages = ("patchelf", "squashfs-tools")
    commands = ("patchelf", "mksquashfs")

    @property
    def environment(self) -> dict[str, str]:
        """Let it pull from a registry that speaks plain HTTP. The PATH is as before: tests see it if they ask."""
        return {"APPTAINER_NOHTTPS": "1"}

    @property
    def programs(self) -> Path:
        """The folder of its commands."""
        return self.folder / "bin"

    def configure(self) -> None:
        """Unpack it, and let its programs find their libraries."""
        for package in _packages():
            self.run("dpkg", "-x", str(package), f"{self.folder}/root")
        self._arrange()
        for program in PROGRAMS:
            loader = f"{self.folder}/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
            own = ["--force-rpath", "--set-rpath", f"{self.folder}/lib/x86_64-linux-gnu"]
            self.run("patchelf", "--set-interpreter", loader, *own, f"{self.folder}/{program}")
        settings = self.folder / "etc/apptainer/apptainer.conf"
        settings.write_text(settings.read_text().replace(ALL, NONE))

    def start(self) -> None:
        """See that it answers."""
        self.run(f"{self.programs}/apptainer", "--version")

    def stop(self) -> None:
        """Do nothing: containers are children of those who run them."""

    def _arrange(self) -> None:
        """Put everything where it looks: the two programs take different folders for that of the installation."""
        for name in ("usr/bin", "usr/lib", "etc"):
            (self.folder / "root" / name).rename(self.folder / Path(name).name)
        (self.folder / "var/lib/apptainer/mnt/session").mkdir(parents=True)
        for name in ("etc", "var"):
            (self.folder / "lib" / name).symlink_to(self.folder / name)
        (self.programs / "singularity").symlink_to("apptainer")


def _packages() -> list[Path]:
    """Fetch the packages, once for a machine."""
    home = cache_folder() / "apptainer"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=home.parent) as folder:
            _download(Path(folder))
            (Path(folder) / "packages").rename(home)
    return sorted(home.glob("*.deb"))


def _download(folder: Path) -> None:
    """Ask the machine's own mirror of Debian for another release, with lists of its own."""
    for name in ("lists/partial", "archives/partial", "packages"):
        (folder / name).mkdir(parents=True)
    mirror = debian_mirror()
    if not mirror:
        raise ServerMissingError("apt knows no mirror of Debian")
    (folder / "sources").write_text(f"deb {mirror[0]} {RELEASE} main\n")
    own = {"Etc::SourceList": "sources", "State::Lists": "lists", "Cache": "."}
    options = [f"-o=Dir::{name}={folder / value}" for name, value in own.items()]
    options += ["-o=Dir::Etc::SourceParts=-", "-o=APT::Sandbox::User=root"]
    for command in (["update"], ["download", *PACKAGES]):
        words = ["apt-get", "-qq", *options, *command]
        done = subprocess.run(words, cwd=folder / "packages", capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerMissingError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    main(Apptainer())
