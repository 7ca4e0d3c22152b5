from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.scheduler_model import CAPACITIES, World
from tests.mutation import examples
from toilfn.scheduler import Policy

POLICIES = [
    Policy(),
    Policy(target_seconds=0.0),
    Policy(target_seconds=2.0, max_batch=4, patience=1, kill_after=0.5),
    Policy(target_seconds=2.0, gather=0.5, probes=1),
    Policy(target_seconds=2.0, probes=2, probe_patience=5.0, spread=3),
]


@settings(max_examples=examples(80), suppress_health_check=list(HealthCheck))
@given(
    random=st.randoms(use_true_random=False),
    capacity=st.sampled_from(CAPACITIES),
    policy=st.sampled_from(POLICIES),
    failing=st.sampled_from([0.0, 0.2]),
    trouble=st.sampled_from([0.0, 0.1, 0.4]),
    roots=st.integers(1, 8),
)
def test_every_run_keeps_the_rules_and_ends(random, capacity, policy, failing, trouble, roots):
    world = World(random, capacity, policy, failing, trouble)
    world.submit(world.graphs.grow(roots))
    world.run()
