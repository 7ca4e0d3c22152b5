"""The states of tasks: readiness, completion, failures, late news."""

from __future__ import annotations

import pytest

from tests.core.scheduler_model import name, new, typed
from toilfn.ids import Budget, Cause
from toilfn.resources import Capacity, Resources
from toilfn.scheduler import Policy, Scheduler, State
from toilfn.scheduler.events import (
    Complete,
    Failed,
    Finished,
    GaveUp,
    Kill,
    Lost,
    Release,
    RequirementsResolved,
    ResolveRequirements,
    Retry,
    Returned,
    Submit,
    Submitted,
    TailCallStarted,
)
from toilfn.scheduler.states import MOVES

TWO_SLOTS = Capacity(Resources(cores=2, memory=1000, disk=100))
ONE_BY_ONE = Policy(target_seconds=0.0, max_batch=1)


def make(*tasks, capacity=TWO_SLOTS, policy=ONE_BY_ONE):
    scheduler = Scheduler(capacity, policy)
    scheduler.handle(Submitted(tasks))
    return scheduler


def batches(commands):
    return [[int.from_bytes(id, "big") for id in command.ids] for command in commands if isinstance(command, Submit)]


def done(scheduler, number, children=(), waits=()):
    return scheduler.handle(Finished(name(number), tuple(children), tuple(map(name, waits)), wall=0.01))


def released(commands):
    return [command.id for command in commands if isinstance(command, Release)]


def test_task_starts_when_all_it_needs_is_complete():
    scheduler = make(new(3, 1, 2), new(1), new(2))
    assert batches(scheduler.dispatch(0.0)) == [[1], [2]]
    assert typed(*done(scheduler, 1)) == typed(Complete(name(1)))
    scheduler.handle(Lost(1, None, 0.0))
    assert batches(scheduler.dispatch(0.0)) == []
    done(scheduler, 2)
    assert batches(scheduler.dispatch(0.0)) == [[3]]


def test_a_task_is_complete_only_with_all_its_descendants():
    scheduler = make(new(1), new(2), new(3, 1))
    scheduler.dispatch(0.0)
    assert done(scheduler, 1, children=[new(4)], waits=[2]) == []
    assert {state: count for state, count in scheduler.counts().items() if count} == {
        "waiting": 1, "ready": 1, "running": 1, "expanded": 1
    }  # fmt: skip
    assert typed(*done(scheduler, 4)) == typed(Complete(name(4)), Release(name(4)))
    assert typed(*done(scheduler, 2)) == typed(Complete(name(2)), Complete(name(1)))
    assert scheduler.is_complete(name(1))
    assert scheduler.state(name(3)) is State.READY


def test_value_is_released_when_its_last_consumer_has_an_outcome():
    scheduler = make(new(1), new(2, 1), new(3, 1))
    assert name(1) not in released(done(scheduler, 1))
    assert name(1) not in released(done(scheduler, 2))
    assert typed(*done(scheduler, 3)) == typed(Release(name(1)), Complete(name(3)), Release(name(3)))


def test_value_that_another_refers_to_is_released_with_that():
    scheduler = make(new(1), new(2), new(3, 2))
    done(scheduler, 1)
    assert typed(*done(scheduler, 2, waits=[1])) == typed(Complete(name(2)))
    assert name(1) in released(done(scheduler, 3))


def test_new_consumer_of_a_released_value_releases_it_again():
    scheduler = make(new(1))
    assert name(1) in released(done(scheduler, 1))
    scheduler.handle(Submitted((new(2, 1),)))
    assert name(1) in released(done(scheduler, 2))


def test_children_of_a_running_family_go_before_tasks_that_nothing_led_to():
    scheduler = make(*map(new, range(1, 6)), capacity=TWO_SLOTS._replace(batches=1))
    assert batches(scheduler.dispatch(0.0)) == [[1]]
    done(scheduler, 1, children=[new(10), new(11)])
    scheduler.handle(Lost(1, None, 0.0))
    assert batches(scheduler.dispatch(0.0)) == [[10]]
    done(scheduler, 10, children=[new(20)])
    scheduler.handle(Lost(2, None, 0.0))
    assert batches(scheduler.dispatch(0.0)) == [[20]]


