"""Commands that read a store: status, logs, graph, stats, files."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest
from jsonschema import Draft202012Validator

import toilfn as toil
from tests.cli.story import end, epoch, failure, function, half_done, id_of, outcome, run, started, task, tell
from toilfn.cli import main
from toilfn.cli.status import EXIT_STATUSES
from toilfn.files.file import File
from toilfn.inspect.stores import schema
from toilfn.model.records import Forget, Outcome, Queue, encode
from toilfn.stores import Store
from toilfn.stores.lease import Lease


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tell(tmp_path / "store", *half_done())


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_status_of_a_run_whose_leader_died(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "status", store.url)
    assert f"stopped; to resume: toilfn resume {store.url}" in text
    assert "tasks     8: 3 waiting, 4 done, 1 failed" in text
    assert f"{id_of('sort 3').hex()[:12]}  sort_chunk  ValueError: bad" in text
    assert "running:" not in text


def test_status_of_a_run_that_has_not_ended(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with Lease.acquire(store):
        text = printed(capsys, "status", store.url)
        only = printed(capsys, "status", store.url, "--running")
    assert ": running\n" in text
    assert "last heartbeat" in text
    assert "tasks     8: 2 waiting, 1 running, 4 done, 1 failed" in text
    (line,) = [line for line in only.splitlines() if "sort_chunk" in line]
    assert line.startswith(id_of("sort 4").hex()[:12])
    assert "since" in line
    assert "failed" not in only


def test_status_as_a_tree_names_what_is_not_done(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "status", store.url, "--tree").splitlines()
    assert lines[0].startswith("merge (")
    assert "├── sort_chunk  3 tasks: 3 done" in lines
    assert any(f"sort_chunk ({id_of('sort 3').hex()[:12]})  failed" in line for line in lines)
    assert any(line.endswith("split  done") for line in lines)


def test_status_for_programs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with Lease.acquire(store):
        found = json.loads(printed(capsys, "status", store.url, "--json"))
    assert found["tasks"] == {"waiting": 2, "queued": 0, "running": 1, "done": 4, "failed": 1}
    assert (found["state"], found["run"], found["workflow"]) == ("running", 1, "/home/me/flow.py")
    assert [(task["id"], task["attempts"]) for task in found["running"]] == [(id_of("sort 4").hex(), 1)]
    assert [(task["error"], task["attempts"]) for task in found["failed"]] == [("ValueError: bad", 2)]
    assert set(found["leader"]) == {"host", "pid", "heartbeat"}


def test_status_sets_queued_tasks_apart_with_their_jobs_and_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"t{n}" for n in range(4)]
    store = tell(
        tmp_path / "store", epoch(), run(*names), function("f"), *(task(name, "f") for name in names),
        *(started(name, job=f"471{n}") for n, name in enumerate(names)),
        Queue({"4710": "PENDING Priority", "4711": "PENDING Priority", "4712": "PENDING JobHeldAdmin"}, (), 1001.0),
        Queue({"4711": "PENDING Resources"}, ("4710",), 1002.0), outcome("t3"),
    )  # fmt: skip
    with Lease.acquire(store):
        text = printed(capsys, "status", store.url)
        only = printed(capsys, "status", store.url, "--queued")
        found = json.loads(printed(capsys, "status", store.url, "--json"))
    assert "tasks     4: 2 queued, 1 running, 1 done" in text
    (running,) = (line for line in text.split("running:\n")[1].splitlines() if id_of("t0").hex()[:12] in line)
    assert " 4710 " in running
    assert [(" 4711 " in only, " 4712 " in only, " 4710 " in only)] == [(True, True, False)]
    assert "ago: PENDING Resources" in only
    assert "ago: PENDING JobHeldAdmin" in only
    assert [(task["job"], task["reason"]) for task in found["queued"]] == [
        ("4711", "PENDING Resources"), ("4712", "PENDING JobHeldAdmin")
    ]  # fmt: skip
    assert [task["job"] for task in found["running"]] == ["4710"]
    assert found["tasks"]["queued"] == 2


def test_nothing_is_queued_without_a_leader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(
        tmp_path / "store", epoch(), run("a"), function("f"), task("a", "f"), started("a", job="4710"),
        Queue({"4710": "PENDING Priority"}, (), 1001.0),
    )  # fmt: skip
    text = printed(capsys, "status", str(tmp_path / "store"))
    assert "tasks     1: 1 waiting" in text
    assert "Priority" not in text


def test_status_of_ended_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tell(tmp_path / "done", epoch(), run("a"), function("f"), task("a", "f"), outcome("a"), end("done"))
    assert ": done\n" in printed(capsys, "status", store.url)
    tell(tmp_path / "killed", *half_done(), end("killed"))
    assert "killed" in printed(capsys, "status", str(tmp_path / "killed"))
    tell(tmp_path / "empty", epoch())
    assert printed(capsys, "status", str(tmp_path / "empty")) == "nothing has run in this store yet\n"
    assert json.loads(printed(capsys, "status", str(tmp_path / "empty"), "--json"))["state"] == "empty"


def test_output_for_programs_follows_the_published_schema(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--schema"])
    published = json.loads(capsys.readouterr().out)
    assert published == schema()
    Draft202012Validator.check_schema(published)
    with Lease.acquire(store):
        jsonschema.validate(json.loads(printed(capsys, "status", store.url, "--json")), published)
    found = json.loads(printed(capsys, "status", store.url, "--json"))
    jsonschema.validate(found, published)
    assert found["ended"] is None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "state": "asleep"}, published)


@pytest.mark.parametrize(
    ("state", "status"),
    [("done", 0), ("failed", 1), ("stopped", 11), ("interrupted", 12), ("killed", 13), ("empty", 14)],
)
def test_the_exit_status_says_how_a_run_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, status: int
) -> None:
    told = {"empty": [epoch()], "stopped": half_done()}.get(state, [*half_done(), end(state)])
    store = tell(tmp_path / "store", *told)
    assert main(["status", store.url, "--exit-code", "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema())
    assert found["state"] == state
    assert main(["status", store.url]) == 0


def test_the_exit_statuses_are_those_of_the_schema_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXIT_STATUSES) == set(schema()["properties"]["state"]["enum"])
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{status} {state}" in said for state, status in EXIT_STATUSES.items())


def test_status_waits_until_no_leader_is_left(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    lease = Lease.acquire(store)
    assert main(["status", store.url, "--exit-code"]) == 10
    ended = threading.Event()

    def finish() -> None:
        store.log.append([encode(end("failed"))])
        ended.set()
        lease.release()

    timer = threading.Timer(0.5, finish)
    timer.start()
    assert main(["status", store.url, "--wait", "--exit-code"]) == 1
    assert ended.is_set()
    timer.join()
    assert ": failed" in capsys.readouterr().out


def test_long_lists_are_cut_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"t{n}" for n in range(30)]
    tasks = [task(name, "f") for name in names]
    failures = [failure(name, final=True) for name in names]
    store = tell(tmp_path / "store", epoch(), run(*names), function("f"), *tasks, *failures, end("failed"))
    assert "... and 20 more: --failed lists all" in printed(capsys, "status", store.url)
    assert printed(capsys, "status", store.url, "--failed").count("ValueError: bad") == 30


def test_logs_show_every_attempt_or_one(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "logs", store.url, "split") == "splitting\n"
    which = id_of("sort 3").hex()[:12]
    assert printed(capsys, "logs", store.url, which) == "trying\nTraceback: bad\n" * 2
    assert main(["logs", store.url, which, "--attempt", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "trying\nTraceback: bad\n"
    assert captured.err == f"--- sort_chunk ({which}), attempt 2 on node1, 2s, failed (error): ValueError: bad\n"


def test_logs_are_followed_until_the_task_is_done(store: Store) -> None:
    which = id_of("sort 3").hex()[:12]
    command = [sys.executable, "-m", "toilfn", "logs", store.url, which, "--follow"]
    lease = Lease.acquire(store)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process, lease:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(4)] == ["trying\n", "Traceback: bad\n"] * 2
        tell(Path(store.url.removeprefix("file://")), outcome("sort 3", log=b"at last\n"))
        assert process.communicate(timeout=60)[0] == "at last\n"
    assert process.returncode == 0


def test_logs_of_a_task_that_does_not_exist(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    which, cut_off = (id_of(name).hex()[:12] for name in ("sort 3", "sort 4"))
    assert "it is waiting, and no attempt has finished" in printed(capsys, "logs", store.url, cut_off, status=2)
    with Lease.acquire(store):
        assert "it is running, and no attempt has finished" in printed(capsys, "logs", store.url, cut_off, status=2)
    assert "has no attempt 3: there are 2" in printed(capsys, "logs", store.url, which, "--attempt", "3", status=2)
    assert "merge" in printed(capsys, "logs", store.url, "merge", status=2)
    assert "5 tasks are called 'sort_chunk'" in printed(capsys, "logs", store.url, "sort_chunk", status=2)


def test_large_logs_are_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tell(tmp_path / "store", epoch(), run("a"), function("f"), task("a", "f"))
    tell(tmp_path / "store", outcome("a")._replace(log=store.put_blob(b"long\n" * 10_000)))
    assert printed(capsys, "logs", store.url, "f") == "long\n" * 10_000


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    store = tell(tmp_path / "store", epoch(), run("a"), function("f"), task("a", "f"))
    tell(tmp_path / "store", outcome("a")._replace(log=store.put_blob(b"long\n" * 200_000)))
    command = [sys.executable, "-m", "toilfn", "logs", store.url, "f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "long\n"
        process.stdout.close()
        assert process.stderr.read().splitlines()[1:] == []
    assert process.returncode == 0


def test_graph_prints_or_writes(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "└── split" in printed(capsys, "graph", store.url)
    assert printed(capsys, "graph", store.url, "--format", "dot", "-o", str(tmp_path / "graph.dot")) == ""
    assert (tmp_path / "graph.dot").read_text().startswith("digraph workflow {")


def test_stats_of_each_attempt_and_of_the_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = json.loads(printed(capsys, "stats", store.url, "--attempts", "--json"))
    assert [(row["name"], row["number"], row["result"]) for row in attempts if row["result"] != "done"] == [
        ("sort_chunk", 1, "error"),
        ("sort_chunk", 2, "error"),
    ]
    assert {(row["cores_asked"], row["memory_asked"]) for row in attempts} == {(1.0, 2 * 2**30)}
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "stats", store.url, "--attempts", "--csv"))))
    assert [row["task"] for row in rows] == [row["task"] for row in attempts]
    assert printed(capsys, "stats", store.url, "--attempts").count("error") == 2
    sums = json.loads(printed(capsys, "stats", store.url, "--json"))["run"]
    assert (sums["attempts"], sums["failed_attempts"], sums["wall"]) == (6, 2, 12.0)
    assert sums["core_seconds_asked"] - sums["core_seconds_used"] == sums["core_seconds_unused"] == 3.0
    assert "75 % used; 3s unused" in printed(capsys, "stats", store.url)


def test_attempts_are_numbered_through_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = [failure("a"), failure("a", 2, final=True), end("failed")]
    again = [epoch(2), run("a", number=2), failure("a"), failure("a", 2, final=True), end("failed", 2)]
    store = tell(tmp_path / "s", epoch(), run("a"), function("f"), task("a", "f"), *twice, *again)
    rows = json.loads(printed(capsys, "stats", store.url, "--attempts", "--json"))
    assert [(row["run"], row["number"]) for row in rows] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    told = map(json.loads, printed(capsys, "events", store.url).splitlines())
    assert [event["attempt"] for event in told if event["event"] == "failed"] == [1, 2, 3, 4]
    assert printed(capsys, "logs", store.url, "f", "--attempt", "4").startswith("trying")
    printed(capsys, "report", store.url, "-o", str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert "4 attempts, the last one ended by: error" in page


def test_stats_of_what_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tell(tmp_path / "s", epoch(), run("a"), function("f"), task("a", "f"))
    assert "cores     no task ran\n" in printed(capsys, "stats", store.url)
    done = outcome("a")
    tell(tmp_path / "s", done._replace(stats=done.stats._replace(memory=0)))
    assert "memory    not known: no task took long enough" in printed(capsys, "stats", store.url)


def test_a_task_that_was_forgotten_and_ran_again_counts_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = [outcome("a"), outcome("a")]  # of two that raced, the first one counts
    store = tell(tmp_path / "s", epoch(), run("a"), function("f"), task("a", "f"), *once)
    tell(tmp_path / "s", Forget((id_of("a"),)), outcome("a"), end("done"))
    rows = json.loads(printed(capsys, "stats", store.url, "--attempts", "--json"))
    assert [row["number"] for row in rows] == [1, 3]


def test_waiting_counts_from_the_end_of_what_a_task_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def at(start: float, record: Outcome) -> Outcome:
        return record._replace(stats=record.stats._replace(start=start, wall=1.0))

    child = task("child", "f", parent="a")
    tasks = [task("a", "f"), task("b", "f", ["a"]), task("late", "f", after=["b"])]
    ends = [at(1000.0, outcome("a", [child])), at(1003.0, outcome("child")), at(1006.0, outcome("b"))]
    store = tell(tmp_path / "s", epoch(), run("late"), function("f"), *tasks, *ends)
    tell(tmp_path / "s", run("late", number=2)._replace(time=1010.0), at(1011.0, outcome("late")))
    waits = [row["wait"] for row in json.loads(printed(capsys, "stats", store.url, "--attempts", "--json"))]
    assert waits == [0.5, 2.0, 2.0, 1.0]


def test_stats_in_three_forms(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "stats", store.url)
    assert printed(capsys, "stats", store.url, "--human") == text
    lines = text.splitlines()
    assert lines[0].split() == ["task", "done", "failed", "min", "median", "mean", "max", "total"]
    assert lines[1].split() == ["sort_chunk", "3", "2", "wall", "1s", "2s", "2s", "3s", "6s"]
    found = json.loads(printed(capsys, "stats", store.url, "--json"))["tasks"]
    assert found["sort_chunk"]["wall"] == {"min": 1.0, "median": 2.0, "mean": 2.0, "max": 3.0, "total": 6.0}
    assert found["sort_chunk"]["failed_attempts"] == 2
    assert found["split"]["memory"]["max"] == 2**20
    assert found["sort_chunk"]["idle"]["min"] == 0.0
    assert found["sort_chunk"]["memory_asked"]["max"] == 2 * 2**30
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "stats", store.url, "--csv"))))
    assert [row["total"] for row in rows if (row["task"], row["measure"]) == ("sort_chunk", "wall")] == ["6.0"]
    assert "merge" not in found


def with_files(path: Path) -> Store:
    """A store with two files, of which a later task has deleted one; the value also holds what needs user classes."""
    store = tell(path, epoch(), run("a", "b"), function("f"), task("a", "f"), task("b", "f"))
    kept, gone = store.put_blob(b"kept"), store.put_blob(b"gone")
    files = [File(ref.name, name, ref.size, ref.digest.hex()) for ref, name in ((kept, "out.txt"), (gone, "tmp.txt"))]
    value = pickle.dumps({"files": files, "more": {Path("x"), *files}})
    tell(path, outcome("a", value=value)._replace(blobs=(kept, gone)), outcome("b")._replace(deleted=(gone.name,)))
    return store


def test_files_are_listed_printed_and_fetched(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    url = with_files(tmp_path / "store").url
    assert main(["files", url, "ls", "--json"]) == 0
    (file,) = json.loads(capfdbinary.readouterr().out)
    assert (file["name"], file["size"], file["task"]) == ("out.txt", 4, id_of("a").hex())
    assert main(["files", url]) == 0
    assert file["id"][:12] in capfdbinary.readouterr().out.decode()
    assert main(["files", url, "cat", "out.txt"]) == 0
    assert capfdbinary.readouterr().out == b"kept"
    assert main(["files", url, "get", file["id"][:12], str(tmp_path)]) == 0
    assert main(["files", url, "get", "out.txt", str(tmp_path / "other")]) == 0
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "other").read_bytes() == b"kept"


@toil.task
def written_by(text: str) -> toil.File:
    return toil.write_file(Path(shutil.copy(__file__, "source.py")), text)


@toil.task
def passes_on(file: toil.File) -> int:
    """Hand one file to another task by its name alone, and write one in vain."""
    with toil.open_write("only-an-argument") as own:
        own.write(b"mine")
    return reads(own.file, file)


@toil.task
def reads(own: toil.File, file: toil.File) -> int:
    return own.size + file.size


@toil.task(retries=0)
def fails(file: toil.File) -> None:
    toil.write_file(file.path(), "in-vain")
    raise ValueError("after it has written")


def test_files_that_were_passed_on_and_their_readers_are_listed(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = written_by("returned")
    with pytest.raises(toil.FailedTasksError):
        toil.compute(passes_on(file), fails(file), store=tmp_path / "store", cluster="inline", progress=False)
    store = str(tmp_path / "store")
    capfdbinary.readouterr()
    assert main(["files", store, "--json", "--all"]) == 0
    found = {each["name"]: each for each in json.loads(capfdbinary.readouterr().out)}
    assert set(found) == {"returned", "only-an-argument", "in-vain"}
    assert [len(found[name]["read_by"]) for name in ("returned", "only-an-argument", "in-vain")] == [3, 1, 0]
    assert main(["files", store]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert any("only-an-argument" in line and "passes_on" in line and "reads" in line for line in lines)
    assert not any("in-vain" in line for line in lines)
    assert main(["files", store, "cat", f"file://{store}/{found['only-an-argument']['object']}"]) == 0
    assert capfdbinary.readouterr().out == b"mine"
    assert main(["files", store, "cat", "in-vain", "--all"]) == 0


def test_files_are_chosen_by_patterns(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    store = tell(tmp_path / "store", epoch(), run("a"), function("f"), task("a", "f"))
    names = ["a.txt", "b.txt", "same", "same", "odd[1]"]
    refs = [store.put_blob(f"{number}".encode()) for number in range(5)]
    files = [File(ref.name, name, ref.size, ref.digest.hex()) for ref, name in zip(refs, names, strict=True)]
    tell(tmp_path / "store", outcome("a", value=pickle.dumps(files))._replace(blobs=tuple(refs)))
    assert main(["files", store.url, "cat", "*.txt"]) == 0
    assert capfdbinary.readouterr().out == b"01"
    assert main(["files", store.url, "ls", "s*e", "--json"]) == 0
    ids = [file["id"][:12] for file in json.loads(capfdbinary.readouterr().out)]
    (tmp_path / "all").mkdir()
    assert main(["files", store.url, "get", "*", str(tmp_path / "all")]) == 0
    got = {path.name: path.read_text() for path in (tmp_path / "all").iterdir()}
    assert got == {"a.txt": "0", "b.txt": "1", f"{ids[0]}-same": "2", f"{ids[1]}-same": "3", "odd[1]": "4"}
    assert main(["files", store.url, "cat", "odd[1]"]) == 0
    assert main(["files", store.url, "get", "*.txt", str(tmp_path / "none")]) == 2


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = with_files(tmp_path / "store").url
    assert "no file has the name or id 'tmp.txt'" in printed(capsys, "files", url, "cat", "tmp.txt", status=2)
    assert "needs the name or id of a file" in printed(capsys, "files", url, "cat", status=2)
    assert "cat takes one FILE" in printed(capsys, "files", url, "cat", "out.txt", "other.txt", status=2)
    wrong = str(tmp_path / "none" / "x")
    said = printed(capsys, "files", url, "get", "out.txt", wrong, status=2)
    assert f"x: directory not found: {tmp_path / 'none'}" in said


@pytest.mark.parametrize("command", ["graph", "report", "resume"])
def test_a_place_that_cannot_be_written_is_reported_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, words in ((tmp_path / "none" / "x", "directory not found"), (tmp_path, "is a directory, not a file")):
        with pytest.raises(SystemExit) as raised:
            main([command, str(tmp_path / "no store"), "--output", str(place)])
        assert raised.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "logs", "graph", "stats", "files", "kill"])
def test_a_store_that_does_not_exist_is_wrong_usage(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["x"] if command == "logs" else []
    text = printed(capsys, command, str(tmp_path / "none"), *extra, status=2)
    assert text.startswith("toilfn: no job store at ")
    assert not (tmp_path / "none").exists()
