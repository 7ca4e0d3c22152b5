"""The real Apptainer, in its own folder: Debian 12 has no package of it, only Debian's next release has one.

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
"""If the machine is a container itself, root lacks some capabilities, and cannot pass them on."""


class Apptainer(Server):
    """The commands ``apptainer`` and ``singularity``, its old name. Apptainer has no daemon."""

    name = "apptainer"
    packages = ("patchelf", "squashfs-tools")
    commands = ("patchelf", "mksquashfs")

    @property
    def environment(self) -> dict[str, str]:
        """Let Apptainer pull from a registry over plain HTTP. The PATH is unchanged: tests request the commands."""
        return {"APPTAINER_NOHTTPS": "1"}

    @property
    def programs(self) -> Path:
        """The folder of the commands."""
        return self.folder / "bin"

    def configure(self) -> None:
        """Unpack Apptainer, and let its programs find their libraries."""
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
        """Check that Apptainer answers."""
        self.run(f"{self.programs}/apptainer", "--version")

    def stop(self) -> None:
        """Do nothing: a container is a child of the process that runs it."""

    def _arrange(self) -> None:
        """Put all files where the programs look: the two take different folders for that of the installation."""
        for name in ("usr/bin", "usr/lib", "etc"):
            (self.folder / "root" / name).rename(self.folder / Path(name).name)
        (self.folder / "var/lib/apptainer/mnt/session").mkdir(parents=True)
        for name in ("etc", "var"):
            (self.folder / "lib" / name).symlink_to(self.folder / name)
        (self.programs / "singularity").symlink_to("apptainer")


def _packages() -> list[Path]:
    """Download the packages, once for each machine."""
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
