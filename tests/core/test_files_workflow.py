"""Files in whole workflows: promises of imports and exports, returned paths, handles afterwards."""

from __future__ import annotations

import functools
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import toilfn as toil


@toil.task
def shout(text: toil.File) -> Path:
    path = toil.current().temp_dir / "loud.txt"
    path.write_text(text.read_text().upper())
    return path


@toil.task
def letters(text: toil.File) -> list[toil.File]:
    return [one_letter(c) for c in text.read_text()]


@toil.task
def one_letter(letter: str) -> toil.File:
    with toil.open_write(f"{letter}.txt", "w") as stream:
        stream.write(letter)
    return stream.file


@toil.task
def joined(texts: list[toil.File]) -> str:
    return "".join(text.path().read_text() for text in texts)


@toil.task
def deleting(text: toil.File) -> str:
    text.delete()
    return text.read_text()


@toil.task
def size_of(text: toil.File) -> int:
    return text.size


@toil.task
def url_of(folder: str) -> str:
    return f"{folder}/in.txt"


@toil.task
def directly(folder: str) -> str:
    text = toil.import_file(f"{folder}/in.txt")
    return toil.export(text, f"{folder}/direct.txt")


@toil.task
def passing_on(text: str) -> str:
    path = toil.current().temp_dir / "mine.txt"
    path.write_text(text)
    return deleting(path)


@pytest.fixture
def source(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path / "work"))
    path = tmp_path / "in.txt"
    path.write_text("hello")
    return path


@pytest.fixture
def compute(tmp_path):
    """Computes on a store of the test's own."""
    return lambda *promises: toil.compute(*promises, store=tmp_path / "store", workers=2)


def test_in_and_out(compute, source, tmp_path):
    result = compute(toil.export(shout(toil.import_file(source)), tmp_path / "out.txt"))
    assert result == str(tmp_path / "out.txt")
    assert Path(result).read_text() == "HELLO"


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_a_setting_decides_how_files_are_imported(source, tmp_path, cluster):
    def links(**settings):
        file = toil.compute(toil.import_file(source), cluster=cluster, **settings)
        return (Path(settings["store"]) / file.id).is_symlink()

    assert links(store=tmp_path / "linked", link_imports=True)
    assert not links(store=tmp_path / "copied")
    assert not links(store=tmp_path / "hard", link_imports="hard")
    assert links(store=tmp_path / "linked")  # the setting is not part of what a task is
    promise = shout(toil.import_file(source))
    assert toil.compute(promise, store=tmp_path / "linked", cluster=cluster).read_text() == "HELLO"


def test_a_resume_after_outputs_were_moved(compute, source, tmp_path):
    made = shout(toil.import_file(source))
    compute(toil.export(made, tmp_path / "out.txt", move=True))
    assert compute(made).read_text() == "HELLO"
    compute(toil.export(shout(made), tmp_path / "more.txt", move=True))
    assert (tmp_path / "more.txt").read_text() == (tmp_path / "out.txt").read_text() == "HELLO"


