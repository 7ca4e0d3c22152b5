"""What pyproject.toml cannot say: the package's page, and source distributions with manual pages, the same each time.

The page is README.md with links that lead somewhere from there. A link to a file of the repository becomes one to the
address ``Source`` in ``[project.urls]``; without that, its text, and pictures are left out.
"""

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.sdist import sdist

if sys.version_info >= (3, 11):
    import tomllib
else:
    from setuptools.compat.py310 import tomllib

_RELATIVE = re.compile(r"(!?)\[([^\]]+)\]\((?![a-z]+:|#)([^)]+)\)")
_COMMENT = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)


def page(folder: Path) -> str:
    """Return README.md for readers who do not have the repository's other files."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = project.get("urls", {}).get("Source")

    def replaced(link: "re.Match[str]") -> str:
        picture, text, target = link.groups()
        if source:
            return f"{picture}[{text}]({source}/{'raw' if picture else 'blob'}/main/{target})"
        return "" if picture else text

    return _RELATIVE.sub(replaced, _COMMENT.sub("", (folder / "README.md").read_text(encoding="utf-8")))


class CompleteSdist(sdist):
    """An archive with manual pages.

    With ``SOURCE_DATE_EPOCH`` in the environment, its bytes depend on nothing but the files.
    """

    def make_release_tree(self, base_dir: str, files: "list[str]") -> None:
        """Collect the files, and write the manual pages, except into an sdist of an sdist, which has them."""
        super().make_release_tree(base_dir, files)
        here = Path(__file__).parent
        if not (here / "PKG-INFO").exists():
            subprocess.run([sys.executable, here / "docs/man.py", Path(base_dir) / "man"], check=True)

    def make_archive(self, base_name: str, format: str, *args: Any, **options: Any) -> str:
        """Make the archive, and then one without times, users and the order of the disk."""
        made: str = super().make_archive(base_name, format, *args, **options)
        if format == "gztar" and "SOURCE_DATE_EPOCH" in os.environ:
            normalise(Path(made), int(os.environ["SOURCE_DATE_EPOCH"]))
        return made


def normalise(archive: Path, epoch: int) -> None:
    """Write a compressed tar file anew, its members sorted and with one time and no owner."""
    content = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(content.getvalue(), mtime=epoch))


if __name__ == "__main__":
    setup(
        long_description=page(Path(__file__).parent),
        long_description_content_type="text/markdown",
        cmdclass={"sdist": CompleteSdist},
    )
