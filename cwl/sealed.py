"""Encrypt secret inputs (`cwltool:Secrets`), so that tasks, the store and logs contain them only encrypted.

cwltool replaces each secret by a placeholder, and looks up the secret when a tool starts. Here the placeholder is the
secret itself, encrypted by AES-SIV (RFC 5297). Equal secrets have equal placeholders, so that runs can be resumed by
anyone who has the key. The key is the value of the environment variable `VARIABLE`, or else in a private file, which
is created when first needed and is shared by all machines with the same home directory.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.process import Process, shortname
from cwltool.secrets import SecretStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["VARIABLE", "Sealed", "secret_inputs"]

VARIABLE = "TOILFN_CWL_SECRETS_KEY"
"""The environment variable with the key: 32 bytes in base64."""

_KEY_SIZE = 32

_REQUIREMENT = "http://commonwl.org/cwltool#Secrets"
_SEALED = re.compile(r"\(secret-([A-Za-z0-9_-]+=*)\)")
_PURPOSE = [b"toilfn cwl secret"]


def secret_inputs(process: Process) -> list[str]:
    """Return the names of a process's secret inputs."""
    wish: Any = process.get_requirement(_REQUIREMENT)[0]
    return [shortname(name) for name in wish["secrets"]] if wish else []


class Sealed(SecretStore):
    """The store that cwltool uses to hide secrets and to look them up."""

    def add(self, value: Any) -> Any:
        """Encrypt a secret, unless it is None or already encrypted.

        Raises
        ------
        cwltool.errors.UnsupportedRequirement
            If the secret is not text.
        """
        if value is None or (isinstance(value, str) and _SEALED.fullmatch(value)):
            return value
        if not isinstance(value, str):
            raise UnsupportedRequirement(f"cwltool:Secrets supports only text, not {type(value).__name__}")
        sealed = _cipher(_key(make=True)).encrypt(value.encode(), _PURPOSE)
        return f"(secret-{base64.urlsafe_b64encode(sealed).decode()})"

    def has_secret(self, value: Any) -> bool:
        """Return whether a value contains an encrypted secret."""
        if isinstance(value, str):
            return _SEALED.search(value) is not None
        if isinstance(value, Mapping):
            return any(map(self.has_secret, value.values()))
        return isinstance(value, (list, tuple)) and any(map(self.has_secret, value))

    def retrieve(self, value: Any) -> Any:
        """Return a value with decrypted secrets.

        Raises
        ------
        cwltool.errors.WorkflowException
            If this machine has no key, or a different one.
        """
        if isinstance(value, str):
            return _SEALED.sub(_opened, value)
        if isinstance(value, Mapping):
            return {name: self.retrieve(item) for name, item in value.items()}
        return [self.retrieve(item) for item in value] if isinstance(value, (list, tuple)) else value


def _opened(match: re.Match[str]) -> str:
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(_key()).decrypt(base64.urlsafe_b64decode(match[1]), _PURPOSE).decode()
    except (InvalidTag, ValueError):
        raise WorkflowException(
            f"a secret was encrypted with a different key than this machine has; set {VARIABLE}"
        ) from None


def _cipher(key: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import (
        AESSIV,
    )  # slow to import

    return AESSIV(key)


def _key(*, make: bool = False) -> bytes:
    """Return the key; with `make`, create one if necessary."""
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "toilfn" / "cwl-secrets.key"
    given = os.environ.get(VARIABLE)
    if given is None and make and not path.exists():
        _make_key(path)
    try:
        key = base64.b64decode(path.read_text() if given is None else given)
    except OSError:
        raise WorkflowException(f"the key for secrets is not on this machine; set {VARIABLE}, or copy {path}") from None
    except ValueError:
        key = b""
    if len(key) != _KEY_SIZE:
        raise WorkflowException(f"{(path if given is None else VARIABLE)} must contain a key of 32 bytes in base64")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(base64.b64encode(os.urandom(_KEY_SIZE)).decode())
    with suppress(FileExistsError):  # another process was faster
        os.link(draft, path)  # complete or absent
    draft.unlink()
