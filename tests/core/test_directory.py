"""Directories: listings that go through workflows, and trees that come in and go out."""

from __future__ import annotations

import io
import os
import pickle
import uuid
import zipfile
from pathlib import Path

import fsspec
import pytest

import toilfn as toil
from toilfn.cli.files import find_handles
from toilfn.files.task_files import TaskFiles
from toilfn.graph.identity import arguments_digest
from toilfn.graph.running import passed_on
from toilfn.stores import open_store


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))


@pytest.fixture
def session(tmp_path):
    """A running attempt."""
    (tmp_path / "temp").mkdir()
    with TaskFiles(open_store(tmp_path / "mine"), lambda: tmp_path / "temp") as session:
        yield session


TREE = {"a.txt": "a", "sub/b c.txt": "b", "sub/deep/\n": "c", "sub/deep/ü": "", "empty/": None}


def grow(root: Path) -> Path:
    for name, text in TREE.items():
        path = root / name
        if text is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


def seen(root: Path) -> dict[str, str | None]:
    found = {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}
    return found | {f"{p.relative_to(root)}/": None for p in root.rglob("*") if p.is_dir() and not any(p.iterdir())}


@pytest.fixture
def tree(tmp_path):
    return grow(tmp_path / "tree")


@pytest.mark.usefixtures("session")
class TestListing:
    def test_entries(self, tree):
        directory = toil.import_directory(tree)
        assert directory.name == "tree"
        assert [entry.name for entry in directory] == ["a.txt", "empty", "sub"]
        assert len(directory) == 3
        assert directory["sub/b c.txt"].read_text() == "b"
        assert directory["sub"]["deep"]["\n"].read_text() == "c"
        assert "sub/deep" in directory
        assert "sub/gone" not in directory
        assert "a.txt/x" not in directory
        with pytest.raises(KeyError, match="sub/gone"):
            directory["sub/gone"]
        assert [path for path, _ in directory.walk()] == [
            "a.txt", "empty", "sub", "sub/b c.txt", "sub/deep", "sub/deep/\n", "sub/deep/ü",
        ]  # fmt: skip

    def test_local_copies(self, tree, session):
        directory = toil.import_directory(tree)
        copy = directory.path()
        assert seen(copy) == TREE
        assert copy.name == "tree"
        assert not (copy / "a.txt").stat().st_mode & 0o222
        mine = directory.path("mine", mutable=True)
        assert mine == session.temp_dir() / "mine"
        (mine / "a.txt").write_text("changed")
        assert directory["a.txt"].read_text() == "a"
        with pytest.raises(FileExistsError):
            directory.path("mine")

    def test_identity_is_names_and_contents(self, tree):
        def identity():
            return arguments_digest((toil.import_directory(tree),), {}, lambda promise: b"")

        first = identity()
        assert identity() == first
        (tree / "sub" / "deep" / "ü").write_text("changed")
        assert identity() != first

    def test_deletion(self, tree, session):
        directory = toil.import_directory(tree)
        directory.delete()
        assert len(session.deleted) == 4
        with pytest.raises(toil.SerializationError, match="deleting it"):
            session.adopt(directory)


