"""A store that was copied or moved is a store of its own: its files are its own."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.files.file import File, held_by
from toilfn.stores import open_store


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path))


@toil.task
def make() -> Path:
    path = toil.current().temp_dir / "a.txt"
    path.write_text("A" * 100)
    return path


@toil.task(retries=0)
def read(file: File, n: int) -> int:
    return len(file.read_text()) + n


@toil.task(retries=0)
def read_all(files: dict[str, File]) -> int:
    return sum(len(file.read_text()) for file in files.values())


@toil.task
def give(file: File) -> dict[str, File]:
    return {"x": file}


def damage(store: Path) -> None:
    for path in store.rglob("*a.txt*"):
        path.unlink()
        path.write_text("B" * 100)


@pytest.mark.parametrize("cluster", ["local", "inline"])
def test_a_copy_reads_its_own_files(tmp_path, cluster):
    settings = {"progress": False, "cluster": cluster}
    assert toil.compute(read(make(), 1), store=tmp_path / "store", **settings) == 101
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    damage(tmp_path / "store")
    shutil.rmtree(tmp_path / "files", ignore_errors=True)
    file, total = toil.compute([make(), read_all(give(make()))], store=tmp_path / "copy", **settings)
    assert total == 100
    assert file.read_text() == "A" * 100
    assert file.store == f"file://{tmp_path}/copy"
    assert toil.compute(read(file, 2), store=tmp_path / "copy", **settings) == 102


def test_a_moved_store_is_resumed_with_its_files(tmp_path):
    assert toil.compute(read(make(), 1), store=tmp_path / "store", progress=False) == 101
    (tmp_path / "store").rename(tmp_path / "moved")
    assert toil.compute(read(make(), 2), store=tmp_path / "moved", progress=False) == 102
    assert toil.resume(tmp_path / "moved") == 102


def test_a_file_of_another_store_stays_there(tmp_path):
    file = toil.compute(make(), store=tmp_path / "one", progress=False)
    assert toil.compute(read_all(give(file)), store=tmp_path / "two", progress=False) == 100
    again = toil.compute(give(file), store=tmp_path / "two", progress=False)["x"]
    assert again.store == f"file://{tmp_path}/one"


def test_a_pickle_that_leaves_the_store_keeps_the_address(tmp_path):
    store = open_store(tmp_path / "store")
    other = open_store(tmp_path / "other")
    file = File("blobs/aa/x", "x", 1, "00", False, store.url, 5)
    with held_by(store):
        inside = pickle.dumps(file)
    assert pickle.loads(inside).store == store.url
    with held_by(other):
        assert pickle.loads(inside) == file
        assert pickle.loads(inside).store == other.url
        assert pickle.loads(pickle.dumps(file)).store == store.url
    assert pickle.loads(inside).modified == 5
