"""Udocker, the real one, in a folder of its own, with Debian's PRoot in place of the one that it would fetch.

``python -m tests.servers.udocker start`` makes it; its program is then to be added to the PATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.servers.containers import PORT
from tests.servers.machine import Server, ServerMissingError, main

VERSION = "udocker==1.3.17"
TOOLS = "1.2.11"
"""The release of its tools that it asks for; it fetches them unless it finds this number."""

PROGRAM = """\
#!/bin/sh
PYTHONPATH='{folder}/lib' exec '{python}' -m udocker.maincmd "$@"
"""

PROOT = """\
#!/bin/bash
# Udocker says which kernel is there (-k). Debian's PRoot 5.1 then opens no directories, whichever that is.
words=()
while [ "$#" -gt 0 ] && [ "$1" != -r ]; do
    if [ "$1" = -k ]; then shift 2; else words+=("$1"); shift; fi
done
exec /usr/bin/proot "${words[@]}" "$@"
"""


class Udocker(Server):
    """The command ``udocker``. There is no daemon."""

    name = "udocker"
    packages = ("proot", "curl")
    commands = ("proot", "curl")

    @property
    def environment(self) -> dict[str, str]:
        """Where it has its images, and gets them from. The PATH is as before: tests see it if they ask."""
        return {
            "UDOCKER_DIR": f"{self.folder}/home",
            "UDOCKER_REGISTRY": f"http://127.0.0.1:{PORT}",
            "UDOCKER_USE_PROOT_EXECUTABLE": f"{self.programs}/proot",
        }

    @property
    def programs(self) -> Path:
        """The folder of its command."""
        return self.folder / "bin"

    def configure(self) -> None:
        """Install it where only those who ask for it find it."""
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{self.folder}/lib", VERSION]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerMissingError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")
        self.programs.mkdir()
        self._write("udocker", PROGRAM.format(folder=self.folder, python=sys.executable))
        self._write("proot", PROOT)
        (self.folder / "home/lib").mkdir(parents=True)
        (self.folder / "home/lib/VERSION").write_text(TOOLS)

    def start(self) -> None:
        """See that it answers."""
        self.run(f"{self.programs}/udocker", *(["--allow-root"] if os.getuid() == 0 else []), "version")

    def stop(self) -> None:
        """Do nothing: containers are children of those who run them."""

    def _write(self, name: str, script: str) -> None:
        (self.programs / name).write_text(script)
        (self.programs / name).chmod(0o755)


if __name__ == "__main__":
    main(Udocker())