def test_unknown_need_is_refused_and_changes_nothing():
    scheduler = make(new(1))
    before = scheduler.counts()
    with pytest.raises(ValueError, match=f"task {name(3).hex()} depends on task {name(9).hex()}"):
        scheduler.handle(Submitted((new(2), new(3, 9))))
    with pytest.raises(ValueError, match="does not know"):
        scheduler.handle(Finished(name(1), waits=(name(9),)))
    assert scheduler.counts() == before


def test_second_outcome_and_second_submission_are_ignored():
    scheduler = make(new(1), new(2, 1))
    done(scheduler, 1)
    counts = scheduler.counts()
    assert done(scheduler, 1, children=[new(5)]) == []
    assert scheduler.handle(Submitted((new(1), new(2)))) == []
    assert scheduler.counts() == counts


def test_news_of_what_is_not_known_are_ignored():
    scheduler = make(new(1))
    events = [
        Finished(name(9)), Failed(name(9), Cause.ERROR, 0.0), TailCallStarted(7, name(1)), Returned(7, (name(1),)),
        Lost(7, Cause.LOST, 0.0), Failed(name(1), Cause.ERROR, 0.0),
    ]  # fmt: skip
    assert [scheduler.handle(event) for event in events] == [[]] * len(events)
    assert scheduler.state(name(1)) is State.READY
    assert scheduler.state(name(9)) is None


def test_outcomes_of_an_earlier_leader_count_in_any_order():
    scheduler = make(new(1), new(2, 1), new(3, 2))
    assert typed(*done(scheduler, 2)) == typed(Complete(name(2)))
    assert scheduler.state(name(3)) is State.READY
    assert typed(*done(scheduler, 1)) == typed(Complete(name(1)), Release(name(1)))


def test_child_that_is_known_already_is_waited_for():
    scheduler = make(new(1), new(2), new(3))
    done(scheduler, 1, children=[new(3)])
    done(scheduler, 2, children=[new(3)])
    commands = done(scheduler, 3)
    assert [command.id for command in commands if isinstance(command, Complete)] == [name(3), name(2), name(1)]
    assert released(commands) == [name(3), name(2), name(1)]


# Failures


@pytest.mark.parametrize(
    ("cause", "allowed"),
    [(Cause.ERROR, 1), (Cause.MEMORY, 2), (Cause.WALLTIME, 0), (Cause.LOST, 3), (Cause.PREEMPTED, 4), (Cause.INPUT, 0)],
)
def test_each_cause_has_a_budget(cause, allowed):
    budget = Budget(error=1, memory=2, walltime=0, lost=3, preempted=4, backoff=0.0)
    scheduler = make(new(1, budget=budget))
    for attempt in range(1, allowed + 1):
        scheduler.dispatch(0.0)
        assert typed(*scheduler.handle(Failed(name(1), cause, 0.0))) == typed(Retry(name(1), cause, attempt, 0.0))
        scheduler.handle(Lost(attempt, None, 0.0))
    scheduler.dispatch(0.0)
    assert typed(*scheduler.handle(Failed(name(1), cause, 0.0))) == typed(GaveUp(name(1), cause))
    assert scheduler.idle


def test_preemption_is_free_by_default():
    scheduler = make(new(1))
    for batch in range(1, 100):
        assert batches(scheduler.dispatch(0.0)) == [[1]]
        scheduler.handle(Lost(batch, Cause.PREEMPTED, 0.0))
    assert scheduler.state(name(1)) is State.READY


def test_backoff_doubles_up_to_a_minute():
    scheduler = make(new(1, budget=Budget(error=2000, backoff=10.0)))
    now, waits = 0.0, []
    for batch in range(1, 6):
        assert batches(scheduler.dispatch(now)) == [[1]]
        (retry,) = scheduler.handle(Failed(name(1), Cause.ERROR, now))
        scheduler.handle(Lost(batch, None, now))
        assert scheduler.wake_at == retry.at
        assert batches(scheduler.dispatch(retry.at - 0.001)) == []
        waits.append(retry.at - now)
        now = retry.at
    assert waits == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_thousands_of_failures_are_tolerated_if_the_budget_allows_it():
    scheduler = make(new(1, budget=Budget(error=2000)))
    now = 0.0
    for batch in range(1, 1101):
        scheduler.dispatch(now)
        scheduler.handle(Failed(name(1), Cause.ERROR, now))
        scheduler.handle(Lost(batch, None, now))
        now = scheduler.wake_at
    assert batches(scheduler.dispatch(now)) == [[1]]


