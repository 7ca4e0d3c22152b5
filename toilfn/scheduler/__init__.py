"""Decides which tasks run when, and together with which others.

`Scheduler` is a pure state machine: `toilfn.scheduler.events` go in, commands come out. The modules:

    states      the states of a task and the moves between them
    machine     the scheduler itself
    board       the tasks that are not complete, and their moves
    links       which task waits for which other
    packing     shapes, and the pool of resources that batches take from
    ready       the queues of ready tasks, and whose turn it is
    batching    how much work goes into one batch
    drafting    which tasks go into one batch
    gathering   how long ready tasks wait for others to go out with
    probes      learning how long tasks take from a few, before the others go out
    running     the batches that are out
    retries     what a failure costs
    holds       which values are still needed
    checkpoints which tasks go with a checkpoint that is rolled back
    rollback    how they go
"""

from __future__ import annotations

from toilfn.scheduler.batching import Policy
from toilfn.scheduler.machine import Scheduler
from toilfn.scheduler.states import State

__all__ = ["Policy", "Scheduler", "State"]
