"""`toilfn ls` lists stores, and `toilfn clean --older-than` removes those that no leader has used for some time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.story import end, epoch, failure, function, half_done, outcome, run, started, task, tell
from toilfn.cli import main
from toilfn.model.records import encode
from toilfn.stores import Store, open_store
from toilfn.stores.lease import Lease

_ENCRYPTED = "11" * 32


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tell(tmp_path / "done", epoch(), run("a"), function("f"), task("a", "f"), outcome("a"), end("done"))
    tell(
        tmp_path / "lab" / "failed",
        epoch(),
        run("a"),
        function("f"),
        task("a", "f"),
        failure("a", final=True),
        end("failed"),
    )
    tell(tmp_path / "lab" / "deep" / "deeper" / "empty", epoch())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big.txt").write_text("x" * 1000)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """Return the output of ``toilfn ls --json``, by the names of the stores."""
    assert main(["ls", "--json", *map(str, words)]) == 0
    return {each["store"].rpartition("/")[2]: each for each in json.loads(capsys.readouterr().out)}


def aged(store: Store, seconds: float) -> None:
    """Make a store so much older, as if no leader had used it since."""
    for path in (Path(store.url.removeprefix("file://")) / "leases").iterdir():
        path.unlink()
    meta = Path(store.url.removeprefix("file://")) / "store.json"
    told = json.loads(meta.read_text())
    os.chmod(meta, 0o600)
    meta.write_text(json.dumps({**told, "created": told["created"] - seconds}))


def test_stores_are_listed_with_state_tasks_size_and_age(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, place)
    assert {name: each["state"] for name, each in found.items()} == {"done": "done", "failed": "failed"}
    assert found["done"]["tasks"] == {"waiting": 0, "queued": 0, "running": 0, "done": 1, "failed": 0}
    assert found["done"]["size"] == sum(path.stat().st_size for path in (place / "done").rglob("*") if path.is_file())
    assert 0 <= found["done"]["age"] < 600
    assert found["failed"]["workflow"] == "/home/me/flow.py"
    assert main(["ls", str(place)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert line.split()[1] == "0/1"
    assert line.endswith(f"file://{place}/lab/failed")


def test_the_depth_says_how_far_to_look_and_a_store_may_be_named_itself(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(listed(capsys, place, "--depth", 4)) == {"done", "failed", "empty"}
    assert set(listed(capsys, place, "--depth", 0)) == set()
    assert set(listed(capsys, place / "done", place / "lab")) == {"done", "failed"}
    assert listed(capsys, place, "--no-size")["done"]["size"] is None
    assert main(["ls", str(place / "data")]) == 0
    assert capsys.readouterr().out == "no store was found\n"


def test_a_store_with_a_leader_is_running_and_a_damaged_one_does_not_hide_the_others(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tell(place / "led", *half_done(), started("sort 4"))
    (place / "broken").mkdir()
    (place / "broken" / "store.json").write_text("{}")
    with Lease.acquire(store):
        found = listed(capsys, place)
    assert found["led"]["state"] == "running"
    assert found["led"]["tasks"]["running"] == 1
    assert found["broken"]["state"] == "unreadable"
    assert "store.json" in found["broken"]["error"]
    assert found["done"]["state"] == "done"


def test_stores_at_a_url_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    stores = [open_store(f"memory://lab-of-ls/{name}") for name in ("one", "two")]
    try:
        stores[0].log.append([encode(epoch())])
        found = listed(capsys, "memory://lab-of-ls")
        assert set(found) == {"one", "two"}
        assert found["one"]["size"] > found["two"]["size"] > 0
    finally:
        for store in stores:
            store.destroy()


def test_encrypted_stores_are_listed_with_their_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_KEY", _ENCRYPTED)
    open_store("memory://secret-of-ls/one", encryption_key="env:STORE_KEY")
    found = listed(capsys, "memory://secret-of-ls", "--store-options", "encryption_key=env:STORE_KEY")
    assert found["one"]["state"] == "empty"
    open_store("memory://secret-of-ls/one", encryption_key="env:STORE_KEY").destroy()


@pytest.fixture
def old(place: Path) -> Path:
    """A place where all stores but one are 40 days old."""
    for name in ("done", "lab/failed"):
        store = open_store(place / name)
        Lease.acquire(store).release()
        aged(store, 40 * 86400)
    tell(place / "young", epoch()._replace(time=9e9))
    return place


def test_clean_removes_old_stores(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--older-than", "30d", str(old), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"file://{old}/done: done, last used 40d 00h ago" in said
    assert "would remove 2 stores" in said
    assert main(["clean", "--older-than", "50d", str(old), "--yes"]) == 0
    assert (old / "done").exists()
    assert main(["clean", "--older-than", "30d", str(old)]) == 2  # nobody was asked
    assert (old / "done").exists()
    assert main(["clean", "--older-than", "30d", str(old), "--yes"]) == 0
    assert [(old / name).exists() for name in ("done", "lab/failed", "young", "data/big.txt")] == [
        False,
        False,
        True,
        True,
    ]


def test_clean_leaves_a_store_that_is_led_or_cannot_be_read(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "broken").mkdir()
    (old / "broken" / "store.json").write_text("{}")
    with Lease.acquire(open_store(old / "done")):
        assert main(["clean", "--older-than", "30d", str(old), "--yes"]) == 0
    assert [(old / name).exists() for name in ("done", "lab/failed", "broken")] == [True, False, True]
    assert "broken is left alone" in capsys.readouterr().err


def test_clean_leaves_a_store_that_is_used_between_the_list_and_the_removal(
    old: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def confirm(*_: object) -> bool:
        open_store(old / "done").log.append([encode(epoch(2))])
        return True

    monkeypatch.setattr("toilfn.cli.clean._confirmed", confirm)
    assert main(["clean", "--older-than", "30d", str(old)]) == 0
    assert [(old / name).exists() for name in ("done", "lab/failed")] == [True, False]
    assert "done is left alone: a leader has used it in the meantime" in capsys.readouterr().err


def test_a_dry_run_of_clean_removes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--dry-run", str(place / "done")]) == 0
    assert capsys.readouterr().out == f"would remove file://{place}/done\n"
    assert (place / "done").exists()


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["ls", str(tmp_path / "nope")], ["clean", "--older-than", "1d", str(tmp_path / "nope")]):
        assert main(words) == 2
        assert f"directory not found: {tmp_path}/nope" in capsys.readouterr().err


def test_a_time_that_is_not_one_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["clean", "--older-than", "30x", "."])
    message = capsys.readouterr().err
    assert "argument --older-than: '30x'" in message
    assert "parse_duration" not in message
