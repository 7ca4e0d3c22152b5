"""Decide when each task runs, and which tasks run together in one batch.

`Scheduler` is a pure state machine: events go in, commands come out. The modules:

    events      the events that go in, and the commands that come out
    state       all that a scheduler knows, and the conditions under which it makes sense
    states      the states of a task and the moves between them; checkpoints, and which values are still needed
    machine     the scheduler itself: what follows from each event
    links       which task waits for which other; how checkpoints are rolled back
    packing     the shapes of tasks, and the pool from which batches take their resources
    ready       the queues of ready tasks; whose turn it is, and when; the price of a failure
    drafting    which tasks go into one batch; learning how long tasks take from a few, before the others start
    running     how much work goes into one batch; the batches that were submitted
    services    when services start and stop, and which tasks may use them
"""

from __future__ import annotations

from toilfn.scheduler.machine import Scheduler
from toilfn.scheduler.running import Policy
from toilfn.scheduler.states import State

__all__ = ["Policy", "Scheduler", "State"]
