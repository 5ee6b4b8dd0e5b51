"""Whole swarms in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from btor.limits import BLOCK, BLOCK_OWNERS, SNUB_AFTER
from tests.simulated.swarm import Plan, Swarm


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_silent_seeds_do_not_keep_the_last_block(tmp_path: Path, seed: int) -> None:
    # they answer the dial first, so they are asked first, as often as a block may be asked for
    silent = Plan(kind="silent", up=100_000, latency=0.01, seeds=True, manner="silent")
    honest = Plan(kind="seeder", up=100_000, latency=0.1, seeds=True)
    leecher = Plan(kind="leecher", up=100_000, joins=1.0)
    swarm = Swarm(
        [*[silent] * BLOCK_OWNERS, honest, leecher], tmp_path, seed=seed, size=BLOCK, piece_length=BLOCK, limit=120.0
    ).play()
    (found,) = swarm.of("leecher")
    assert SNUB_AFTER <= found.seconds <= SNUB_AFTER + 5
