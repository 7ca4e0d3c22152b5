"""Conda environments of shell steps: made once on a machine, from a file, or named."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from hashlib import blake2b
from pathlib import Path
from typing import Any

from toilfn.errors import CommandError
from toilfn.files.scratch import base_dir
from toilfn.text import last_lines

__all__ = ["activated", "is_file"]

_PROGRAMS = ("micromamba", "mamba", "conda")
_DONE = ".toilfn-complete"


def is_file(environment: str) -> bool:
    """Return whether an environment is described by a file, not named."""
    return environment.endswith((".yml", ".yaml"))


def activated(environment: Any) -> list[str]:
    """Return the words before a command that has it run in an environment.

    Parameters
    ----------
    environment : str or Path
        A file that describes the environment, which is made if this machine has not made it yet; or the name or the
        directory of one that exists.

    Raises
    ------
    CommandError
        If conda is not installed, or if it cannot create the environment.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise CommandError(f"a step needs conda, but none of {', '.join(_PROGRAMS)} was found on this machine")
    name = os.fspath(environment)
    place = str(_made(program, Path(name))) if is_file(name) else name
    live = ["--no-capture-output"] if Path(program).name == "conda" else []
    return [program, "run", *live, "-p" if os.sep in place else "-n", place]


def _made(program: str, file: Path) -> Path:
    """Return the directory of the environment that a file describes; make it if it is not there."""
    content = file.read_bytes()
    base = Path(os.environ.get("TOILFN_CONDA") or base_dir() / "conda")
    base.mkdir(parents=True, exist_ok=True)
    place = base / blake2b(content, digest_size=16).hexdigest()
    with open(f"{place}.lock", "w") as lock:  # tasks that need the same one wait for the first of them
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / _DONE).exists():
            shutil.rmtree(place, ignore_errors=True)
            command = [program, "create" if "micromamba" in program else "env"]
            command += ["-y"] if "micromamba" in program else ["create"]
            done = subprocess.run(
                [*command, "-p", str(place), "-f", str(file)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                said = last_lines(done.stderr or done.stdout, 20)
                raise CommandError(
                    f"conda could not create the environment of {file.name}:\n{said}", done.returncode, said
                )
            (place / _DONE).touch()
    return place