def test_relative_to_the_script(compute, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute(toil.export(toil.import_file("in.txt"), "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "hello"


def test_files_of_dynamic_tasks(compute, source):
    assert compute(joined(letters(toil.import_file(source)))) == "hello"


def test_a_missing_source_is_named_before_anything_runs(tmp_path):
    with pytest.raises(toil.InputError, match=r"gone\.txt"):
        toil.import_file(tmp_path / "gone.txt")


def test_directly_in_a_task(compute, source, tmp_path):
    assert compute(directly(str(tmp_path))) == str(tmp_path / "direct.txt")
    assert (tmp_path / "direct.txt").read_text() == "hello"


def test_import_of_a_promised_url(compute, source, tmp_path):
    assert compute(size_of(toil.import_file(url_of(str(tmp_path))))) == 5


def test_globs_make_a_task_for_each_file(compute, tmp_path, source):
    (tmp_path / "other.txt").write_text(" you")
    assert compute(joined(toil.import_files(tmp_path / "*.txt"))) == "hello you"


class Meeting(SimpleHTTPRequestHandler):
    """Serves two files, when both have been asked for."""

    barrier = threading.Barrier(2)

    def do_GET(self):
        self.barrier.wait(timeout=60)
        super().do_GET()

    def log_message(self, *args):
        pass


def test_imports_on_workers_run_at_the_same_time(compute, tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "site").mkdir()
    for name in ("a", "b"):
        (tmp_path / "site" / name).write_text(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Meeting, directory=tmp_path / "site")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            assert compute(joined([toil.import_file(f"{url}/{name}", local=False) for name in ("a", "b")])) == "ab"
        finally:
            server.shutdown()
            thread.join()


def test_exports_may_run_on_workers(compute, source, tmp_path):
    made = shout(toil.import_file(source))
    targets = [tmp_path / "out" / str(number) for number in range(3)]
    assert compute(*[toil.export(made, target, local=False) for target in targets]) == tuple(map(str, targets))
    assert [target.read_text() for target in targets] == ["HELLO"] * 3


def test_an_error_under_dasks_own_schedulers_says_what_to_do(source):
    import dask

    for promise in (shout(toil.import_file(source)), one_letter("x")):
        with pytest.raises(toil.InputError, match=r"only inside a task that toilfn\.compute runs: dask's own"):
            dask.compute(promise, scheduler="sync")


def test_a_changed_source_is_imported_again(compute, source):
    def text():
        return compute(joined([toil.import_file(source)]))

    assert text() == "hello"
    source.write_text("changed")
    assert text() == "changed"


def test_an_export_that_was_removed_or_changed_is_made_again(compute, source, tmp_path):
    target = tmp_path / "out.txt"

    def export():
        compute(toil.export(toil.import_file(source), target))
        return target.read_text()

    assert export() == "hello"
    target.unlink()
    assert export() == "hello"
    target.write_text("spoilt")
    assert export() == "hello"
    assert export() == "hello"


def test_a_returned_file_works_in_the_script(compute, source, tmp_path):
    file = compute(shout(toil.import_file(source)))
    assert (file.name, file.size) == ("loud.txt", 5)
    assert file.read_text() == file.path().read_text() == pickle.loads(pickle.dumps(file)).read_text() == "HELLO"
    assert toil.export(file, tmp_path / "out.txt") == str(tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "HELLO"


def test_a_returned_file_is_an_argument_of_the_next_workflow(compute, source):
    file = compute(shout(toil.import_file(source)))
    assert toil.compute(joined([file])) == "HELLO"


def test_a_temporary_store_is_kept_for_the_files_returned(source, capfd):
    file = toil.compute(shout(toil.import_file(source)))
    assert file.read_text() == "HELLO"
    assert file.store in capfd.readouterr().err


def test_deletion_takes_effect(compute, source):
    text = toil.import_file(source)
    assert compute(deleting(text)) == "hello"
    with pytest.raises(toil.CorruptObjectError, match=r"in\.txt"):
        compute(text).read_bytes()


def test_a_path_can_be_an_argument_of_a_task_made_by_the_task(compute, source):
    assert compute(passing_on("text")) == "text"


def test_the_nodes_copies_are_removed_with_their_store(source, tmp_path):
    toil.compute(joined([toil.import_file(source)]))
    assert [path for path in (tmp_path / "work").rglob("*") if path.is_file() or path.is_symlink()] == []


@toil.task
def short_lived(text):
    with toil.open_write("note.txt", "w", cleanup=True) as file:
        file.write(text)
    return reading(file.file), file.file


@toil.task
def reading(file):
    return file.read_text()


def test_cleanup_removes_a_file_after_all_that_its_task_led_to(compute):
    text, file = compute(short_lived("hello"))
    assert text == "hello"
    with pytest.raises(toil.CorruptObjectError, match=r"note\.txt"):
        file.read_bytes()
