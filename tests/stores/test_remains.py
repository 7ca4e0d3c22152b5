"""What is damaged, left over or in another place than it seems: said in one line, and put right where it can be."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.errors import CorruptObjectError, StoreError
from toilfn.stores import new_blob_name, open_store
from toilfn.stores.files import FileObjects
from toilfn.stores.lease import Lease


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "store")
    store.log.append([b"one"])
    store.log.append([b"two"])
    return store


@toil.task
def one() -> int:
    return 1


class TestRenames:
    """Two mounts of one file system have one device, and yet nothing can be renamed from one to the other."""

    def test_a_file_is_given_across_mounts(self, store, tmp_path, monkeypatch):
        replace = os.replace

        def across(source, target):
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", across)
        (tmp_path / "x").write_bytes(b"content")
        ref = store.put_blob_file(tmp_path / "x", name=new_blob_name("x"), move=True)
        assert store.get_blob(ref) == b"content"
        assert not (tmp_path / "x").exists()

    def test_with_real_mounts(self, tmp_path):
        for name in ("real", "work", "stores"):
            (tmp_path / name).mkdir()
        (tmp_path / "real" / "a").mkdir()
        (tmp_path / "real" / "b").mkdir()
        script = tmp_path / "script.py"
        script.write_text(
            "import sys, toilfn as toil\n"
            "@toil.task\n"
            "def make():\n"
            "    with toil.open_write('x', 'w') as stream:\n"
            "        stream.write('content')\n"
            "    (toil.current().temp_dir / 'y').write_text('more')\n"
            "    return stream.file, toil.current().temp_dir / 'y'\n"
            "x, y = toil.compute(make(), store=sys.argv[1], progress=False, workers=1)\n"
            "print(x.read_text(), y.read_text())\n"
        )
        mounts = f"mount --bind {tmp_path}/real/a {tmp_path}/work && mount --bind {tmp_path}/real/b {tmp_path}/stores"
        command = ["unshare", "-m", "sh", "-c", f"{mounts} && exec {sys.executable} {script} {tmp_path}/stores/s"]
        if subprocess.run(["unshare", "-m", "sh", "-c", mounts], capture_output=True).returncode:
            pytest.skip("mounts need root")
        environment = {**os.environ, "TOILFN_WORK_DIR": f"{tmp_path}/work"}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert ran.stdout == "content more\n", ran.stderr


def test_garbage_is_collected_however_young(store, tmp_path):
    temporary = tmp_path / "store" / "log" / ".tmp-young"
    temporary.write_bytes(b"x")
    ahead = time.time() + 3600  # by the clock of a file server
    os.utime(temporary, (ahead, ahead))
    store.objects.delete(store.objects.list("log/"))
    assert main(["clean", str(tmp_path / "store"), "--garbage"]) == 0
    assert not temporary.exists()


class TestStrays:
    def test_a_stray_object_is_named_rather_than_a_missing_one(self, store):
        store.objects.put("log/0000000000000009", b"an editor's backup")
        with pytest.raises(CorruptObjectError, match=r"log/0000000000000009 in .* is not an object of a log"):
            list(store.log.read())

    def test_a_file_of_another_store(self, store, tmp_path):
        other = open_store(tmp_path / "other")
        other.log.append([b"x"])
        shutil.copy(tmp_path / "other/log/0000000000000001", tmp_path / "store/log/0000000000000007")
        with pytest.raises(CorruptObjectError, match=r"log/0000000000000007 in .* belongs to another store"):
            list(store.log.read())

    def test_a_copy_under_a_later_number(self, store, tmp_path):
        shutil.copy(tmp_path / "store/log/0000000000000001", tmp_path / "store/log/0000000000000007")
        with pytest.raises(CorruptObjectError, match=r"log/0000000000000007 in .* is a copy of another object"):
            list(store.log.read())

    def test_an_object_that_is_really_missing(self, store):
        store.log.append([b"three"])
        store.objects.delete(["log/0000000000000002"])
        with pytest.raises(CorruptObjectError, match=r"log/0000000000000002 in .* is missing"):
            list(open_store(store.url).log.read())


class Altering(FileObjects):
    """Alters a bit of the first answers for each object, as a bad network does."""

    def __init__(self, root, times):
        super().__init__(root)
        self.left = {}
        self.times = times

    def get(self, name):
        data = super().get(name)
        self.left.setdefault(name, self.times)
        self.left[name] -= 1
        return data if self.left[name] < 0 else data[:-1] + bytes([data[-1] ^ 1])

    def download(self, name, path):
        Path(path).write_bytes(self.get(name))


@pytest.fixture
def altering(store):
    def altering(times):
        objects = Altering(store.url.removeprefix("file://"), times)
        again = open_store(store.url)
        again.objects = again.log._objects = objects
        return again

    return altering


def test_one_altered_answer_is_read_again(store, altering, tmp_path):
    ref = store.put_blob(b"content")
    store.put_batches("b", [b"m"])
    Lease.acquire(store).release()
    again = altering(1)
    assert [record for _, record in again.log.read()] == [b"one", b"two"]
    assert again.get_blob(ref) == b"content"
    again.fetch_blob(ref, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    with Lease.acquire(again) as lease:
        assert lease.epoch == 2


def test_an_object_that_is_altered_in_each_answer_is_damaged(store, altering, tmp_path):
    ref = store.put_blob(b"content")
    again = altering(100)
    for use in (
        lambda: list(again.log.read()),
        lambda: again.get_blob(ref),
        lambda: again.fetch_blob(ref, tmp_path / "x"),
    ):
        with pytest.raises(CorruptObjectError):
            use()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("place", ["directory", "memory"])
def test_remains_of_a_store_without_its_description_can_be_removed(tmp_path, capsys, place):
    url = str(tmp_path / "store") if place == "directory" else f"memory://remains-{os.getpid()}"
    toil.compute(one(), store=url, progress=False, cluster="inline")
    store = open_store(url)
    store.objects.delete(["store.json"])
    with pytest.raises(StoreError, match=r"is an incomplete job store: store.json is missing; .* toilfn clean"):
        open_store(url)
    assert main(["clean", url, "--yes"]) == 0
    told = capsys.readouterr()
    assert "no longer has a store.json" in told.err
    assert "removed" in told.out
    assert not list(store.objects.list(""))


def test_a_folder_that_never_was_a_store_is_not_removed(tmp_path, capsys):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "0000000000000001").write_text("my own log")
    assert main(["clean", str(tmp_path), "--yes"]) == 2
    assert "no job store at" in capsys.readouterr().err
    assert (tmp_path / "log" / "0000000000000001").exists()


def test_a_path_that_the_locale_cannot_encode_is_not_called_damage(tmp_path):
    place = tmp_path / "b\u00fccher"
    script = f"from toilfn.stores import open_store\nfor x in 'x', '\\ud800': open_store({str(place)!a} + '/' + x)\n"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert "locale's encoding" in ran.stderr
    assert "PYTHONUTF8=1" in ran.stderr
    assert "damaged" not in ran.stderr
    assert os.listdir(place) == ["x"]  # its name is in UTF-8, which is what workers expect


def test_errors_of_a_damaged_store_show_no_frames_of_toilfn(store, tmp_path):
    script = tmp_path / "flow.py"
    script.write_text(
        "import sys, toilfn as toil\n@toil.task\ndef f(x): return x\n"
        "toil.compute(f(1), store=sys.argv[1], progress=False)\n"
    )
    store.objects.put("log/0000000000000001", b"x")
    ran = subprocess.run([sys.executable, script, tmp_path / "store"], capture_output=True, text=True, timeout=60)
    frames = [line for line in ran.stderr.splitlines() if line.startswith("  File ")]
    assert len(frames) == 2, ran.stderr  # the script's, and that of toilfn.compute
    assert "flow.py" in frames[0]
    assert "CorruptObjectError: log/0000000000000001 in" in ran.stderr


def test_a_lease_that_cannot_be_given_back_does_not_hide_the_cause(store, monkeypatch):
    def refuse(*_):
        raise StoreError("no more")

    def fail() -> None:
        with Lease.acquire(store):
            monkeypatch.setattr(FileObjects, "put", refuse)
            monkeypatch.setattr(FileObjects, "delete", refuse)
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        fail()
