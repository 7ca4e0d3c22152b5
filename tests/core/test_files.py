"""Files inside an attempt, and their handles afterwards: on a local store, and on one that is not."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
import pickle
import threading
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toilfn as toil
from toilfn.files.file import files_in, holds_files
from toilfn.files.task_files import TaskFiles
from toilfn.graph.running import passed_on
from toilfn.stores import open_store


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    url = f"file://{tmp_path}/store" if request.param == "file" else f"memory://{uuid.uuid4().hex}"
    store = open_store(url, create=True)
    yield store
    store.destroy()


@pytest.fixture
def local_store(tmp_path):
    return open_store(f"file://{tmp_path}/store", create=True)


@pytest.fixture
def attempt(tmp_path):
    """Starts attempts: each with a new session and a temporary directory of its own."""

    def start(store):
        temp = tmp_path / f"temp-{uuid.uuid4().hex}"
        temp.mkdir()
        return TaskFiles(store, lambda: temp)

    return start


def corrupt(store, file):
    content = store.objects.get(file.id)
    local = store.objects.local_path(file.id)
    if local is not None:
        local.chmod(0o600)
        local.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        local.chmod(0o444)
    else:
        store.objects.put(file.id, bytes([content[0] ^ 1]) + content[1:])


class TestWriting:
    def test_a_written_file_is_described(self, store, attempt, tmp_path):
        (tmp_path / "data.bin").write_bytes(b"1234567")
        with attempt(store) as session:
            file = toil.write_file(tmp_path / "data.bin")
        assert (file.name, file.size, file.executable) == ("data.bin", 7, False)
        assert file.checksum == hashlib.blake2b(b"1234567", digest_size=16).hexdigest()
        assert session.made == [file.ref]
        assert (tmp_path / "data.bin").exists()

    def test_later_changes_of_the_source_do_not_reach_the_file(self, store, attempt, tmp_path):
        source = tmp_path / "data.bin"
        source.write_bytes(b"before")
        with attempt(store):
            file = toil.write_file(source)
            source.write_bytes(b"after!")
            assert file.read_bytes() == b"before"

    def test_streams_of_bytes_and_text(self, store, attempt):
        with attempt(store):
            with toil.open_write("b.bin") as binary:
                binary.write(b"\x00\xff")
            with toil.open_write("t.txt", "w", encoding="latin-1") as text:
                text.write("é")
            assert binary.file.read_bytes() == b"\x00\xff"
            assert text.file.read_bytes() == b"\xe9"
            assert text.file.read_text("latin-1") == "é"
            assert text.file.name == "t.txt"

    def test_streams_accept_characters_that_an_encoding_lacks(self, store, attempt):
        with attempt(store):
            with toil.open_write("t.txt", "w", encoding="ascii", errors="backslashreplace") as text:
                text.write("é")
            assert text.file.read_bytes() == b"\\xe9"
            with toil.open_write("b.bin") as binary:
                binary.write(b"\xff")
            with binary.file.open("r", errors="replace") as stream:
                assert stream.read() == "\ufffd"

    def test_a_block_that_raises_keeps_nothing(self, store, attempt):
        with attempt(store) as session:
            with contextlib.suppress(ZeroDivisionError), toil.open_write("x") as stream:
                stream.write(b"half")
                _ = 1 / 0
            with pytest.raises(toil.InputError, match="exits without an error"):
                _ = stream.file
        assert session.made == []

    def test_empty_file(self, store, attempt):
        with attempt(store):
            with toil.open_write("empty") as stream:
                pass
            assert stream.file.size == 0
            assert stream.file.read_bytes() == b""
            assert stream.file.path().read_bytes() == b""

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
    def test_names_that_are_not_valid(self, store, attempt, name, tmp_path):
        (tmp_path / "x").touch()
        with attempt(store):
            with pytest.raises(toil.InputError, match="is not a valid"):
                toil.write_file(tmp_path / "x", name)
            with pytest.raises(toil.InputError, match="is not a valid"), toil.open_write(name):
                pass

    def test_a_missing_file_and_a_directory_are_refused(self, store, attempt, tmp_path):
        with attempt(store):
            with pytest.raises(toil.InputError, match="gone"):
                toil.write_file(tmp_path / "gone")
            with pytest.raises(toil.InputError, match="directory"):
                toil.write_file(tmp_path)

    def test_cleanup_is_noted(self, store, attempt, tmp_path):
        (tmp_path / "x").write_bytes(b"x")
        with attempt(store) as session:
            kept = toil.write_file(tmp_path / "x")
            first = toil.write_file(tmp_path / "x", cleanup=True)
            with toil.open_write("y", cleanup=True) as second:
                pass
        assert session.temporary == [first.id, second.file.id]
        assert kept.id not in session.temporary

    def test_outside_of_a_task(self, tmp_path):
        with pytest.raises(toil.InputError, match=r"write_file works only inside a task"):
            toil.write_file(tmp_path)
        with pytest.raises(toil.InputError, match=r"open_write works only inside a task"):
            toil.open_write("x")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
        lambda name: name not in (".", "..") and len(name.encode()) < 200
    ),
    content=st.binary(max_size=100),
    executable=st.booleans(),
)
def test_any_name_content_and_right_comes_back(local_store, attempt, name, content, executable):
    with attempt(local_store) as session:
        path = session.temp_dir() / name
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)
        file = session.adopt(path)
    with attempt(local_store):
        copy = file.path()
        assert (copy.name, copy.read_bytes()) == (name, content)
        assert bool(copy.stat().st_mode & 0o100) == executable == file.executable


@pytest.fixture
def file(store, attempt):
    """A file that an earlier attempt has made."""
    with attempt(store), toil.open_write("some text.txt", "w") as stream:
        stream.write("one\ntwo\n")
    return stream.file


class TestReading:
    def test_a_local_copy_is_read_only_and_shared(self, store, attempt, file):
        with attempt(store) as session:
            copy = file.path()
            assert copy.read_text() == "one\ntwo\n"
            assert copy.name == "some text.txt"
            assert copy.is_relative_to(session.temp_dir())
            assert not copy.stat().st_mode & 0o222
            assert copy == file.path()
        with attempt(store):
            assert file.path().stat().st_ino == copy.stat().st_ino

    def test_a_local_store_is_not_copied(self, local_store, attempt):
        with attempt(local_store):
            with toil.open_write("x") as stream:
                stream.write(b"x")
            assert stream.file.path().samefile(local_store.objects.local_path(stream.file.id))

    def test_a_mutable_copy_is_private(self, store, attempt, file):
        with attempt(store):
            first, second = file.path(mutable=True), file.path(mutable=True)
            with first.open("a") as stream:
                stream.write("three\n")
            assert second.read_text() == file.read_text() == file.path().read_text() == "one\ntwo\n"

    def test_a_copy_under_a_given_name(self, store, attempt, file, tmp_path):
        with attempt(store) as session:
            assert file.path("deep/er.txt") == session.temp_dir() / "deep" / "er.txt"
            assert (session.temp_dir() / "deep" / "er.txt").read_text() == "one\ntwo\n"
            assert file.path(tmp_path / "outside").read_text() == "one\ntwo\n"
            with pytest.raises(FileExistsError):
                file.path("deep/er.txt")
            with pytest.raises(FileExistsError):
                file.path("deep/er.txt", mutable=True)

    def test_a_symbolic_link(self, store, attempt, file):
        with attempt(store):
            copy = file.path("link", symlink=True)
            assert copy.is_symlink()
            assert copy.read_text() == "one\ntwo\n"

    def test_streams(self, store, attempt, file):
        with attempt(store):
            with file.open() as binary:
                assert list(binary) == [b"one\n", b"two\n"]
            with file.open("r") as text:
                assert text.readline() == "one\n"
            with pytest.raises(toil.InputError, match="read-only"):
                file.open("wb")

    def test_altered_content_is_an_error_that_names_the_file(self, store, attempt, file):
        corrupt(store, file)
        with attempt(store):
            with pytest.raises(toil.CorruptObjectError, match=r"some.text\.txt"):
                file.path()
            with pytest.raises(toil.CorruptObjectError, match=r"some.text\.txt"):
                file.read_bytes()

    def test_content_altered_after_it_was_read_is_noticed(self, local_store, attempt):
        with attempt(local_store), toil.open_write("x") as stream:
            stream.write(b"precious")
        with attempt(local_store):
            stream.file.path()
        corrupt(local_store, stream.file)
        with attempt(local_store), pytest.raises(toil.CorruptObjectError):
            stream.file.path()

    def test_missing_content_is_an_error_that_names_the_file(self, store, attempt, file):
        store.objects.delete([file.id])
        with attempt(store):
            with pytest.raises(toil.CorruptObjectError, match=r"some.text\.txt"):
                file.path()
            with pytest.raises(toil.CorruptObjectError, match=r"some.text\.txt"):
                file.open()

    def test_many_readers_at_once(self, store, attempt, file):
        barrier = threading.Barrier(8)

        def read(_):
            with attempt(store):
                barrier.wait()
                return file.path().read_text()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(read, range(8))) == {"one\ntwo\n"}

    def test_threads_of_a_task(self, store, attempt, file):
        with attempt(store), ThreadPoolExecutor(2) as pool:
            assert pool.submit(file.path).result() == file.path()
            context = contextvars.copy_context()
            assert pool.submit(context.run, file.path).result() == file.path()


class TestDeleting:
    def test_deletion_waits_for_the_commit(self, store, attempt, file):
        with attempt(store) as session:
            file.delete()
            file.delete()
            assert file.read_text() == "one\ntwo\n"
        assert session.deleted == [file.id]

    def test_a_deleted_file_cannot_be_returned(self, store, attempt, file):
        with attempt(store) as session:
            file.delete()
            with pytest.raises(toil.SerializationError, match="deleting it"):
                session.adopt({"result": [file]})

    def test_only_in_a_task_and_its_own_workflow(self, store, attempt, file, tmp_path):
        with pytest.raises(toil.InputError, match="inside a task"):
            file.delete()
        other = open_store(f"file://{tmp_path}/other", create=True)
        with attempt(other), pytest.raises(toil.InputError, match="only the workflow of that store"):
            file.delete()


@dataclass(frozen=True)
class Report:
    title: str
    plot: Path | toil.File


class Pair(NamedTuple):
    left: object
    right: object


class TestReturnedPaths:
    def test_at_any_depth(self, store, attempt):
        with attempt(store) as session:
            temp = session.temp_dir()
            (temp / "a.txt").write_text("a")
            (temp / "b.txt").write_text("b")
            value = session.adopt(
                {
                    "list": [temp / "a.txt"],
                    "tuple": (1, Pair(temp / "b.txt", {temp / "a.txt"})),
                    "r": Report("t", temp / "b.txt"),
                }
            )
            (a,) = value["list"]
            (b, (again,)) = value["tuple"][1]
            assert a is again
            assert value["r"] == Report("t", b)
            assert (a.read_text(), b.read_text()) == ("a", "b")
        assert session.made == [a.ref, b.ref]

    def test_other_paths_stay(self, store, attempt, tmp_path):
        (tmp_path / "mine.txt").touch()
        with attempt(store) as session:
            value = [tmp_path / "mine.txt", Path("relative"), session.temp_dir() / ".." / "mine.txt"]
            assert session.adopt(value) == value
        assert session.made == []

    def test_relative_paths_below_it(self, store, attempt, monkeypatch):
        with attempt(store) as session:
            monkeypatch.chdir(session.temp_dir())
            Path("out.txt").write_text("out")
            assert session.adopt(Path("out.txt")).read_text() == "out"

    def test_a_local_copy_is_the_file_itself(self, store, attempt, file):
        with attempt(store) as session:
            assert session.adopt(file.path()) == file
            renamed = session.adopt(file.path("other.txt"))
            assert (renamed.id, renamed.name) == (file.id, "other.txt")
        assert session.made == []

    def test_a_changed_copy_is_a_new_file(self, store, attempt, file):
        with attempt(store) as session:
            copy = file.path(mutable=True)
            copy.write_text("changed")
            assert session.adopt(copy).read_text() == "changed"
            assert file.read_text() == "one\ntwo\n"

    def test_links_to_foreign_files_are_copied(self, store, attempt, tmp_path):
        foreign = tmp_path / "foreign.txt"
        foreign.write_text("foreign")
        with attempt(store) as session:
            (session.temp_dir() / "soft").symlink_to(foreign)
            os.link(foreign, session.temp_dir() / "hard")
            soft, hard = session.adopt([session.temp_dir() / "soft", session.temp_dir() / "hard"])
            foreign.write_text("changed")
            assert soft.read_text() == hard.read_text() == "foreign"

    def test_values_that_cannot_be_files(self, store, attempt):
        with attempt(store) as session:
            with pytest.raises(toil.SerializationError, match="is the temporary directory itself"):
                session.adopt([session.temp_dir()])
            with pytest.raises(toil.SerializationError, match="gone does not exist"):
                session.adopt(session.temp_dir() / "gone")


class TestPathsAsArguments:
    def test_become_files_with_the_content_they_have_then(self, store, attempt):
        with attempt(store) as session:
            path = session.temp_dir() / "x.txt"
            path.write_text("first")
            first, again = passed_on(path), passed_on(path)
            path.write_text("second!")
            second = session.adopt([path])[0]
            assert first is again
            assert (first.read_text(), second.read_text()) == ("first", "second!")

    def test_other_paths_stay(self, store, attempt, tmp_path):
        assert passed_on(tmp_path / "x") == tmp_path / "x"
        with attempt(store):
            assert passed_on(tmp_path / "x") == tmp_path / "x"

    def test_local_copies_are_the_files_themselves(self, store, attempt, file):
        with attempt(store):
            assert passed_on(file.path()) == file

    def test_values_that_cannot_be_files(self, store, attempt):
        with attempt(store) as session:
            with pytest.raises(toil.InputError, match="gone does not exist"):
                passed_on(session.temp_dir() / "gone")
            with pytest.raises(toil.InputError, match="is the temporary directory itself"):
                passed_on(session.temp_dir() / ".")


class TestHandles:
    def test_work_outside_of_the_task(self, local_store, attempt, tmp_path):
        with attempt(local_store), toil.open_write("x.txt", "w") as stream:
            stream.write("kept")
        file = pickle.loads(pickle.dumps(stream.file))
        assert file == stream.file
        assert file.read_text() == file.path().read_text() == "kept"
        assert file.path(tmp_path / "copy").read_text() == "kept"
        assert file.path(tmp_path / "deep" / "link", symlink=True).read_text() == "kept"
        assert file.path().name == "x.txt"
        mine = file.path(tmp_path / "mine", mutable=True)
        mine.write_text("mine")
        assert file.read_text() == "kept"
        with pytest.raises(toil.InputError, match="needs a name outside of a task"):
            file.path(mutable=True)

    def test_work_in_another_workflow(self, local_store, attempt, tmp_path):
        with attempt(local_store), toil.open_write("x.txt", "w") as stream:
            stream.write("kept")
        with attempt(open_store(f"file://{tmp_path}/other", create=True)):
            assert stream.file.read_text() == stream.file.path().read_text() == "kept"

    def test_work_when_the_store_was_moved(self, tmp_path, attempt):
        with attempt(open_store(f"file://{tmp_path}/old", create=True)), toil.open_write("x") as stream:
            stream.write(b"moved")
        (tmp_path / "old").rename(tmp_path / "new")
        with attempt(open_store(f"file://{tmp_path}/new", create=False)):
            assert stream.file.read_bytes() == b"moved"

    def test_identity_is_the_content_wherever_it_is(self, store, local_store, attempt):
        def made(store, name, content):
            with attempt(store), toil.open_write(name) as stream:
                stream.write(content)
            return stream.file.__toilfn_identity__()

        assert made(store, "x", b"1") == made(local_store, "x", b"1")
        assert made(store, "x", b"1") != made(store, "x", b"2")
        assert made(store, "x", b"1") != made(store, "y", b"1")

    def test_files_are_found_in_values(self, file):
        class Odd:
            def __init__(self, inside):
                self.inside = inside

        assert files_in([Odd({"x": file}), (file,)]) == [file]
        assert holds_files({"deep": [Odd(file)]})
        assert not holds_files([1, "text", Odd(None)])
        assert not holds_files(None)


def test_big_files_take_constant_memory(store, attempt, tmp_path):
    if store.url.startswith("memory"):
        pytest.skip("a store in memory takes memory")
    piece = os.urandom(2**20)
    tracemalloc.start()
    try:
        with attempt(store):
            with toil.open_write("big") as stream:
                for _ in range(120):
                    stream.write(piece)
            with stream.file.open() as content:
                while content.read(2**20):
                    pass
            stream.file.path(mutable=True)
            toil.export(stream.file, tmp_path / "exported")
            again = toil.import_file(tmp_path / "exported")
        assert again.checksum == stream.file.checksum
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_the_address_of_a_file(tmp_path):
    with TaskFiles(open_store(tmp_path / "store"), lambda: tmp_path) as session:
        with toil.open_write("x") as writer:
            writer.write(b"content")
        file = writer.file
        assert str(file) == f"{file}" == file.url() == f"{session.store.url}/{file.id}"
        assert Path(str(file).removeprefix("file://")).read_bytes() == b"content"
        with pytest.raises(toil.StoreError, match="signed URLs"):
            file.url(expires="1h")
