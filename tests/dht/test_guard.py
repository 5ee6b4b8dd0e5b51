"""D1: floods are ignored, and answers have a rate."""

from __future__ import annotations

import pytest

from btor import limits
from btor.dht.guard import AnswerBudget, FloodGuard


def test_D1_floods_fifty_in_ten_seconds_and_no_more() -> None:
    guard = FloodGuard()
    assert all(guard.admits("5.6.7.8", at * 0.1) for at in range(limits.DHT_FLOOD_PACKETS))
    assert not guard.admits("5.6.7.8", 9.9)
    assert guard.admits("5.6.7.9", 9.9)
    blocked = 9.9 + limits.DHT_FLOOD_BLOCK
    assert not guard.admits("5.6.7.8", blocked - 0.1)
    assert guard.admits("5.6.7.8", blocked)


def test_D1_floods_a_steady_node_is_always_heard() -> None:
    guard = FloodGuard()
    assert all(guard.admits("5.6.7.8", at * 0.21) for at in range(500))


def test_D1_floods_memory_is_bounded() -> None:
    guard = FloodGuard()
    for number in range(limits.DHT_FLOOD_ADDRESSES):
        guard.admits(str(number), 0.0)
    for _ in range(60):
        guard.admits("1", 0.0)
    assert not guard.admits("1", 1.0)
    guard.admits("one more", 1.0)
    assert len(guard) == limits.DHT_FLOOD_ADDRESSES
    assert not guard.admits("1", 1.0)
    guard.admits("and another", 1.0)
    assert guard.admits("1", 1.0)  # it was the oldest one and is forgotten


def test_D1_answers_have_a_rate() -> None:
    budget = AnswerBudget(0.0)
    sent = 0
    for step in range(1000):
        while budget.takes(100, step / 10):
            sent += 100
    assert sent == pytest.approx(limits.DHT_ANSWER_BURST + 99.9 * limits.DHT_ANSWER_RATE, abs=200)
    assert not budget.takes(limits.DHT_ANSWER_BURST + 1, 10_000.0)
    assert budget.takes(limits.DHT_ANSWER_BURST, 10_000.0)
    assert not budget.takes(1, 10_000.0)
