"""The scripts and style sheets of others are the published ones, with their licences."""

from __future__ import annotations

import pytest

from tests.house.assets import PACKAGES, STATIC, digest


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_files_are_as_they_were_published(package):
    assert {name: digest(STATIC / name) for name in package.files} == package.files
    licences = (STATIC / "LICENSES.txt").read_text()
    assert f"{package.name} {package.version} ({', '.join(package.files)})" in licences


def test_every_other_file_is_our_own():
    known = {name for package in PACKAGES for name in package.files} | {"pages.css", "pages.js", "LICENSES.txt"}
    assert {path.name for path in STATIC.iterdir()} == known
