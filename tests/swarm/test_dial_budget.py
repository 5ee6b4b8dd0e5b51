"""The budget of dials: every limit sat on and stepped over."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from btor.limits import DIAL_WINDOW, DIALS_PER_ADDRESS, DIALS_PER_NETWORK, DIALS_PER_SECOND, HALF_OPEN
from btor.swarm.dial_budget import DialBudget
from btor.wire.address import network_of


def spread(count: int) -> list[str]:
    """Addresses of as many networks."""
    return [f"8.{index // 250}.{index % 250}.1" for index in range(count)]


def may_dial(budget: DialBudget, ip: str, now: float) -> bool:
    return budget.open(now) and not budget.wait(ip, now)


def dial(budget: DialBudget, ip: str, now: float) -> None:
    budget.on_dialled(ip, now)
    budget.on_finished(ip)


def test_half_open() -> None:
    budget = DialBudget()
    for index, ip in enumerate(spread(HALF_OPEN)):
        assert may_dial(budget, ip, float(index))
        budget.on_dialled(ip, float(index))
    assert not may_dial(budget, "9.9.9.9", 1000.0)
    budget.on_finished("8.0.0.1")
    assert may_dial(budget, "9.9.9.9", 1000.0)


def test_several_half_open_to_one_address() -> None:
    budget = DialBudget()
    budget.on_dialled("9.9.9.9", 0.0)
    budget.on_dialled("9.9.9.9", 0.0)
    assert budget.half_open == 2
    budget.on_finished("9.9.9.9")
    budget.on_finished("9.9.9.9")
    assert budget.half_open == 0
    with pytest.raises(KeyError):
        budget.on_finished("9.9.9.9")


@pytest.mark.parametrize("loopback", [False, True])
def test_P4_dials_a_second_all_at_once(loopback: bool) -> None:
    budget = DialBudget()
    for ip in spread(DIALS_PER_SECOND):
        address = "127.0.0.1" if loopback else ip
        assert may_dial(budget, address, 5.0)
        dial(budget, address, 5.0)
    for address in ["127.0.0.1", "9.9.9.9"]:
        assert not may_dial(budget, address, 5.99)
        assert may_dial(budget, address, 6.0)


def test_P10_dials_to_one_address() -> None:
    budget = DialBudget()
    for index in range(DIALS_PER_ADDRESS):
        assert may_dial(budget, "9.9.9.9", 10.0 + index)
        assert budget.wait("9.9.9.9", 10.0 + index) == 0.0
        dial(budget, "9.9.9.9", 10.0 + index)
    assert budget.wait("9.9.9.9", 20.0) == DIAL_WINDOW - 10.0
    assert may_dial(budget, "9.9.9.8", 20.0)
    assert not may_dial(budget, "9.9.9.9", 10.0 + DIAL_WINDOW - 0.01)
    assert may_dial(budget, "9.9.9.9", 10.0 + DIAL_WINDOW)


@pytest.mark.parametrize(
    ("inside", "outside"), [("9.9.9.{}", "9.9.8.1"), ("2001:db8:0:1::{}", "2001:db8:0:2::1")], ids=["/24", "/64"]
)
def test_P10_dials_to_one_network(inside: str, outside: str) -> None:
    budget = DialBudget()
    for index in range(DIALS_PER_NETWORK):
        assert may_dial(budget, inside.format(index), float(index))
        dial(budget, inside.format(index), float(index))
    assert budget.wait(inside.format(99), 30.0) == DIAL_WINDOW - 30.0
    assert not may_dial(budget, inside.format(99), 30.0)
    assert may_dial(budget, outside, 30.0)
    assert may_dial(budget, inside.format(99), DIAL_WINDOW)


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("public", [False, True])
def test_loopback_is_many_peers_at_one_address(ip: str, public: bool) -> None:
    budget = DialBudget(loopback_is_public=public)
    for index in range(DIALS_PER_ADDRESS):
        dial(budget, ip, float(index))
    assert may_dial(budget, ip, 10.0) is not public


def test_what_is_dialled_in_spite_of_the_limits_counts() -> None:
    budget = DialBudget()
    for _ in range(HALF_OPEN + 50):
        budget.on_dialled("9.9.9.9", 0.0)
    assert not may_dial(budget, "9.9.9.9", 30.0)
    assert not budget.open(30.0)
    assert budget.wait("9.9.9.9", 30.0) == 30.0


def test_nothing_is_remembered_after_the_window() -> None:
    budget = DialBudget()
    for index, ip in enumerate(spread(200)):
        dial(budget, ip, index / 10)
    assert len(budget._times) == 400
    budget.wait("9.9.9.9", 20.0 + DIAL_WINDOW)
    assert not budget._times
    assert not budget._log
    assert not budget._half_open


def test_against_a_naive_count() -> None:
    rng = random.Random(7)
    budget, now = DialBudget(), 0.0
    made: list[tuple[float, str]] = []
    verdicts: Counter[bool] = Counter()
    for _ in range(6000):
        now += rng.expovariate(5)
        ip = f"9.9.{rng.randrange(4)}.{rng.randrange(20)}"
        window = [dialled for at, dialled in made if now - at < DIAL_WINDOW]
        expected = (
            sum(1 for at, _ in made[-DIALS_PER_SECOND:] if now - at < 1) < DIALS_PER_SECOND
            and window.count(ip) < DIALS_PER_ADDRESS
            and sum(network_of(dialled) == network_of(ip) for dialled in window) < DIALS_PER_NETWORK
        )
        verdicts[expected] += 1
        assert may_dial(budget, ip, now) == expected
        if expected:
            dial(budget, ip, now)
            made.append((now, ip))
            made = made[-500:]
    assert min(verdicts.values()) > 100
