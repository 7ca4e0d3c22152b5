from __future__ import annotations

from itertools import product

import pytest

from toilfn.server.records import Facts, State, state_of

TABLE = [
    (Facts(), "QUEUED"),
    (Facts(claimed=True), "INITIALIZING"),
    (Facts(claimed=True, running=True), "RUNNING"),
    (Facts(cancelled=True), "CANCELING"),
    (Facts(claimed=True, cancelled=True), "CANCELING"),
    (Facts(claimed=True, running=True, cancelled=True), "CANCELING"),
    (Facts(cancelled=True, exit=State.CANCELED), "CANCELED"),
    (Facts(claimed=True, exit=State.COMPLETE), "COMPLETE"),
    (Facts(claimed=True, running=True, exit=State.EXECUTOR_ERROR), "EXECUTOR_ERROR"),
    (Facts(claimed=True, exit=State.SYSTEM_ERROR), "SYSTEM_ERROR"),
]


@pytest.mark.parametrize(("facts", "state"), TABLE)
def test_state_of_facts(facts, state):
    assert state_of(facts).value == state


def later(facts):
    """Facts that differ in one that has become true."""
    for name in ("claimed", "running", "cancelled"):
        if not getattr(facts, name) and facts.exit is None:
            yield facts._replace(**{name: True})
    if facts.exit is None:
        ends = [State.CANCELED] if facts.cancelled else [state for state in State if state.is_final]
        yield from (facts._replace(exit=state) for state in ends)


def test_no_state_is_ever_left_for_an_earlier_one():
    order = list(State)
    for claimed, running, cancelled in product([False, True], repeat=3):
        facts = Facts(claimed, running, cancelled)
        for after in later(facts):
            assert order.index(state_of(after)) >= order.index(state_of(facts))