def test_memory_doubles_up_to_the_largest():
    budget = Budget(memory=3, double_memory=True, backoff=0.0)
    shape = Resources(cores=1, memory=300, disk=0)
    scheduler = make(new(1, shape=shape, budget=budget))
    sizes = []
    for batch in range(1, 5):
        (submit,) = scheduler.dispatch(0.0)
        sizes.append(submit.shape.memory)
        scheduler.handle(Failed(name(1), Cause.MEMORY, 0.0))
        scheduler.handle(Lost(batch, None, 0.0))
    assert sizes == [300, 600, 1000, 1000]


def test_task_with_doubled_memory_leaves_the_queue_of_its_old_size():
    budget = Budget(memory=1, double_memory=True, backoff=0.0)
    scheduler = make(new(1), capacity=TWO_SLOTS._replace(batches=1))
    scheduler.dispatch(0.0)
    done(scheduler, 1, children=[new(2, budget=budget), new(3)])
    scheduler.handle(TailCallStarted(1, name(2)))
    scheduler.handle(Failed(name(2), Cause.MEMORY, 0.0))
    sizes = {}
    for batch in (1, 2):
        scheduler.handle(Lost(batch, None, 0.0))
        (submit,) = scheduler.dispatch(0.0)
        sizes |= dict.fromkeys(submit.ids, submit.shape.memory)
        done(scheduler, int.from_bytes(submit.ids[0], "big"))
    assert sizes == {name(2): 20, name(3): 10}


def test_dependents_of_a_task_that_was_given_up_wait_and_the_rest_continues():
    scheduler = make(new(1, budget=Budget(error=0)), new(2, 1), new(3))
    scheduler.dispatch(0.0)
    assert typed(*scheduler.handle(Failed(name(1), Cause.ERROR, 0.0))) == typed(GaveUp(name(1), Cause.ERROR))
    done(scheduler, 3)
    assert scheduler.idle
    assert scheduler.state(name(2)) is State.WAITING
    assert scheduler.stuck() == []


def test_late_outcome_of_a_task_that_was_given_up_counts():
    scheduler = make(new(1, budget=Budget(lost=0)), new(2, 1))
    scheduler.dispatch(0.0)
    assert typed(*scheduler.handle(Lost(1, Cause.LOST, 0.0))) == typed(GaveUp(name(1), Cause.LOST))
    assert typed(*done(scheduler, 1)) == typed(Complete(name(1)))
    assert batches(scheduler.dispatch(0.0)) == [[2]]


def test_lost_batch_charges_the_first_task_without_an_outcome():
    scheduler = make(*map(new, range(1, 5)), capacity=TWO_SLOTS._replace(batches=1), policy=Policy(target_seconds=9.0))
    scheduler.dispatch(0.0)
    done(scheduler, 1)
    scheduler.handle(Lost(1, None, 0.0))
    assert batches(scheduler.dispatch(0.0)) == [[2, 3, 4]]
    done(scheduler, 2)
    assert typed(*scheduler.handle(Lost(2, Cause.LOST, 0.0))) == typed(Retry(name(3), Cause.LOST, 1, 0.0))
    assert batches(scheduler.dispatch(0.0)) == [[3, 4]]
    assert typed(*scheduler.handle(Lost(3, Cause.LOST, 0.0, running=name(4)))) == typed(
        Retry(name(4), Cause.LOST, 1, 0.0)
    )


def test_batch_that_ends_without_a_cause_costs_nothing():
    scheduler = make(new(1))
    scheduler.dispatch(0.0)
    assert scheduler.handle(Lost(1, None, 0.0)) == []
    assert scheduler.state(name(1)) is State.READY


