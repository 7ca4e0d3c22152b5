"""The meaning of a log's records, and that a leader's index agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.story import end, epoch, failure, function, id_of, outcome, run, started, task
from tests.cli.test_fold import history
from toilfn.model.index import Index
from toilfn.model.records import Forget, Function, Outcome, encode
from toilfn.model.replay import AttemptEnded, RunBegan, TaskAdded, read, replay
from toilfn.stores import open_store


def test_the_first_outcome_counts_until_it_is_forgotten() -> None:
    records = [
        function("f"),
        task("a", "f"),
        failure("a"),
        outcome("a"),
        outcome("a"),
        Forget((id_of("a"),)),
        outcome("a"),
    ]
    ends = [fact for fact in replay(records) if isinstance(fact, AttemptEnded)]
    assert [(fact.record.attempt, fact.counts) for fact in ends] == [(1, True), (2, True), (3, False), (4, True)]


def test_a_task_is_added_once_and_has_the_name_of_its_call_or_its_function() -> None:
    named = task("b", "f")._replace(options={"name": "own"})
    added = [
        fact for fact in replay([function("f"), task("a", "f"), named, task("a", "f")]) if isinstance(fact, TaskAdded)
    ]
    assert [(fact.task.id, fact.name) for fact in added] == [(id_of("a"), "f"), (id_of("b"), "own")]


def test_children_of_a_task_follow_its_outcome() -> None:
    made = outcome("a")._replace(functions=(function("g"),), tasks=(task("c", "g"),))
    facts = list(replay([function("f"), task("a", "f"), made]))
    assert [type(fact) for fact in facts] == [Function, TaskAdded, AttemptEnded, Function, TaskAdded]
    assert facts[-1] == TaskAdded(task("c", "g"), "g")


def test_a_run_that_is_resumed_is_still_one_run() -> None:
    records = [epoch(), run("a"), end("interrupted"), epoch(2), run("a"), started("a")]
    facts = list(replay(records))
    assert [fact.is_resumed for fact in facts if isinstance(fact, RunBegan)] == [False, True]
    assert len(facts) == len(records)


@pytest.mark.parametrize("seed", range(10))
def test_the_index_of_a_leader_says_the_same(tmp_path: Path, seed: int) -> None:
    store = open_store(str(tmp_path / "store"), sync=False)
    records = list(history(seed))
    store.log.append([encode(record) for record in records])
    index = Index.load(store.log)
    done: dict[bytes, Outcome] = {}
    tasks, functions = {}, {}
    for fact in replay(read(store.log)):
        if isinstance(fact, AttemptEnded) and fact.counts and isinstance(fact.record, Outcome):
            done[fact.record.id] = fact.record
        elif isinstance(fact, TaskAdded):
            tasks[fact.task.id] = fact.task
        elif isinstance(fact, Function):
            functions[fact.digest] = fact
        elif isinstance(fact, Forget):
            for id in fact.ids:
                done.pop(id, None)
    found = {id: index.outcome(id) for id in index.outcomes}
    assert found == {id: known._replace(attempt=1) for id, known in done.items()}
    assert {id: index.leads_to(id) for id in done} == {
        id: tuple(dict.fromkeys((*(made.id for made in known.tasks), *known.refs))) for id, known in done.items()
    }
    assert {id: index.task(id) for id in tasks} == tasks
    assert index.functions == functions
    assert index.runs == [fact.run for fact in replay(records) if isinstance(fact, RunBegan)]
