"""Connection ids: who holds one, and how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.tracker.connection_ids import ConnectionIds

IDS = ConnectionIds(b"s" * 32)
ips = st.ip_addresses().map(str)
times = st.floats(0, 1e9)


@given(ips, times, st.floats(0, 119))
def test_good_for_its_address_and_its_time(ip: str, now: float, age: float) -> None:
    connection_id = IDS.issue(ip, now)
    assert 0 <= connection_id < 2**64
    assert IDS.is_valid(connection_id, ip, now + age)


@pytest.mark.parametrize(("age", "valid"), [(0, True), (120, True), (121, False), (65_536, False), (65_536 * 3, False)])
def test_expires(age: int, valid: bool) -> None:
    assert IDS.is_valid(IDS.issue("8.8.8.8", 1_000.0), "8.8.8.8", 1_000.0 + age) is valid


@given(ips, ips, times)
def test_not_for_another_address(ip: str, other: str, now: float) -> None:
    assert IDS.is_valid(IDS.issue(ip, now), other, now) is (ip == other)


@given(ips, times, st.integers(0, 63))
def test_not_changed_by_a_bit(ip: str, now: float, bit: int) -> None:
    assert not IDS.is_valid(IDS.issue(ip, now) ^ (1 << bit), ip, now)


def test_not_from_another_secret_nor_from_the_future_nor_invented() -> None:
    assert not IDS.is_valid(ConnectionIds(b"t" * 32).issue("8.8.8.8", 5.0), "8.8.8.8", 5.0)
    assert not IDS.is_valid(IDS.issue("8.8.8.8", 10.0), "8.8.8.8", 9.0)
    for invented in (0, 0x41727101980, 2**64 - 1, 119 << 48):
        assert not IDS.is_valid(invented, "8.8.8.8", 0.0)
