"""Pass settings and code to workers on other machines, in blobs that environment variables name."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Mapping

import msgpack

from toilfn.errors import ToilfnError
from toilfn.stores.blobs import BlobRef

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "SET_VARIABLE",
    "VERSIONS_VARIABLE",
    "WRONG_VERSIONS",
    "adopt_environment",
    "check_versions",
    "pack_environment",
    "read_ref",
    "set_by_user",
    "versions",
    "write_ref",
]

ENVIRONMENT_VARIABLE = "TOILFN_ENVIRONMENT"
"""The environment variable that names the blob with the leader's environment."""

VERSIONS_VARIABLE = "TOILFN_VERSIONS"
"""The environment variable with the leader's versions of toilfn and Python."""

WRONG_VERSIONS = "the versions of worker and leader differ"
"""The message of a worker that cannot work for its leader."""

SET_VARIABLE = "TOILFN_SET_ENV"
"""The environment variable that has the names of those in the setting ``set_env``, with blanks between them."""

_STAYS = re.compile(
    r"HOME|USER|LOGNAME|SHELL|HOST(NAME|TYPE)?|PWD|OLDPWD|SHLVL|_|TERM|COLUMNS|LINES|DISPLAY|XAUTHORITY|LS_COLORS|MAIL"
    r"|TE?MP|TMPDIR|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS|(XDG|SSH|TOILFN|DASK|BASH_FUNC|KUBERNETES|TMUX|STY)_.*"
    r"|(SLURM|PBS|LSB|LS|LSF|SGE|JOB|CONDOR|_CONDOR|OMPI|PMI|PMIX|MPI|CUDA_VISIBLE)_.*|PE_HOSTFILE|NSLOTS"
)  # fmt: skip
"""Variables that describe the leader's own machine, login or job."""

_SECRET = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|COOKIE|(API|ACCESS|AUTH).?KEY|_(KEY|AUTH|PWD)$", re.I
)
"""Names of variables that hold secrets: these never go into a store; workers have their own."""

_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def write_ref(ref: BlobRef) -> str:
    """Return a blob's reference as text."""
    return f"{ref.name}:{ref.size}:{ref.digest.hex()}"


def read_ref(text: str) -> BlobRef:
    """Read what `write_ref` made."""
    name, size, digest = text.rsplit(":", 2)
    return BlobRef(name, int(size), bytes.fromhex(digest))


def pack_environment(ours: Mapping[str, str], wanted: Mapping[str, str]) -> bytes:
    """Collect the data that a worker on another machine gets.

    Parameters
    ----------
    ours : mapping
        The leader's environment; what belongs to its machine, login or job and what is secret is left out, and
        what a worker has already it keeps.
    wanted : mapping
        Variables that the user requested; they replace the worker's.
    """
    passed = {name: value for name, value in ours.items() if not _STAYS.fullmatch(name) and not _is_secret(name, value)}
    packed: bytes = msgpack.packb((passed, dict(wanted)), unicode_errors="surrogateescape")
    return packed


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name) or _PASSWORD_IN_URL.search(value))


def adopt_environment(read: Callable[[BlobRef], bytes]) -> None:
    """Apply the data that the leader passed on, if any; `read` returns a blob."""
    text = os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if text is None:
        return
    passed, wanted = msgpack.unpackb(read(read_ref(text)), unicode_errors="surrogateescape")
    os.environ.update({name: value for name, value in passed.items() if name not in os.environ} | wanted)


def versions() -> str:
    """Return the versions that a leader and its workers must share: pickled functions contain bytecode."""
    from toilfn import __version__

    return f"toilfn {__version__} and Python {sys.version_info.major}.{sys.version_info.minor}"


def check_versions() -> None:
    """Compare this worker's versions with its leader's, if that has passed them on.

    Raises
    ------
    ToilfnError
        If they differ; says how.
    """
    wanted = os.environ.get(VERSIONS_VARIABLE, versions())
    if wanted != versions():
        raise ToilfnError(
            f"{WRONG_VERSIONS}: {sys.executable} on {socket.gethostname()} has {versions()}, and the"
            f" leader has {wanted}",
            hint="install the same versions on both sides, or choose another interpreter for the jobs with python=...",
        )


def set_by_user() -> dict[str, str]:
    """Return the variables that this worker has from the setting ``set_env``."""
    names = os.environ.get(SET_VARIABLE, "").split()
    return {name: os.environ[name] for name in names if name in os.environ}
