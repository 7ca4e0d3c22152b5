"""The local cluster, with real worker processes."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import toilfn as toil
from tests.core.batches import Answered, gather, make
from toilfn.clusters.base import JobState, RunContext
from toilfn.clusters.local.cluster import Cleaner, LocalCluster
from toilfn.errors import ClusterError
from toilfn.ids import Cause
from toilfn.resources import Accelerator
from toilfn.stores import Store, open_store

LIMIT = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", sync=False)


@pytest.fixture
def opened(store: Store, tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Opens clusters, and checks at the end that they leave nothing behind."""
    work = tmp_path / "work"
    before = children()
    with contextlib.ExitStack() as stack:

        def opened(**settings: Any) -> LocalCluster:
            cluster = LocalCluster(**settings)
            cluster.open(RunContext(store.url, "test", {"TOILFN_WORK_DIR": str(work)}))
            stack.callback(cluster.close)
            return cluster

        yield opened
    assert children() <= before
    assert not left_by_attempts(work)


def left_by_attempts(work: Path) -> list[Path]:
    """Return what is in the work directory, but for the record of the run, which stays for its next worker."""
    return [path for path in work.rglob("*/*") if path.relative_to(work).parts[1] != "runs"]


@pytest.fixture
def cluster(opened: Callable[..., LocalCluster]) -> LocalCluster:
    return opened()


@pytest.fixture
def warm(cluster: LocalCluster, store: Store) -> LocalCluster:
    """A cluster with one worker that has imported this module."""
    run(cluster, store, same(0))
    return cluster


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@toil.task
def same(value: Any) -> Any:
    return value


@toil.task
def whereabouts() -> dict[str, Any]:
    return {"pid": os.getpid(), "cwd": os.getcwd(), "path": sys.path, "group": os.getpgrp()}


@toil.task
def talking() -> str:
    print("printed")
    subprocess.run(["sh", "-c", "echo from a subprocess; echo its errors >&2"], check=True)
    logging.getLogger("user").info("logged")
    logging.getLogger("user").debug("too low")
    toil.current().log.warning("by the context's logger")
    return "quiet value"


@toil.task
def flood(size: int) -> None:
    print("first" + "x" * size + "last")


@toil.task
def exit_with(status: int) -> None:
    print("about to exit")
    os._exit(status)


@toil.task
def crash() -> None:
    ctypes.string_at(0)


@toil.task
def sleep(seconds: float, note: str = "") -> float:
    """Sleeps with a child process; notes the pids of both, and takes a temporary directory."""
    child = subprocess.Popen(["sleep", "1000"])
    (toil.current().temp_dir / "file").write_text("x")
    if note:
        toil.current().defer(Path(note + ".deferred").write_text, "called")
        Path(note + ".part").write_text(f"{os.getpid()} {child.pid}")
        os.replace(note + ".part", note)
    time.sleep(seconds)
    child.kill()
    child.wait()
    return seconds


@toil.task
def hold_the_lock(note: str) -> None:
    """Never lets another Python thread run."""
    Path(note + ".part").write_text(f"{os.getpid()}")
    os.replace(note + ".part", note)
    re.match(r"(a+)+$", "a" * 60 + "b")


@toil.task
def hungry(size: int, in_child: bool) -> int:
    if in_child:
        code = f"import time; x = bytearray({size}); time.sleep(1000)"
        return subprocess.run([sys.executable, "-c", code], check=False).returncode
    data = bytearray(size)
    time.sleep(1000)
    return len(data)


@toil.task
def threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


@toil.task
def devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@toil.task
def count_down(n: int) -> Any:
    return count_down(n - 1) if n else "lift-off"


def run(cluster: LocalCluster, store: Store, *promises: Any, **how: Any) -> tuple[Answered, list[bytes]]:
    made = make(store, *promises, **how)
    cluster.submit([made.batch])
    return gather(cluster), made.ids


def start(cluster: LocalCluster, store: Store, *promises: Any, **how: Any) -> tuple[Any, list[bytes]]:
    made = make(store, *promises, **how)
    (job,) = cluster.submit([made.batch])
    return job, made.ids


def noted(path: Path, cluster: LocalCluster) -> list[int]:
    """Wait for the pids that a task notes."""
    until(lambda: cluster.poll(0.05) or path.exists())
    return [int(pid) for pid in until(lambda: path.exists() and path.read_text()).split()]


