"""Why a task runs, or does not, as far as its records tell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from toilfn.errors import InputError
from toilfn.graph.identity import arguments_identity, function_identity, task_id
from toilfn.inspect.explain import Explanation, History, explain
from toilfn.model import records
from toilfn.model.replay import replay

BLOB = records.BlobRef("blobs/00/x", 0, b"")


class Story:
    """A log, written the way compute writes it."""

    def __init__(self) -> None:
        self.log: list[records.Record] = []
        self.clock = 1_600_000_000.0

    def run(self, *roots: bytes) -> None:
        self.clock += 1000
        self.log.append(records.Run(1, "w", b"", roots, {}, None, self.clock))

    def call(
        self, function: Callable[..., Any], *args: Any, done: bool = True, version: str | None = None, **kw: Any
    ) -> bytes:
        identity = function_identity(function, version)
        digest, parts = arguments_identity(args, kw, lambda promise: promise.id)
        id = task_id(identity.digest, digest, b"", 0)
        needs = tuple(value.id for value in (*args, *kw.values()) if isinstance(value, Reference))
        name = function.__name__
        self.log.append(records.Function(identity.digest, name, {}, BLOB, identity.parts))
        self.log.append(records.TaskRecord(id, identity.digest, b"x", needs, (), {}, None, parts))
        if done:
            self.clock += 1
            stats = records.Stats(start=self.clock)
            self.log.append(records.Outcome(id, 1, b"", (), (), (), (), (), b"", stats))
        return id

    def explain(self, id: bytes) -> Explanation:
        return explain(History(replay(self.log)), id)


class Reference:
    """Stands for a promise of a task with this id."""

    def __init__(self, id: bytes) -> None:
        self.id = id

    def __toilfn_identity__(self) -> bytes:
        return self.id


@pytest.fixture
def story() -> Story:
    story = Story()
    story.run()
    return story


def edited(name: str, body: str, **space: Any) -> Callable[..., Any]:
    """A function of this name, as if the user had just written it."""
    space["__name__"] = "flow"
    exec(f"def {name}{body}", space)
    made: Callable[..., Any] = space[name]
    return made


def helper(body: str) -> Callable[..., Any]:
    return edited("clean", body)


def test_a_task_that_was_done_before_the_newest_run_was_reused(story: Story) -> None:
    id = story.call(edited("f", "(x): return x"), 1)
    root = story.call(edited("g", "(x): return x"), Reference(id))
    story.run(root)
    found = story.explain(id)
    assert f"f ({id.hex()[:12]}) was reused: it ran at 20" in found.summary
    assert found.reasons == ()


def test_a_task_that_the_newest_run_does_not_need_says_so(story: Story) -> None:
    id = story.call(edited("f", "(x): return x"), 1)
    story.run(story.call(edited("f", "(x): return -x"), 1))
    assert "the newest run did not need it" in story.explain(id).summary


def test_a_first_task_has_nothing_to_be_compared_with(story: Story) -> None:
    found = story.explain(story.call(edited("f", "(x): return x"), 1))
    assert "was run at" in found.summary
    assert found.reasons == ("no earlier task of f is in the store",)


def test_a_task_that_failed_or_waits_says_so(story: Story) -> None:
    id = story.call(edited("f", "(x): return x"), 1, done=False)
    assert "is waiting or running; no attempt has finished" in story.explain(id).summary
    story.log.append(records.Failure(id, 1, "error", "ValueError: no", "", b"", records.Stats()))
    assert "failed: ValueError: no" in story.explain(id).summary


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (edited("f", "(x): return x"), edited("f", "(x): return -x"), "the body of f changed"),
        (edited("f", "(x, y=1): 1"), edited("f", "(x, y=2): 1"), "the default of y in f: 1 -> 2"),
        (edited("f", "(x): return N", N=1), edited("f", "(x): return N", N=2), "the constant flow.N: 1 -> 2"),
        (
            edited("f", "(x): return clean(x)", clean=helper("(x): return x")),
            edited("f", "(x): return clean(x)", clean=helper("(x): return -x")),
            "the body of flow.clean changed",
        ),
        (
            edited("f", "(x): return clean(x)", clean=helper("(x): return N")),
            edited("f", "(x): return clean(x)", clean=None),
            "the body of flow.clean was removed",
        ),
    ],
)
def test_the_part_of_the_function_that_differs_is_named(
    story: Story, before: Callable[..., Any], after: Callable[..., Any], reason: str
) -> None:
    first = story.call(before, 1)
    found = story.explain(story.call(after, 1))
    assert found.reasons[0] == f"compared with the earlier task {first.hex()[:12]}:"
    assert reason in found.reasons
    assert reason in str(found)


def test_an_argument_is_shown_with_both_values(story: Story) -> None:
    function = edited("f", "(x, y): return x")
    story.call(function, 3, "a")
    assert story.explain(story.call(function, 4, "a")).reasons[1:] == ("argument x of f: 3 -> 4",)
    assert story.explain(story.call(function, 4, ["b"])).reasons[1:] == ("argument y of f changed",)


def test_the_nearest_earlier_task_is_compared(story: Story) -> None:
    function = edited("f", "(x, y): return x")
    near = story.call(function, 1, 2)
    story.call(function, 5, 6)
    found = story.explain(story.call(function, 1, 3))
    assert near.hex()[:12] in found.reasons[0]
    assert found.reasons[1:] == ("argument y of f: 2 -> 3",)


def test_a_change_upstream_is_found(story: Story) -> None:
    def chain(body: str) -> bytes:
        first = story.call(edited("load", body), "a.txt")
        second = story.call(edited("clean", "(rows): return rows"), Reference(first))
        return story.call(edited("count", "(rows): return len(rows)"), rows=Reference(second))

    chain("(name): return name")
    found = story.explain(chain("(name): return name + '.gz'"))
    assert found.reasons[1:] == (
        "argument rows of count comes from another task: clean",
        "argument rows of clean comes from another task: load",
        "the body of load changed",
    )


def test_pins_and_python_versions(story: Story) -> None:
    function = edited("f", "(x): return x")
    story.call(function, 1, version="1")
    assert "the pinned version of f: 1 -> 2" in story.explain(story.call(function, 1, version="2")).reasons
    id = story.call(function, 1)
    record = next(r for r in story.log if isinstance(r, records.Function) and "python" in r.parts)
    story.log[story.log.index(record)] = record._replace(parts={**record.parts, "python": "3.1"})
    other = records.Function(b"other" * 3, "f", {}, BLOB, record.parts)
    task = next(r for r in story.log if isinstance(r, records.TaskRecord) and r.id == id)
    story.log += [other, task._replace(id=b"new", function=other.digest)]
    assert any("the version of Python" in reason and "3.1 -> 3" in reason for reason in story.explain(b"new").reasons)


def test_a_further_call_that_is_the_same(story: Story) -> None:
    id = story.call(edited("f", "(x): return x"), 1)
    task = next(r for r in story.log if isinstance(r, records.TaskRecord) and r.id == id)
    story.log.append(task._replace(id=b"second"))
    assert "a further call with the same arguments" in story.explain(b"second").reasons[1]


def test_children_that_outcomes_carry_are_known(story: Story) -> None:
    parent = story.call(edited("f", "(x): return x"), 1)
    function = next(r for r in story.log if isinstance(r, records.Function))
    child = records.TaskRecord(b"child", b"g digest", b"", (), (), {}, parent, {"0": "1"})
    made = function._replace(digest=b"g digest", name="g")
    story.log.append(records.Outcome(b"other", 1, b"", (), (child,), (made,), (), (), b"", records.Stats()))
    assert story.explain(b"child").summary.startswith("g (")


def test_forgotten_outcomes_do_not_count(story: Story) -> None:
    id = story.call(edited("f", "(x): return x"), 1)
    story.log.append(records.Forget((id,)))
    assert "is waiting or running; no attempt has finished" in story.explain(id).summary


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(InputError, match="task 6e6f not found"):
        explain(History([]), b"no")


def test_values_that_are_not_compared_are_named_whether_or_not_the_task_was_reused() -> None:
    lock = threading.Lock()

    def guarded(x: int) -> int:
        with lock:
            return x

    story = Story()
    task = story.call(guarded, 1)
    story.run(task)
    explained = str(story.explain(task))
    assert "nothing that toilfn compares has changed" in explained
    assert (
        "not compared: lock of test_values_that_are_not_compared_are_named_whether_or_not_the_task_was_reused"
        in explained
    )
    later = story.call(guarded, 2)
    story.run(later)
    assert "not compared: lock of" in str(story.explain(later))
