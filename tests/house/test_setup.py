"""The package's page on an index, and source distributions that are the same each time."""

from __future__ import annotations

import importlib.util
import io
import tarfile

import pytest

from tests.house.rooms import ROOT

README = """# A title
![a picture](docs/a.svg)
<!-- not run: needs a cluster -->
[a page](docs/page.md), [elsewhere](https://example.org), [here](#a-title)
"""


@pytest.fixture(scope="module")
def setup():
    spec = importlib.util.spec_from_file_location("toilfn_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("urls", "picture", "link"),
    [
        ("", "", "a page"),
        (
            '[project.urls]\nSource = "https://host/x"\n',
            "![a picture](https://host/x/raw/main/docs/a.svg)",
            "[a page](https://host/x/blob/main/docs/page.md)",
        ),
    ],
)
def test_links_of_the_page_lead_somewhere_from_an_index(setup, tmp_path, urls, picture, link):
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n{urls}')
    (tmp_path / "README.md").write_text(README)
    rest = "[elsewhere](https://example.org), [here](#a-title)"
    assert setup.page(tmp_path) == f"# A title\n{picture}\n{link}, {rest}\n"


def archive(path, names, mtime):
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.uname = 4, mtime, mtime, f"user{mtime}"
            file.addfile(member, io.BytesIO(b"text"))
    return path


def test_archives_of_the_same_files_have_the_same_bytes(setup, tmp_path):
    one, two = archive(tmp_path / "1.tar.gz", "ab", 1), archive(tmp_path / "2.tar.gz", "ba", 2)
    assert one.read_bytes() != two.read_bytes()
    for path in (one, two):
        setup.normalise(path, 1_700_000_000)
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as file:
        assert [(member.name, member.mtime, member.uid) for member in file] == [
            ("a", 1_700_000_000, 0),
            ("b", 1_700_000_000, 0),
        ]
