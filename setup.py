"""What pyproject.toml cannot say: the package's page is README.md with links that lead somewhere from there.

A link to a file of the repository becomes one to the address ``Source`` in ``[project.urls]``; without that, its text.
"""

import re
import sys
from pathlib import Path

from setuptools import setup

if sys.version_info >= (3, 11):
    import tomllib
else:
    from setuptools.compat.py310 import tomllib

_RELATIVE = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)]+)\)")


def page(folder: Path) -> str:
    """Return README.md for readers who do not have the repository's other files."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = project.get("urls", {}).get("Source")
    target = rf"[\1]({source}/blob/main/\2)" if source else r"\1"
    return _RELATIVE.sub(target, (folder / "README.md").read_text(encoding="utf-8"))


setup(long_description=page(Path(__file__).parent), long_description_content_type="text/markdown")
