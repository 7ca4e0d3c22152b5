"""Random programs that mix all that tasks can do, with failures and kills, give what plain Python gives."""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toilfn as toil
from tests.chaos.blobs import references
from tests.chaos.mixture import KINDS, TROUBLES, Step, build, plain
from toilfn.cli import main
from toilfn.model import records
from toilfn.model.index import Index
from toilfn.stores import faults, open_store
from toilfn.stores.objects import TEMPORARY

PROGRAMS = int(os.environ.get("TOILFN_TEST_PROGRAMS", "15"))
"""How many; ``make mixtures`` runs two hundred."""

PATIENCE = 900
"""Seconds for one leader: on a busy machine, one that needs ten has taken more than a hundred."""

POINTS = ("objects.temporary", "objects.linked", "objects.replaced", "log.appending", "log.appended")


@st.composite
def programs(draw: st.DrawFn) -> tuple[Step, ...]:
    keys = itertools.count(1)

    def steps(depth: int, *, is_checkpoint: bool) -> tuple[Step, ...]:
        return tuple(step(depth, is_checkpoint=is_checkpoint) for _ in range(draw(st.integers(1, 4 - depth))))

    def step(depth: int, *, is_checkpoint: bool) -> Step:
        kind = draw(st.sampled_from(KINDS if depth < 3 else KINDS[:1]))
        trouble = draw(st.sampled_from(TROUBLES))
        if trouble == "fatal" and not is_checkpoint:
            trouble = ""
        inputs = tuple(draw(st.lists(st.integers(0, 3), max_size=2, unique=True)))
        within = is_checkpoint or kind == "checkpoint"
        has_body = kind in ("expand", "spawn", "checkpoint", "service")
        body = steps(depth + 1, is_checkpoint=within) if has_body else ()
        return Step(kind, next(keys), inputs, trouble, body)

    return steps(0, is_checkpoint=False)


def lead(program: tuple[Step, ...], folder: Path, fault: str, resumes: bool, intermediates: str, pipe: Any) -> None:
    """Be a leader: in a process of its own, which may be killed."""
    faults.hook = faults.killer(fault)  # of this process alone: its workers would all die at the same point
    with (folder / "output").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    faulthandler.dump_traceback_later(PATIENCE - 10, file=2)  # tells where it is, for `told`
    (folder / "leader").write_text(str(os.getpid()))
    given = {
        "cluster": toil.LocalCluster(cores=3, memory="64G", disk="1T"), "progress": False,
        "retry_backoff": 0.01, "durability": "none", "lost_retries": 1000, "intermediates": intermediates,
    }  # fmt: skip
    store = folder / "store"
    if resumes:
        pipe.send(toil.resume(store, **given))
    else:
        pipe.send(toil.compute(build(program, [7], str(folder)), store=store, workflow="mixture", **given))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start quickly, with everything loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.chaos.test_mixtures", "toilfn.leader.drive", "toilfn.leader.run", "dask.delayed"]
    )
    return context


@settings(
    max_examples=PROGRAMS, derandomize=PROGRAMS < 100, suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    program=programs(),
    deaths=st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 12)), max_size=2),
    resumes=st.booleans(),
    intermediates=st.sampled_from(["keep", "drop"]),
)
@pytest.mark.timeout(3600)
def test_a_random_program_returns_the_same_as_plain_python(
    processes: Any, program: tuple[Step, ...], deaths: list[tuple[str, int]], resumes: bool, intermediates: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="toilfn-mixture-") as place:
        folder = Path(place)
        value = None
        for fault in itertools.chain((f"{point}:{passing}" for point, passing in deaths), itertools.repeat("")):
            is_begun = resumes and (folder / "store" / "store.json").exists() and has_run(folder / "store")
            value = led(processes, program, folder, fault, resumes=is_begun, intermediates=intermediates)
            if value is not None:
                break
        assert value == plain(program, [7])
        assert_only_what_is_needed(folder / "store")
        assert_outside(program, folder)


def has_run(store: Path) -> bool:
    return bool(Index.load(open_store(str(store), create=False).log).runs)


def led(
    processes: Any, program: tuple[Step, ...], folder: Path, fault: str, *, resumes: bool, intermediates: str
) -> int | None:
    """Return a leader's result; None if it was killed."""
    ours, theirs = processes.Pipe(duplex=False)
    leader = processes.Process(target=lead, args=(program, folder, fault, resumes, intermediates, theirs))
    leader.start()
    theirs.close()
    with ours:
        if not ours.poll(PATIENCE):
            leader.terminate()
            pytest.fail(f"the leader does not come to an end: {told(folder)}")
        try:
            return int(ours.recv())
        except EOFError:
            return None
        finally:
            leader.join()
            status = leader.exitcode
            leader.close()
            assert status in (0, -signal.SIGKILL), told(folder)


def told(folder: Path) -> str:
    return (folder / "output").read_text()


def assert_only_what_is_needed(store: Path) -> None:
    """After a clean-up, the objects of a store are those that what counts in its log refers to."""
    assert main(["clean", "--garbage", str(store)]) == 0
    opened = open_store(str(store), create=False)
    index = Index.load(opened.log)
    needed: set[str] = set()
    gone: set[str] = set()
    for _, data in opened.log.read():
        record = records.decode(data)
        if isinstance(record, records.Outcome):
            if record.id not in index.outcomes or index.outcome(record.id) != record:  # it was rolled back
                record = record.functions  # which later attempts use without telling them again
            else:
                gone.update(record.deleted, record.temporary)
        elif isinstance(record, records.Deleted) and record.dropped:
            gone.update(record.names)
        needed.update(ref.name for ref in references(record))
    blobs = [path for path in (store / "blobs").rglob("*") if path.is_file()]
    # Unfinished objects of those that were killed are removed when they are old.
    present = {str(path.relative_to(store)) for path in blobs if not path.name.startswith(TEMPORARY)}
    needed -= gone
    assert not needed - present, "a file was removed too early"
    assert not present - needed, f"left over: {[(name, (store / name).read_bytes()[:60]) for name in present - needed]}"


def assert_outside(program: tuple[Step, ...], folder: Path) -> None:
    """The files that were linked in are there as they were, and those that were moved out hold their numbers."""
    assert all(path.read_text().isdecimal() for path in folder.glob("source-*"))
    wanted = {f"moved-{step.key}" for step in flattened(program) if step.kind == "moved"}
    assert {path.name for path in folder.glob("moved-*")} == wanted
    assert all(path.read_text().isdecimal() for path in folder.glob("moved-*"))


def flattened(program: tuple[Step, ...]) -> Iterator[Step]:
    for step in program:
        yield step
        yield from flattened(step.body)
