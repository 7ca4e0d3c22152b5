"""A real OpenSSH server for one test user, and the programs that check the boot data of machines."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

from tests.servers.machine import Server, end_process, main, start_daemon, wait_for

PORT = 26950

CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


class SecureShell(Server):
    """sshd on loopback; ``user`` in its folder is the private key for logging in."""

    name = "sshd"
    packages = ("cloud-init", "openssh-client", "openssh-server", "rsync", "shellcheck")
    commands = ("cloud-init", "ssh", "sshd", "rsync", "shellcheck")
    port = PORT
    user = getpass.getuser()

    @property
    def environment(self) -> dict[str, str]:
        """No variables: clients get the address from the test."""
        return {}

    @property
    def host_key(self) -> str:
        """The public host key."""
        return self.folder.joinpath("host.pub").read_text().strip()

    @property
    def identity(self) -> str:
        """The file of the private key for logging in."""
        return str(self.folder / "user")

    def configure(self) -> None:
        """Make the keys and the configuration."""
        self.folder.chmod(0o755)
        for name in ("host", "user", "other"):
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / name))
        (self.folder / "sshd_config").write_text(CONFIGURATION.format(port=self.port, folder=self.folder))

    def start(self) -> None:
        """Start it and wait until it answers."""
        Path("/run/sshd").mkdir(exist_ok=True)
        start_daemon(self.folder, "sshd", "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config"))
        wait_for(self._answers, "sshd", 30)

    def stop(self) -> None:
        """Stop it."""
        end_process(self.folder / "sshd.pid")

    def _answers(self) -> bool:
        done = subprocess.run(["ssh-keyscan", "-p", str(self.port), "127.0.0.1"], capture_output=True, check=False)
        return b"ed25519" in done.stdout


if __name__ == "__main__":
    main(SecureShell())
