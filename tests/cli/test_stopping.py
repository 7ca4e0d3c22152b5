"""Commands that end things: kill and clean."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest

from tests.cli.story import epoch, failure, function, half_done, id_of, outcome, run, task, tell
from toilfn.cli import main
from toilfn.errors import FencedError
from toilfn.inspect.view import State, View
from toilfn.model.records import encode
from toilfn.stores import Store, open_store
from toilfn.stores.lease import Lease


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tell(tmp_path / "store", *half_done())


def test_kill_when_nothing_runs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kill", store.url]) == 0
    assert capsys.readouterr().out == f"nothing is running in {store.url}\n"
    assert not store.has_flag("kill")


def test_kill_waits_for_the_leader(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    lease = Lease.acquire(store)

    def lead() -> None:
        deadline = time.monotonic() + 20
        while not store.has_flag("kill") and time.monotonic() < deadline:
            time.sleep(0.01)
        lease.release()

    leader = threading.Thread(target=lead)
    leader.start()
    assert main(["kill", store.url, "--timeout", "20s"]) == 0
    leader.join()
    assert capsys.readouterr().out == f"stopped; to resume: toilfn resume {store.url}\n"


def test_kill_of_a_leader_that_does_not_respond(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with Lease.acquire(store):
        assert main(["kill", store.url, "--timeout", "10ms"]) == 1
    assert "was asked to stop but is still running after" in capsys.readouterr().err
    assert store.has_flag("kill")


def test_clean_removes_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        tell(path, *half_done())
    assert main(["clean", "--yes", *map(str, paths)]) == 0
    assert not any(path.exists() for path in paths)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_clean_leaves_a_store_that_is_in_use(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--yes", "--garbage"):
        with Lease.acquire(store):
            assert main(["clean", flag, store.url]) == 1
        assert "in use by process" in capsys.readouterr().err
    assert len(View(open_store(store.url)).tasks) == 8


def test_clean_asks_before_it_removes_a_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert main(["clean", store.url]) == 1
    assert "nothing was removed" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["clean", store.url]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO())
    tell(Path(store.url.removeprefix("file://")), epoch())
    assert main(["clean", store.url]) == 2
    assert "hint: pass --yes" in capsys.readouterr().err


def test_clean_removes_nothing_when_one_store_is_misspelled(store: Store, tmp_path: Path) -> None:
    assert main(["clean", "--yes", store.url, str(tmp_path / "none")]) == 2
    assert len(View(open_store(store.url)).tasks) == 8


def test_garbage_is_what_nothing_refers_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tell(tmp_path / "store", epoch(), run("a", "b", "c"), function("f"), *(task(n, "f") for n in "abc"))
    value, log, shared, deleted, garbage = (store.put_blob(text) for text in (b"v", b"l", b"s", b"d", b"g"))
    made = outcome("a")._replace(value=value, log=log, blobs=(value, shared, deleted))
    also = outcome("b")._replace(blobs=(shared,), deleted=(deleted.name,))
    tell(tmp_path / "store", made, also)
    assert main(["clean", "--garbage", store.url]) == 0
    assert capsys.readouterr().out == f"removed 2 objects of {store.url}\n"
    assert [store.objects.exists(ref.name) for ref in (value, log, shared)] == [True] * 3
    assert [store.objects.exists(ref.name) for ref in (deleted, garbage)] == [False] * 2


def test_collecting_garbage_fences_a_leader_that_wakes_up_and_keeps_failures_visible(tmp_path: Path) -> None:
    store = tell(tmp_path / "store", *half_done(), failure("sort 4", final=True))
    assert main(["clean", "--garbage", store.url]) == 0
    with pytest.raises(FencedError):
        store.log.append([encode(outcome("report"))])
    assert View(open_store(store.url)).tasks[id_of("sort 4")].state is State.FAILED
