"""moto's server: a stand-in for features that the RADOS gateway lacks, such as encryption by AWS's own keys.

It honours conditional writes at the end of uploads in parts, too, and checks no credentials.
"""

from __future__ import annotations

import shutil
import sys
import urllib.request
from pathlib import Path

from tests.servers.machine import Server, ServerMissingError, end_process, main, start_daemon, wait_for
from tests.servers.radosgw import RadosGateway

PORT = 27455


class Moto(Server):
    """AWS's services with their state in memory."""

    name = "moto"
    packages = ()
    commands = ()
    port = PORT

    @property
    def url(self) -> str:
        """The address at which the server listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Credentials, which moto does not check: those of the RADOS gateway, which may run beside it."""
        return RadosGateway().environment

    def configure(self) -> None:
        """Need nothing but the program."""
        if shutil.which("moto_server", path=str(Path(sys.executable).parent)) is None:
            raise ServerMissingError("moto is not installed: pip install 'moto[server]'")

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = str(Path(sys.executable).with_name("moto_server"))
        start_daemon(self.folder, "moto", program, "-H", "127.0.0.1", "-p", str(self.port), env=self.environment)
        wait_for(self._answers, "moto")

    def stop(self) -> None:
        """Stop it."""
        end_process(self.folder / "moto.pid")

    def _answers(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5) as answer:
            return bool(answer.status == 200)


if __name__ == "__main__":
    main(Moto())
