"""``python -m tests.house.assets``: fetch the scripts and style sheets of others by npm, and compare their checksums.

The files are in the repository and in the package, so that neither users nor tests need npm. To take a newer version:
change it here, run this, compare the files, and write down the checksums that it prints.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["PACKAGES", "STATIC", "Vendored", "digest", "main"]

STATIC = Path(__file__).parents[2] / "toilfn" / "pages" / "static"


class Vendored(NamedTuple):
    """A package of npm whose files are in the repository."""

    name: str
    version: str
    files: dict[str, str]
    """The SHA-256 of each file of the package's folder ``dist``."""


PACKAGES = (
    Vendored(
        "htmx.org",
        "2.0.11",
        {"htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"},
    ),
    Vendored(
        "uplot",
        "1.6.32",
        {
            "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
        },
    ),
)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Bring the files up to date; the exit status is 1 if a checksum is not the one above."""
    wrong = 0
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            subprocess.run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=folder, check=True)
            (archive,) = folder.glob("*.tgz")  # npm has compared it with the registry's own checksum
            with tarfile.open(archive) as opened:
                for file, wanted in package.files.items():
                    opened.extract(f"package/dist/{file}", folder)
                    found = folder / "package" / "dist" / file
                    if digest(found) == wanted:
                        shutil.copyfile(found, STATIC / file)
                    else:
                        print(f"{package.name} {package.version}: {file} has the checksum {digest(found)}")
                        wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
