"""The real Udocker, in its own folder, with Debian's PRoot instead of the one that it would download.

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
"""The release of its tools that it requires; it downloads them unless it finds this number."""

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
    """The command ``udocker``, which has no daemon."""

    name = "udocker"
    packages = ("proot", "curl")
    commands = ("proot", "curl")

    @property
    def environment(self) -> dict[str, str]:
        """The folder and the source of its images. The PATH is unchanged: tests request the command."""
        return {
            "UDOCKER_DIR": f"{self.folder}/home",
            "UDOCKER_REGISTRY": f"http://127.0.0.1:{PORT}",
            "UDOCKER_USE_PROOT_EXECUTABLE": f"{self.programs}/proot",
        }

    @property
    def programs(self) -> Path:
        """The folder of the command."""
        return self.folder / "bin"

    def configure(self) -> None:
        """Install it in a folder where only tests that request it find it."""
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
        """Check that it answers."""
        self.run(f"{self.programs}/udocker", *(["--allow-root"] if os.getuid() == 0 else []), "version")

    def stop(self) -> None:
        """Do nothing: a container is a child of the process that runs it."""

    def _write(self, name: str, script: str) -> None:
        (self.programs / name).write_text(script)
        (self.programs / name).chmod(0o755)


if __name__ == "__main__":
    main(Udocker())
