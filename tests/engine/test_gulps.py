"""How much to receive at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from btor.engine.gulps import ROUND, Gulps
from btor.limits import GULP_MAX, GULP_MIN


def peers(count: int) -> list[Any]:
    return [SimpleNamespace(gulp_round=-1) for _ in range(count)]


def test_all_at_once_before_anything_is_known() -> None:
    assert Gulps().size() == GULP_MAX


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, GULP_MAX), (2, GULP_MAX // 2), (10, GULP_MAX // 10), (64, GULP_MIN), (65, GULP_MIN), (1000, GULP_MIN)],
)
def test_shared_by_those_of_the_last_round(count: int, size: int) -> None:
    gulps = Gulps()
    readable = peers(count)
    for begin in (0.0, ROUND, 2 * ROUND):
        for peer in readable:
            gulps.on_gulp(peer, begin)
    assert gulps.size() == size


def test_a_peer_counts_once_a_round() -> None:
    gulps = Gulps()
    (one,) = peers(1)
    for number in range(100):
        gulps.on_gulp(one, number * ROUND / 10)
    assert gulps.size() == GULP_MAX


def test_what_was_crowded_widens_again() -> None:
    gulps = Gulps()
    readable = peers(100)
    for begin in (1.0, 2.0):
        for peer in readable:
            gulps.on_gulp(peer, begin)
    assert gulps.size() == GULP_MIN
    gulps.on_gulp(readable[0], 3.0)
    gulps.on_gulp(readable[0], 4.0)
    assert gulps.size() == GULP_MAX