def test_the_late_outcome_of_a_lost_attempt_ends_the_next_attempt():
    scheduler = make(new(1), policy=Policy(kill_after=5.0))
    scheduler.dispatch(0.0)
    scheduler.handle(Lost(1, Cause.LOST, 0.0))
    assert batches(scheduler.dispatch(1.0)) == [[1]]
    assert typed(*done(scheduler, 1)) == typed(Complete(name(1)), Release(name(1)))
    assert scheduler.wake_at == 6.0
    assert scheduler.dispatch(5.9) == []
    assert typed(*scheduler.dispatch(6.0)) == typed(Kill(2))
    assert scheduler.handle(Lost(2, Cause.LOST, 6.0)) == []
    assert scheduler.dispatch(7.0) == []
    assert scheduler.wake_at is None


def test_batch_that_ends_by_itself_after_a_loss_is_not_killed():
    scheduler = make(new(1))
    scheduler.dispatch(0.0)
    scheduler.handle(Lost(1, Cause.LOST, 0.0))
    scheduler.dispatch(0.0)
    done(scheduler, 1)
    scheduler.handle(Lost(2, None, 0.0))
    assert scheduler.dispatch(100.0) == []


# Tail calls


def test_kept_child_runs_in_the_batch_that_made_it():
    scheduler = make(new(1))
    scheduler.dispatch(0.0)
    done(scheduler, 1, children=[new(2)])
    scheduler.handle(TailCallStarted(1, name(2)))
    assert scheduler.dispatch(0.0) == []
    assert scheduler.running() == {1: (name(2),)}
    assert typed(*scheduler.handle(Lost(1, Cause.LOST, 0.0))) == typed(Retry(name(2), Cause.LOST, 1, 0.0))


def test_kept_child_is_charged_before_what_its_batch_has_not_started():
    scheduler = make(new(1), new(2, 1), policy=Policy(target_seconds=0.0))
    assert batches(scheduler.dispatch(0.0)) == [[1, 2]]
    done(scheduler, 1, children=[new(3)])
    scheduler.handle(TailCallStarted(1, name(3)))
    assert scheduler.running() == {1: (name(3), name(2))}
    assert typed(*scheduler.handle(Lost(1, Cause.LOST, 0.0))) == typed(Retry(name(3), Cause.LOST, 1, 0.0))
    assert scheduler.state(name(2)) is State.WAITING


def test_news_of_a_kept_child_may_come_after_it_was_submitted():
    scheduler = make(new(1), policy=Policy(kill_after=0.0))
    scheduler.dispatch(0.0)
    done(scheduler, 1, children=[new(2)])
    assert batches(scheduler.dispatch(0.0)) == [[2]]
    scheduler.handle(TailCallStarted(1, name(2)))
    assert scheduler.running() == {1: (name(2),), 2: ()}
    assert typed(*scheduler.dispatch(1.0)) == typed(Kill(2))


# Cycles


def test_tasks_that_need_each_other_are_stuck():
    scheduler = make(new(1, 2), new(2, 1), new(3, 2), new(4))
    assert scheduler.stuck() == []
    done(scheduler, 4)
    assert scheduler.idle
    assert scheduler.stuck() == [name(1), name(2), name(3)]


def test_task_whose_value_refers_to_what_needs_it_is_stuck():
    scheduler = make(new(1), new(2, 1))
    done(scheduler, 1, waits=[2])
    assert scheduler.idle
    assert set(scheduler.stuck()) == {name(1), name(2)}


def test_an_impossible_transition_shows_the_history_of_the_task():
    scheduler = make(new(1))
    scheduler.dispatch(0.0)
    with pytest.raises(RuntimeError, match=rf"task {name(1).hex()} running.* cannot become complete.*ready to running"):
        scheduler._state.move(scheduler._tasks[name(1)], State.COMPLETE)


def test_every_state_but_complete_accepts_an_outcome():
    assert [state for state in State if State.EXPANDED not in MOVES[state]] == [State.EXPANDED, State.COMPLETE]


def contradict_counts(state):
    state.counts[State.READY] += 1


def contradict_links(state):
    state.tasks[name(2)].pending = 0


def contradict_queues(state):
    state.tasks[name(2)].state = State.READY