class TestImport:
    def test_links_are_followed(self, session, tree):
        (tree / "link").symlink_to(tree / "sub" / "deep")
        assert toil.import_directory(tree)["link/\n"].read_text() == "c"
        (tree / "sub" / "loop").symlink_to(tree)
        with pytest.raises(toil.InputError, match="would be infinite"):
            toil.import_directory(tree)

    def test_urls(self, session):
        url = f"memory://{uuid.uuid4().hex}/data"
        with fsspec.open(f"{url}/x", "w") as stream:
            stream.write("x")
        with fsspec.open(f"{url}/sub/y", "w") as stream:
            stream.write("y")
        directory = toil.import_directory(url)
        assert directory.name == "data"
        assert directory["sub/y"].read_text() == "y"
        with pytest.raises(toil.InputError, match="gone: directory not found"):
            toil.import_directory(f"{url}/gone")

    def test_names_that_point_outside_of_the_folder(self, session, tmp_path):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("good/../../../evil", "evil")
        (tmp_path / "x.zip").write_bytes(packed.getvalue())
        with pytest.raises(toil.InputError, match="is not the name of a file"):
            toil.import_directory(f"zip://::{tmp_path}/x.zip", name="x")
        assert not list(tmp_path.rglob("evil"))

    def test_files_and_directories_are_not_mixed_up(self, session, tree):
        with pytest.raises(toil.InputError, match=r"is a directory; use toilfn\.import_directory"):
            toil.import_file(tree)
        with pytest.raises(toil.InputError, match=r"a\.txt: it is not a directory"):
            toil.import_directory(tree / "a.txt")


@pytest.mark.usefixtures("session")
class TestExport:
    def test_a_directory_as_a_tree(self, tree, tmp_path):
        directory = toil.import_directory(tree)
        for _ in range(2):
            assert toil.export(directory, tmp_path / "out") == str(tmp_path / "out")
            assert seen(tmp_path / "out") == TREE
        assert toil.export(directory, f"{tmp_path}/under/") == f"{tmp_path}/under/tree"
        assert seen(tmp_path / "under" / "tree") == TREE

    def test_urls(self, tree):
        url = f"memory://{uuid.uuid4().hex}"
        toil.export(toil.import_directory(tree), url)
        with fsspec.open(f"{url}/sub/b c.txt") as stream:
            assert stream.read() == b"b"


class TestReturned:
    def test_paths_of_directories(self, session):
        directory = session.adopt({"out": grow(session.temp_dir() / "out")})["out"]
        assert seen(directory.path()) == TREE
        assert len(session.made) == 4
        assert session.adopt(directory.path()).entries == directory.entries
        assert len(session.made) == 4

    def test_targets_of_links_are_kept(self, session, tree):
        (session.temp_dir() / "out").mkdir()
        (session.temp_dir() / "out" / "link").symlink_to(tree)
        assert session.adopt(session.temp_dir() / "out")["link/a.txt"].read_text() == "a"
        assert seen(tree) == TREE

    def test_special_files_are_refused(self, session):
        (session.temp_dir() / "out").mkdir()
        os.mkfifo(session.temp_dir() / "out" / "pipe")
        with pytest.raises(toil.SerializationError, match="pipe is not a file"):
            session.adopt(session.temp_dir() / "out")

    def test_as_an_argument(self, session):
        out = grow(session.temp_dir() / "out")
        directory = passed_on(out)
        (out / "a.txt").write_text("later")
        assert directory["a.txt"].read_text() == "a"


@toil.task
def split(text: str) -> Path:
    out = toil.current().temp_dir / "words"
    out.mkdir()
    for word in text.split():
        (out / word).write_text(word)
    return out


@toil.task
def joined(*directories: toil.Directory) -> str:
    return " ".join(path.read_text() for d in directories for path in sorted(d.path().iterdir()))


def test_through_a_workflow(tree, tmp_path):
    words = split("to be")
    (tree / "sub").rename(tmp_path / "sub")
    (tree / "empty").rmdir()
    promise = joined(words, toil.import_directory(tree))
    assert toil.compute(promise, toil.export(words, tmp_path / "out"), store=tmp_path / "s", workers=1) == (
        "be to a",
        str(tmp_path / "out"),
    )
    assert seen(tmp_path / "out") == {"be": "be", "to": "to"}
    names = [handle.name for handle in find_handles(pickle.dumps(toil.compute(words, store=tmp_path / "s")))]
    assert sorted(names) == ["be", "to"]
    (tree / "a.txt").write_text("new")
    assert toil.compute(joined(toil.import_directory(tree)), store=tmp_path / "s", workers=1) == "new"
