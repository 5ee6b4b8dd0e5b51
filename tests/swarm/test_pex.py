"""Peer exchange: cadence and amounts on their bounds, and against a model that keeps what the other side knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import PeerError
from btor.limits import PEX_MESSAGES, PEX_PERIOD, PEX_SENT
from btor.swarm.pex import PexPace, PexTeller
from btor.wire.address import Address


def peers(count: int, first: int = 0) -> dict[Address, int]:
    return {("192.0.2.1", 1_000 + number): number & 0xFF for number in range(first, first + count)}


def test_the_first_message_comes_as_soon_as_there_is_something_to_tell() -> None:
    teller = PexTeller()
    assert teller.is_due(0.0)
    assert teller.take({}, 0.0) is None
    message = teller.take(peers(3), 1.0)
    assert message is not None
    assert dict(message.added) == peers(3) and message.dropped == ()
    assert not teller.is_due(1.0)


def test_a_minute_lies_between_two_messages() -> None:
    teller = PexTeller()
    teller.take(peers(1), 0.0)
    assert teller.take(peers(2), PEX_PERIOD - 0.001) is None
    message = teller.take(peers(2), PEX_PERIOD)
    assert message is not None
    assert dict(message.added) == peers(1, 1)
    assert teller.take(peers(2), 3 * PEX_PERIOD) is None


def test_who_is_gone_is_dropped() -> None:
    teller = PexTeller()
    teller.take(peers(3), 0.0)
    message = teller.take(peers(1), PEX_PERIOD)
    assert message is not None
    assert message.added == () and set(message.dropped) == set(peers(2, 1))
    message = teller.take(peers(2), 2 * PEX_PERIOD)
    assert message is not None
    assert dict(message.added) == peers(1, 1)


def test_what_does_not_fit_comes_later() -> None:
    teller = PexTeller()
    everybody = peers(PEX_SENT + 1)
    first, second = teller.take(everybody, 0.0), teller.take(everybody, PEX_PERIOD)
    assert first is not None and second is not None
    assert (len(first.added), len(second.added)) == (PEX_SENT, 1)
    third, fourth = teller.take({}, 2 * PEX_PERIOD), teller.take({}, 3 * PEX_PERIOD)
    assert third is not None and fourth is not None
    assert (len(third.dropped), len(fourth.dropped)) == (PEX_SENT, 1)


@given(st.lists(st.sets(st.integers(0, 120), max_size=110), max_size=12))
def test_the_other_side_comes_to_know_what_is_so(rounds: list[set[int]]) -> None:
    teller = PexTeller()
    known: set[Address] = set()
    now = 0.0
    connected: dict[Address, int] = {}
    for number, ports in enumerate([*rounds, *[rounds[-1] if rounds else set()] * 5]):
        connected = {("192.0.2.9", 1 + port): number & 0xFF for port in ports}
        message = teller.take(connected, now)
        if message is not None:
            added = {address for address, _ in message.added}
            assert not added & set(message.dropped) and not added & known and set(message.dropped) <= known
            known = (known | added) - set(message.dropped)
        now += PEX_PERIOD
    assert known == set(connected)


def test_a_peer_may_tell_so_often_and_no_oftener() -> None:
    pace = PexPace()
    for _ in range(PEX_MESSAGES):
        pace.on_message(10.0)
    with pytest.raises(PeerError):
        pace.on_message(10.0 + PEX_PERIOD - 0.001)
    pace.on_message(10.0 + PEX_PERIOD)