def contradict_batches(state):
    state.tasks[name(1)].batch = 99


def leave_behind(state):
    state.unresolved.add(name(9))


@pytest.mark.parametrize(
    ("contradict", "said"),
    [
        (contradict_counts, "0 tasks are ready, and 1 are counted"),
        (contradict_links, "has 1 tasks to wait for"),
        (contradict_queues, "is ready and waits for others"),
        (contradict_batches, "batch 99 has tasks and has ended"),
        (leave_behind, "is still among those that are unresolved"),
    ],
)
def test_a_state_that_contradicts_itself_is_found(contradict, said):
    scheduler = make(new(1), new(2, 1, kind=1), policy=Policy(target_seconds=0.0, max_batch=1, check=True))
    scheduler.dispatch(0.0)
    scheduler.check()
    contradict(scheduler._state)
    with pytest.raises(RuntimeError, match=f"the scheduler has a bug: .*{said}"):
        scheduler.dispatch(1.0)


def late(number, *needs):
    return new(number, *needs)._replace(is_late=True)


def test_late_requirements_are_known_when_the_tasks_inputs_are_complete():
    scheduler = make(new(1), late(2, 1), policy=Policy(target_seconds=0.0, max_batch=1))
    scheduler.dispatch(0.0)
    told = done(scheduler, 1)
    assert typed(ResolveRequirements(name(2)))[0] in typed(*told)
    assert batches(scheduler.dispatch(0.0)) == []
    wide = Resources(cores=2, memory=500, disk=10)
    assert scheduler.handle(RequirementsResolved(name(2), wide)) == []
    scheduler.handle(Lost(1, None, 0.0))
    (submit,) = [command for command in scheduler.dispatch(0.0) if isinstance(command, Submit)]
    assert (submit.ids, submit.shape) == ((name(2),), wide)


def test_a_task_whose_requirements_cannot_be_evaluated_is_given_up_and_its_dependents_never_start():
    scheduler = make(late(1), new(2, 1), new(3))
    told = scheduler.handle(RequirementsResolved(name(1), None))
    assert [command.id for command in told if isinstance(command, (GaveUp, Complete))] == [name(1)]
    assert batches(scheduler.dispatch(0.0)) == [[3]]
    assert [scheduler.state(name(number)) for number in (1, 2)] == [State.FAILED, State.WAITING]


def test_requirements_that_come_too_late_or_for_others_change_nothing():
    scheduler = make(late(1), new(2))
    scheduler.handle(RequirementsResolved(name(1), Resources(cores=1, memory=10, disk=1)))
    for stray in (name(1), name(2), name(9)):
        assert scheduler.handle(RequirementsResolved(stray, None)) == []
    assert batches(scheduler.dispatch(0.0)) == [[1], [2]]


class TestHolding:
    """With `holds`, what was begun is finished before anything else starts."""

    def test_one_after_the_other(self):
        scheduler = make(new(1), new(2), new(3), new(11, 1), new(12, 1))
        assert batches(scheduler.dispatch(0.0, holds=True)) == [[1]]
        assert batches(scheduler.dispatch(0.0, holds=True)) == []
        done(scheduler, 1)
        scheduler.handle(Lost(1, None, 0.0))
        assert sorted(batches(scheduler.dispatch(0.0, holds=True))) == [[11], [12]]
        done(scheduler, 11)
        scheduler.handle(Lost(2, None, 0.0))
        assert batches(scheduler.dispatch(0.0, holds=True)) == []
        done(scheduler, 12)
        scheduler.handle(Lost(3, None, 0.0))
        assert batches(scheduler.dispatch(0.0, holds=True)) == [[2]]
        assert batches(scheduler.dispatch(0.0)) == [[3]]

    def test_short_tasks_are_not_put_together(self):
        scheduler = make(new(1), new(2), new(3), policy=Policy(target_seconds=10.0))
        scheduler.dispatch(0.0, holds=True)
        done(scheduler, 1)
        scheduler.handle(Lost(1, None, 0.0))
        assert batches(scheduler.dispatch(0.0, holds=True)) == [[2]]

    def test_a_family_is_finished_first(self):
        scheduler = make(new(1), new(2), policy=Policy(target_seconds=0.0, max_batch=1, check=True))
        scheduler.dispatch(0.0, holds=True)
        done(scheduler, 1, children=[new(21), new(22), new(23)])
        scheduler.handle(Lost(1, None, 0.0))
        assert batches(scheduler.dispatch(0.0, holds=True)) == [[21], [22]]
        for number, batch in ((21, 2), (22, 3)):
            done(scheduler, number)
            scheduler.handle(Lost(batch, None, 0.0))
        assert batches(scheduler.dispatch(0.0, holds=True)) == [[23]]

    def test_a_task_that_is_no_longer_ready_is_skipped(self):
        scheduler = make(new(1), new(2), new(11, 1))
        scheduler.dispatch(0.0, holds=True)
        done(scheduler, 1)
        scheduler.handle(Lost(1, None, 0.0))
        done(scheduler, 11)  # an answer of an earlier worker
        assert batches(scheduler.dispatch(0.0, holds=True)) == [[2]]


