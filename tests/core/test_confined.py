"""Names from outside never lead out of the folder that they are meant for."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import pytest

import toilfn as toil
from toilfn import confined
from toilfn.cli import main
from toilfn.errors import CorruptObjectError, InputError
from toilfn.files.directory import Directory
from toilfn.files.file import File
from toilfn.graph import code as deploy
from toilfn.model.records import Deleted, encode
from toilfn.stores import open_store

ESCAPES = ["../victim", "/victim", "..", ".", "", "a/../../victim", "a/..", "nul\0l", None, 3, b"x"]
FINE = {
    "a": "a",
    "a/b": "a/b",
    "./a//b/.": "a/b",
    "..a": "..a",
    "a..": "a..",
    "%2e%2e": "%2e%2e",
    "-rf": "-rf",
    "~": "~",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_point_outside_of_the_folder_are_refused(tmp_path: Path, name: object) -> None:
    for check in (confined.relative, confined.single, lambda name: confined.inside(tmp_path, name)):
        with pytest.raises(InputError, match="is not a valid"):
            check(name)


@pytest.mark.parametrize("name", FINE)
def test_other_names_stay_what_they_are(tmp_path: Path, name: str) -> None:
    assert confined.relative(name) == FINE[name]
    assert confined.inside(tmp_path, name) == tmp_path / FINE[name]


def test_a_name_of_one_file_has_no_folder() -> None:
    assert confined.single("a") == "a"
    with pytest.raises(InputError, match="contains '/'"):
        confined.single("a/b")


class TestLinks:
    @pytest.fixture
    def out(self, tmp_path):
        (tmp_path / "out" / "inner").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "victim").write_text("precious")
        return tmp_path / "out"

    def test_a_link_on_the_way_that_leads_out(self, out):
        (out / "link").symlink_to("../elsewhere")
        (out / "inner" / "again").symlink_to("../link")
        for name in ("link/victim", "link", "inner/again/new", "inner/again/victim"):
            with pytest.raises(InputError, match=r"through a symbolic link; remove the link"):
                confined.inside(out, name)

    def test_a_link_to_a_file_outside_is_refused_unless_it_is_replaced(self, out):
        (out / "link").symlink_to("../elsewhere/victim")
        with pytest.raises(InputError, match="leads out"):
            confined.inside(out, "link")
        assert confined.inside(out, "link", replaced=True) == out / "link"

    def test_a_dangling_link_and_one_to_a_sibling_whose_name_begins_alike(self, out):
        (out / "dangling").symlink_to("../nowhere")
        (out / "sibling").symlink_to("../out-of-here")
        for name in ("dangling", "dangling/x", "sibling", "sibling/x"):
            with pytest.raises(InputError, match="leads out"):
                confined.inside(out, name)

    def test_links_that_stay_inside_and_links_to_the_folder_itself(self, out, tmp_path):
        (out / "stays").symlink_to("inner")
        (tmp_path / "chosen").symlink_to("out")
        assert confined.inside(tmp_path / "chosen", "stays/x") == tmp_path / "chosen" / "stays" / "x"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A file of a store, and a victim beside the place where it is to go."""
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path))
    (tmp_path / "source").write_text("bad")
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("precious")
    file = toil.compute(toil.import_file(tmp_path / "source"), store=tmp_path / "store")
    yield file
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("name", ["../victim", "/victim", "a/../../victim"])
class TestForgedNames:
    """A `File` can be made with any name: by `dataclasses.replace`, by a tool's answer, by a store that was altered."""

    def test_export(self, made, tmp_path, name):
        name = str(tmp_path / "victim") if name.startswith("/") else name
        forged = dataclasses.replace(made, name=name)
        for target in (tmp_path / "out", f"{tmp_path}/out/", "memory://bucket/out/"):
            with pytest.raises(InputError, match="is not a valid"):
                toil.export(forged, target)

    @pytest.mark.parametrize("inner", [True, False])
    def test_directories(self, made, tmp_path, name, inner):
        forged = Directory("d", (dataclasses.replace(made, name=name),)) if inner else Directory(name, (made,))
        for use in (lambda: toil.export(forged, f"{tmp_path}/out/"), lambda: forged.path(None)):
            with pytest.raises(InputError, match="is not a valid"):
                use()

    def test_local_copies(self, made, tmp_path, name):
        with pytest.raises(InputError, match="is not a valid"):
            dataclasses.replace(made, name=name).path()

    def test_imports(self, tmp_path, made, name):
        @toil.task(retries=0)
        def bring(path: str, name: str) -> File:
            return toil.import_file(path, name)

        with pytest.raises(toil.FailedTasksError, match="is not a valid"):
            toil.compute(bring(str(tmp_path / "source"), name), store=tmp_path / "other")

    def test_files_get(self, made, tmp_path, name, monkeypatch, capsys):
        @toil.task
        def forge() -> File:
            Path("content").write_text("bad")
            return dataclasses.replace(toil.write_file("content"), name=name)

        id = toil.compute(forge(), store=tmp_path / "forged").id.rpartition("/")[2]
        assert main(["files", str(tmp_path / "forged"), "get", id, str(tmp_path / "out")]) == 2
        assert "is not a valid" in capsys.readouterr().err


def test_a_directory_is_not_exported_through_a_link(made, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "d").mkdir()
    (tmp_path / "out" / "d" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out"):
        toil.export(Directory("d", (Directory("sub", (made,)),)), tmp_path / "out" / "d")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_exported_file_takes_the_place_of_a_link(made, tmp_path):
    (tmp_path / "out" / "x").symlink_to(tmp_path / "victim")
    toil.export(dataclasses.replace(made, name="x"), f"{tmp_path}/out/")
    assert (tmp_path / "out" / "x").read_text() == "bad"


@pytest.mark.parametrize("member", ["../evil.py", "/evil.py", "good/../../evil.py"])
def test_an_archive_of_modules_that_leads_out_is_refused(tmp_path, member):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, "evil")
    with pytest.raises(InputError, match="is not a valid"):
        deploy.install(packed.getvalue(), tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.py"))


@pytest.mark.parametrize("name", ["../victim", "blobs/../../victim", "VICTIM"])
def test_a_record_cannot_name_objects_outside_of_its_store(tmp_path, name, capsys):
    (tmp_path / "victim").write_text("precious")
    store = open_store(tmp_path / "store")
    name = str(tmp_path / "victim") if name == "VICTIM" else name
    for use in (
        store.objects.get,
        store.objects.exists,
        store.objects.local_path,
        lambda name: store.objects.delete([name]),
    ):
        with pytest.raises(CorruptObjectError, match="is not a valid object name"):
            use(name)
    store.log.append([encode(Deleted((name,)))])
    main(["clean", str(tmp_path / "store"), "--garbage"])
    assert (tmp_path / "victim").read_text() == "precious"
