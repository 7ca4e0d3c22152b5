"""Files keep the time at which their origin was last written to, so that an index never looks older than its file."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.files.directory import Directory
from toilfn.files.file import File

OLD, NEWER = 1_577_836_800_123_456_789, 1_577_923_200_987_654_321


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))


@pytest.fixture
def origin(tmp_path):
    """A large file, and its index, which was made a day later."""
    folder = tmp_path / "origin"
    folder.mkdir()
    for name, modified, size in (("x.bam.bai", NEWER, 1), ("x.bam", OLD, 1000)):
        (folder / name).write_bytes(b"x" * size)
        os.utime(folder / name, ns=(modified, modified))
    return folder


@toil.task
def times(bam: File, bai: File, mutable: bool) -> tuple[int, int]:
    return tuple(file.path(mutable=mutable).stat().st_mtime_ns for file in (bam, bai))


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("link", ["copy", "hard", "symlink"])
@pytest.mark.parametrize("place", ["store", "memory"])
def test_in_tasks(origin, tmp_path, mutable, link, place):
    store = tmp_path / "store" if place == "store" else f"memory://{tmp_path.name}-{link}-{mutable}"
    files = [toil.import_file(origin / name, link=link) for name in ("x.bam", "x.bam.bai")]
    for again in (False, True):  # the second time from the node's cache
        assert toil.compute(
            times.options(env={"AGAIN": str(again)})(*files, mutable), store=store, cluster="inline"
        ) == (OLD, NEWER)


def test_of_what_tasks_make(tmp_path):
    @toil.task
    def make() -> tuple[Path, Path]:
        folder = toil.current().temp_dir
        for name, modified in (("b", NEWER), ("a", OLD)):
            (folder / name).write_text(name)
            os.utime(folder / name, ns=(modified, modified))
        return folder / "a", folder / "b"

    made = make()
    assert toil.compute(times(made[0], made[1], False), store=tmp_path / "store") == (OLD, NEWER)


def test_in_directories_and_exports(origin, tmp_path, capsys):
    store = tmp_path / "store"
    directory = toil.compute(toil.import_directory(origin, "d"), store=store)
    assert isinstance(directory, Directory)
    toil.export(directory, f"{tmp_path}/out/")
    toil.export(directory["x.bam"], tmp_path / "alone")
    directory.path(tmp_path / "copy")
    directory.path(tmp_path / "own", mutable=True)
    (tmp_path / "got").mkdir()
    assert main(["files", str(store), "get", "x.bam*", str(tmp_path / "got")]) == 0
    for place in ("out/d", "copy", "own", "got"):
        found = [(tmp_path / place / name).stat().st_mtime_ns for name in ("x.bam", "x.bam.bai")]
        assert found == [OLD, NEWER], place
    assert (tmp_path / "alone").stat().st_mtime_ns == OLD


def test_in_a_copy_of_the_store(origin, tmp_path):
    file = toil.import_file(origin / "x.bam")
    toil.compute(file, store=tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=shutil.copyfile)
    copy = toil.compute(file, store=tmp_path / "copy")
    assert copy.path(tmp_path / "x").stat().st_mtime_ns == OLD


def test_of_downloads(origin, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(origin))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            files = [toil.import_file(f"{url}/{name}") for name in ("x.bam", "x.bam.bai")]
            found = toil.compute(times(*files, False), store=tmp_path / "store")
        finally:
            server.shutdown()
    assert [time // 10**9 for time in found] == [OLD // 10**9, NEWER // 10**9]


def test_of_members_of_archives(origin, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("x.bam.bai", "x.bam"):
            archive.write(origin / name, name)
    directory = toil.compute(toil.import_directory(f"zip://::{tmp_path}/x.zip", "d"), store=tmp_path / "store")
    local = directory.path(tmp_path / "local")
    found = [(local / name).stat().st_mtime_ns for name in ("x.bam", "x.bam.bai")]
    assert [abs(time - wanted) < 3 * 10**9 for time, wanted in zip(found, (OLD, NEWER), strict=True)] == [True, True]


def test_a_changed_entry_of_the_cache_is_noticed(origin, tmp_path):
    store = f"memory://{tmp_path.name}-changed"
    file = toil.compute(toil.import_file(origin / "x.bam"), store=store, cluster="inline")
    first = file.path(tmp_path / "first")
    first.chmod(0o644)
    first.write_bytes(b"y" * 1000)  # the same size: only the time tells
    assert file.path(tmp_path / "second").read_bytes() == b"x" * 1000