def test_a_worker_is_kept_for_the_next_batch(cluster: LocalCluster, store: Store) -> None:
    found = []
    for _ in range(2):
        answered, (id_,) = run(cluster, store, whereabouts())
        assert answered.ends[0].cause is None
        found.append(answered.value(id_, store))
    assert found[0] == found[1]
    assert found[0]["cwd"] != os.getcwd()
    assert found[0]["path"] == sys.path
    assert found[0]["pid"] == found[0]["group"] != os.getpid()


def test_several_batches_run_at_one_time_each_in_its_own_process(cluster: LocalCluster, store: Store) -> None:
    batches = [make(store, whereabouts(), sleep(0.2)) for _ in range(2)]
    cluster.submit([made.batch for made in batches])
    answered = gather(cluster, 2)
    assert len({outcome.stats.worker for outcome in answered.outcomes.values()}) == 2


def test_large_messages_pass_both_ways(cluster: LocalCluster, store: Store) -> None:
    texts = [f"{i:05}" * 5000 for i in range(200)]
    answered, ids = run(cluster, store, *map(same, texts))
    assert [answered.value(id_, store) for id_ in ids] == texts


def test_a_log_holds_prints_subprocesses_and_messages(cluster: LocalCluster, store: Store) -> None:
    answered, (talk, quiet) = run(cluster, store, talking(), same("quiet"))
    lines = answered.outcomes[talk].log.decode().splitlines()
    assert lines[:3] == ["printed", "from a subprocess", "its errors"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO user: logged", lines[3])
    assert lines[4].endswith("WARNING talking: by the context's logger")
    assert len(lines) == 5
    assert answered.outcomes[quiet].log == b""


def test_the_middle_of_a_long_log_is_left_out(cluster: LocalCluster, store: Store) -> None:
    answered, ids = run(cluster, store, flood(2_000_000), flood(10))
    log = answered.outcomes[ids[0]].log
    assert 65_000 < len(log) <= 65_536
    assert log.startswith(b"firstxxx")
    assert log.endswith(b"xxxlast\n")
    assert b" or more bytes left out ...]" in log
    assert answered.outcomes[ids[1]].log == b"firstxxxxxxxxxxlast\n"


@pytest.mark.parametrize(
    ("ending", "cause", "detail"),
    [
        (exit_with(3), Cause.ERROR, "the worker process ended with exit status 3 while running the task"),
        (exit_with(0), Cause.ERROR, "the worker process ended with exit status 0 while running the task"),
        (crash(), Cause.ERROR, "the worker process was killed by SIGSEGV while running the task"),
    ],
    ids=["status 3", "status 0", "segfault"],
)
def test_a_task_that_ends_its_process_is_named_though_answers_were_waiting(
    cluster: LocalCluster, store: Store, ending: Any, cause: Cause, detail: str
) -> None:
    answered, ids = run(cluster, store, same(1), same(2), ending, same(3))
    (end,) = answered.ends
    assert (end.cause, end.detail, end.running) == (cause, detail, ids[2])
    assert end.log.startswith((b"about to exit", b"Fatal Python error: Segmentation fault"))
    again, (id_,) = run(cluster, store, same("the cluster goes on"))
    assert again.value(id_, store) == "the cluster goes on"


def test_a_worker_that_is_killed_is_lost_with_what_its_task_started(
    cluster: LocalCluster, store: Store, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    _, (id_,) = start(cluster, store, sleep(1000, str(note)))
    worker, child = noted(note, cluster)
    os.kill(worker, signal.SIGKILL)
    (end,) = gather(cluster).ends
    assert (end.cause, end.running) == (Cause.LOST, id_)
    assert "killed by SIGKILL" in end.detail
    until(lambda: is_gone(child))
    assert until(Path(f"{note}.deferred").exists)


def test_a_worker_that_is_asked_to_end_from_outside_is_lost(
    cluster: LocalCluster, store: Store, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    _, (id_,) = start(cluster, store, sleep(1000, str(note)))
    os.kill(noted(note, cluster)[0], signal.SIGTERM)
    (end,) = gather(cluster).ends
    assert (end.cause, end.running) == (Cause.LOST, id_)
    assert end.detail == "the worker process was killed by SIGTERM while running the task"


@pytest.mark.parametrize("in_child", [False, True])
def test_more_memory_than_asked_for_ends_the_task(warm: LocalCluster, store: Store, in_child: bool) -> None:
    answered, ids = run(warm, store, same(1), hungry(400 * 2**20, in_child), memory=200 * 2**20)
    (end,) = answered.ends
    assert (end.cause, end.running) == (Cause.MEMORY, ids[1])
    assert re.fullmatch(
        r"used [\d.]+ MiB of memory but requested 200 MiB \(not counting the [\d.]+ MiB of its worker\)", end.detail
    )


def test_a_task_that_takes_too_long_is_ended(warm: LocalCluster, store: Store) -> None:
    answered, (id_,) = run(warm, store, sleep(1000), walltime=0.3)
    (end,) = answered.ends
    assert (end.cause, end.detail) == (Cause.WALLTIME, "took longer than its walltime of 0.3s")
    assert end.running == id_


def test_a_short_walltime_holds_for_each_task_of_a_batch(warm: LocalCluster, store: Store) -> None:
    answered, ids = run(warm, store, *[sleep(0.2 + i / 1000) for i in range(4)], walltime=0.7)
    assert answered.ends[0].cause is None
    assert set(answered.outcomes) == set(ids)


def test_a_long_task_is_reported(warm: LocalCluster, store: Store) -> None:
    answered, ids = run(warm, store, same(1), sleep(0.3), same(2))
    assert answered.running == [ids[1]]
    assert answered.kinds.index("records") < answered.kinds.index("running")


def test_answers_come_while_the_next_task_runs(cluster: LocalCluster, store: Store, tmp_path: Path) -> None:
    note = tmp_path / "note"
    job, ids = start(cluster, store, same("early"), sleep(1000, str(note)))
    answered = Answered()

    def heard() -> bool:
        for update in cluster.poll(0.1):
            assert update.state is JobState.RUNNING
            for message in update.answers:
                answered.hear(message)
        return ids[0] in answered.outcomes

    until(heard)
    cluster.kill([job])
    gather(cluster)


def test_kill_ends_the_task_and_all_that_it_started(cluster: LocalCluster, store: Store, tmp_path: Path) -> None:
    note = tmp_path / "note"
    job, _ = start(cluster, store, sleep(1000, str(note)))
    pids = noted(note, cluster)
    cluster.kill([job])
    cluster.kill([job])
    (end,) = gather(cluster).ends
    assert (end.job, end.state, end.detail) == (job, JobState.ENDED, "killed on request")
    for pid in pids:
        until(lambda pid=pid: is_gone(pid))
    assert until(Path(f"{note}.deferred").exists)


def test_close_ends_running_tasks(opened: Callable[..., LocalCluster], store: Store, tmp_path: Path) -> None:
    cluster, note = opened(), tmp_path / "note"
    start(cluster, store, sleep(1000, str(note)))
    pids = noted(note, cluster)
    cluster.close()
    cluster.close()
    assert all(map(is_gone, pids))
    assert Path(f"{note}.deferred").exists()


def test_a_closed_cluster_can_be_opened_again(store: Store) -> None:
    cluster = LocalCluster()
    for _ in range(2):
        cluster.open(RunContext(store.url, "test"))
        with pytest.raises(ClusterError, match="in use by another run"):
            cluster.open(RunContext(store.url, "test"))
        answered, (id_,) = run(cluster, store, same(1))
        assert answered.value(id_, store) == 1
        cluster.close()


def test_a_recall_brings_back_what_has_not_started(cluster: LocalCluster, store: Store, tmp_path: Path) -> None:
    note = tmp_path / "note"
    job, ids = start(cluster, store, sleep(0.5, str(note)), *[same(i) for i in range(100)])
    noted(note, cluster)
    cluster.recall(job)
    answered = gather(cluster)
    assert answered.returned == ids[1:]
    assert set(answered.outcomes) == {ids[0]}
    assert answered.kinds.index("returned") < len(answered.kinds) - 1


def test_a_recall_before_the_worker_is_ready_loses_nothing(cluster: LocalCluster, store: Store) -> None:
    job, ids = start(cluster, store, *[same(i) for i in range(3)])
    cluster.recall(job)
    answered = gather(cluster)
    assert sorted([*answered.returned, *answered.outcomes]) == sorted(ids)


def test_the_cores_of_a_task_limit_the_threads_of_libraries(
    cluster: LocalCluster, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores, number in ((1.0, "1"), (2.5, "2")):
        answered, (id_,) = run(cluster, store, threads(), cores=cores)
        assert answered.value(id_, store) == os.environ.get("OMP_NUM_THREADS", number)


def test_devices_are_handed_out_and_taken_back(
    opened: Callable[..., LocalCluster], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9")
    cluster = opened()
    assert cluster.capacity().total.accelerators == (Accelerator(3, brand="nvidia", api="cuda"),)
    first = make(store, devices(), accelerators=(Accelerator(2),))
    second = make(store, same(0), devices(), accelerators=(Accelerator(1),))
    cluster.submit([first.batch, second.batch])
    answered = gather(cluster, 2)
    assert answered.value(first.ids[0], store) == "4,7"
    assert answered.value(second.ids[1], store) == "9"
    answered, (id_,) = run(cluster, store, devices(), accelerators=(Accelerator(3),))
    assert sorted(answered.value(id_, store).split(",")) == ["4", "7", "9"]


def test_a_worker_that_cannot_start_says_why(tmp_path: Path, store: Store) -> None:
    cluster = LocalCluster()
    cluster.open(RunContext(str(tmp_path / "no-such-store"), "test"))
    cluster.submit([make(store, same(1)).batch])
    (end,) = gather(cluster).ends
    assert (end.cause, end.running) == (Cause.LOST, None)
    assert "ended with exit status 1 between two tasks: toilfn.worker: " in end.detail
    assert "no-such-store" in end.detail
    cluster.close()


def test_the_users_figures_are_the_capacity(opened: Callable[..., LocalCluster]) -> None:
    capacity = opened(workers=3, cores=5, memory="7G", disk="11G").capacity()
    assert capacity.batches == 3
    assert (capacity.total.cores, capacity.total.memory, capacity.total.disk) == (5, 7 * 10**9, 11 * 10**9)
    assert capacity.largest == capacity.total


def test_wake_ends_a_poll_of_another_thread(cluster: LocalCluster) -> None:
    thread = threading.Thread(target=cluster.poll, args=(LIMIT,))
    started = time.monotonic()
    thread.start()
    until(lambda: cluster.wake() or not thread.is_alive())
    thread.join()
    assert time.monotonic() - started < LIMIT / 2


LEADER = """
    import sys
    from tests.clusters.test_local import hold_the_lock, sleep, start
    from toilfn.clusters.base import RunContext
    from toilfn.clusters.local.cluster import LocalCluster
    from toilfn.stores import open_store

    store = open_store(sys.argv[1])
    cluster = LocalCluster()
    cluster.open(RunContext(store.url, "test", {"TOILFN_WORK_DIR": sys.argv[2]}))
    start(cluster, store, sleep(1000, sys.argv[3]))
    start(cluster, store, hold_the_lock(sys.argv[4]))
    while True:
        cluster.poll(1)
"""


def test_all_workers_die_with_a_leader_that_is_killed_and_are_cleaned_up_after(
    opened: Callable[..., LocalCluster], store: Store, tmp_path: Path
) -> None:
    notes = [tmp_path / "sleeping", tmp_path / "locked"]
    arguments = [store.url, str(tmp_path / "work"), *map(str, notes)]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(LEADER), *arguments]) as leader:
        pids = [
            int(pid) for note in notes for pid in until(lambda note=note: note.exists() and note.read_text()).split()
        ]
        assert len(pids) == 3
        leader.kill()
    for pid in pids:
        until(lambda pid=pid: is_gone(pid))
    assert left_by_attempts(tmp_path / "work")
    run(opened(), store, same("the next worker cleans up"))
    assert Path(f"{notes[0]}.deferred").exists()


def test_tail_calls_stay_in_their_worker(cluster: LocalCluster, store: Store) -> None:
    answered, ids = run(cluster, store, same(count_down(300)), memory=2**30)
    assert answered.value(ids[0], store) == "lift-off"
    assert len(answered.kept) == 300


def test_a_run_that_is_over_has_no_worker_to_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker says that its batch is done only after it has answered; cleaning up after it would take a process."""
    swept: list[object] = []
    monkeypatch.setattr(Cleaner, "request", lambda _, environment: swept.append(environment))
    increment = toil.task(lambda x: x + 1)
    for number in range(5):
        store = str(tmp_path / f"store{number}")
        assert toil.compute(increment(number), store=store, cluster=LocalCluster(workers=1)) == number + 1
    assert swept == []
