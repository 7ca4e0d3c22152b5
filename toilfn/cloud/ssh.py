"""ssh, rsync and port forwarding to a cluster's controller, whose host key was stored when it was launched."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toilfn.errors import ClusterError, InputError

__all__ = ["Host", "forward", "rsync", "ssh"]

_REFUSED = 255
"""The exit status of ssh if it could not connect."""


@dataclass(frozen=True, slots=True)
class Host:
    """The ssh server of the controller, and the host key that it must have.

    Attributes
    ----------
    address : str
        The host name or IP address.
    key : str
        The public host key, such as ``"ssh-ed25519 AAAA..."``.
    user : str
        The name of the user who logs in.
    port : int
        The port of the ssh server.
    """

    address: str
    key: str
    user: str = "admin"
    port: int = 22


@contextmanager
def _options(host: Host, identity: str | None) -> Iterator[list[str]]:
    """Yield the options of ssh. They name a temporary file of known hosts, which contains only the controller's key."""
    if "\n" in host.key or not host.key.startswith(("ssh-", "ecdsa-")):
        raise InputError(f"host {host.address}: {host.key!r} is not a public key")
    with tempfile.TemporaryDirectory(prefix="toilfn-ssh-") as folder:
        known = Path(folder, "known_hosts")
        known.write_text(f"[{host.address}]:{host.port} {host.key}\n{host.address} {host.key}\n", encoding="ascii")
        options = [
            "-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no",
            "-o", "ConnectTimeout=20", "-p", str(host.port),
        ]  # fmt: skip
        yield [*options, *(["-i", identity, "-o", "IdentitiesOnly=yes"] if identity else [])]


def ssh(host: Host, command: Sequence[str] = (), identity: str | None = None, further: Sequence[str] = ()) -> int:
    """Open a shell on the controller, or run a command there.

    Parameters
    ----------
    host : Host
        The controller.
    command : sequence of str, optional
        The words of the command. They are quoted, so that the shell on the controller does not change them.
    identity : str, optional
        The file with the private key.
    further : sequence of str, optional
        Additional options of ssh.

    Returns
    -------
    int
        The exit status of the shell or command.

    Raises
    ------
    ClusterError
        If ssh cannot connect, for example because another machine answers.
    """
    with _options(host, identity) as options:
        words = [shlex.join(command)] if command else []
        return _run(["ssh", *options, *further, f"{host.user}@{host.address}", *words], host)


def forward(host: Host, ports: Sequence[str], identity: str | None = None) -> int:
    """Forward ports of this machine to the controller, until the user interrupts the command.

    Parameters
    ----------
    host : Host
        The controller.
    ports : sequence of str
        ``"8080"`` for the same port on both sides, or ``"LOCAL:PORT"`` or ``"LOCAL:HOST:PORT"``.
    identity : str, optional
        The file with the private key.
    """
    options = [word for port in ports for word in ("-L", _forwarding(port))]
    return ssh(host, (), identity, ["-N", "-o", "ExitOnForwardFailure=yes", *options])


def _forwarding(port: str) -> str:
    parts = port.split(":")
    numbers = [parts[0], parts[-1]]
    if len(parts) > 3 or not all(number.isdigit() and 0 < int(number) < 65536 for number in numbers):
        raise InputError(f"{port!r} is not a port to forward", hint="write PORT, LOCAL:PORT or LOCAL:HOST:PORT")
    there = parts[1] if len(parts) == 3 else "localhost"
    return f"localhost:{parts[0]}:{there}:{parts[-1]}"


def rsync(host: Host, arguments: Sequence[str], identity: str | None = None) -> int:
    """Copy files with rsync; a path that begins with a colon is on the controller.

    Parameters
    ----------
    host : Host
        The controller.
    arguments : sequence of str
        The options and paths of rsync, such as ``["-a", "data/", ":data/"]``.
    identity : str, optional
        The file with the private key.

    Raises
    ------
    InputError
        If no path is on the controller.
    """
    if not any(word.startswith(":") for word in arguments):
        raise InputError("rsync: no path is on the cluster", hint="a path on the cluster begins with a colon: :data/")
    words = [f"{host.user}@{host.address}{word}" if word.startswith(":") else word for word in arguments]
    with _options(host, identity) as options:
        return _run(["rsync", "-e", shlex.join(["ssh", *options]), *words], host)


def _run(command: list[str], host: Host) -> int:
    try:
        status = subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        raise ClusterError(f"{command[0]} is not installed") from None
    if status == _REFUSED:
        raise ClusterError(
            f"{host.user}@{host.address}: could not connect; the message of ssh is above",
            hint="if the host key does not match, another machine answers at this address: do not connect to it",
        )
    return status
