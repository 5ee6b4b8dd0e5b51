"""Five hundred nodes with the real codec: latency, loss, churn, newcomers, then sybils around the targets."""

from __future__ import annotations

from tools.simulate_dht import FOUND, FOUND_AMONG_SYBILS, MINUTE, Plan, Simulation

PLAN = Plan(
    nodes=500,
    codec=True,
    torrents=20,
    lookups=200,
    join=2 * MINUTE,
    hour=14 * MINUTE,
    churn=(6 * MINUTE, 9 * MINUTE),
    announce_every=5 * MINUTE,
    sybil_targets=2,
)


def test_D2_sybil_500_nodes() -> None:
    simulation = Simulation(PLAN)
    simulation.run_hour()
    outcome = simulation.outcome
    assert outcome.lookups >= 0.99 * PLAN.lookups
    assert outcome.newcomers >= 0.2 * PLAN.lookups
    assert outcome.share >= FOUND
    assert outcome.share_of_newcomers >= 0.95
    assert max(outcome.asked) < 80
    assert sum(one.node.malformed for one in simulation.world.nodes) == 0
    for one in simulation.world.nodes[::50]:
        one.node.table.check_invariants()
    simulation.run_sybils()
    assert outcome.among_sybils == PLAN.sybil_targets * PLAN.sybil_lookups
    assert outcome.share_among_sybils >= FOUND_AMONG_SYBILS
