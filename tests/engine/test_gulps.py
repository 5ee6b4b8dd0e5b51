"""How much to receive at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from btor.engine.gulps import Gulps
from btor.limits import GULP_MAX, GULP_MIN, GULP_TURN


def peers(count: int) -> list[Any]:
    return [SimpleNamespace(gulp_turn=-1) for _ in range(count)]


def test_all_at_once_before_anything_is_known() -> None:
    assert Gulps().size() == GULP_MAX


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, GULP_MAX), (2, GULP_TURN // 2), (10, GULP_TURN // 10), (32, GULP_MIN), (33, GULP_MIN), (1000, GULP_MIN)],
)
def test_shared_by_those_of_the_last_turn(count: int, size: int) -> None:
    gulps = Gulps()
    readable = peers(count)
    for _ in range(3):
        for peer in readable:
            gulps.on_gulp(peer)
    assert gulps.size() == size


def test_a_peer_counts_once_a_turn() -> None:
    gulps = Gulps()
    (one,) = peers(1)
    for _ in range(100):
        gulps.on_gulp(one)
    assert gulps.size() == GULP_MAX


def test_what_was_crowded_widens_again() -> None:
    gulps = Gulps()
    readable = peers(100)
    for _ in range(2):
        for peer in readable:
            gulps.on_gulp(peer)
    assert gulps.size() == GULP_MIN
    gulps.on_gulp(readable[0])
    gulps.on_gulp(readable[0])
    assert gulps.size() == GULP_MAX