def test_a_value_that_is_needed_again_keeps_what_it_refers_to():
    """Task 1 leads to 2, whose value 1's own value refers to; both were released, and a later task loads 1's value."""
    scheduler = make(new(1))
    scheduler.dispatch(0.0)
    child = new(2)._replace(parent=name(1))
    done(scheduler, 1, [child], [2])
    scheduler.handle(Lost(1, None, 0.0))
    scheduler.dispatch(0.0)
    assert set(released(done(scheduler, 2))) == {name(1), name(2)}
    scheduler.handle(Lost(2, None, 0.0))
    scheduler.handle(Submitted((new(3, 1), new(4, 2))))
    scheduler.dispatch(0.0)
    assert name(2) not in released(done(scheduler, 4))
    assert set(released(done(scheduler, 3))) >= {name(1), name(2)}


def test_a_batch_answers_for_all_its_tail_calls():
    scheduler = make(new(1))
    scheduler.dispatch(0.0)
    done(scheduler, 1, [new(2)._replace(parent=name(1)), new(3)._replace(parent=name(1))], [2])
    for number in (2, 3):
        scheduler.handle(TailCallStarted(1, name(number)))
    assert scheduler.left(1) == [name(2), name(3)]
    done(scheduler, 2)
    assert scheduler.left(1) == [name(3)]
    scheduler.handle(Lost(1, None, 0.0))
    assert batches(scheduler.dispatch(0.0)) == [[3]]


def test_the_states_of_tasks_that_are_open_complete_and_unknown():
    scheduler = make(new(1), new(2, 1))
    scheduler.dispatch(0.0)
    assert scheduler.open_tasks() == [(name(1), State.RUNNING), (name(2), State.WAITING)]
    done(scheduler, 1)
    assert [scheduler.state(name(number)) for number in (1, 2, 3)] == [State.COMPLETE, State.READY, None]
    assert scheduler.open_tasks() == [(name(2), State.READY)]


def test_a_scheduler_that_holds_starts_one_task_at_a_time():
    scheduler = make(new(1), policy=Policy())
    scheduler.dispatch(0.0)
    done(scheduler, 1)
    scheduler.handle(Lost(1, None, 0.0))
    scheduler.handle(Submitted(tuple(map(new, range(2, 8)))))
    assert batches(scheduler.dispatch(0.0, holds=True)) == [[2]]
    assert batches(scheduler.dispatch(0.0, holds=True)) == []


def test_a_task_that_two_tasks_wait_for_completes_both_and_what_led_to_them():
    """1 leads to 2, 11 to 12; both 2 and 12 wait for 20."""
    scheduler = make(new(20), new(1), new(11), capacity=Capacity(Resources(cores=8, memory=1000, disk=100)))
    scheduler.dispatch(0.0)
    for parent, child in ((1, 2), (11, 12)):
        done(scheduler, parent, [new(child)._replace(parent=name(parent))], [child])
        scheduler.dispatch(0.0)
        done(scheduler, child, (), [20])
    completed = [command.id for command in done(scheduler, 20) if isinstance(command, Complete)]
    assert sorted(completed) == [name(number) for number in (1, 2, 11, 12, 20)]
