"""Which address others see us at (BEP 42)."""

from __future__ import annotations

from btor import limits
from btor.dht.votes import Votes
from tests.dht.build import contact, global_ip

WE, OTHER = b"\x05\x06\x07\x08", b"\x09\x09\x09\x09"


def test_it_takes_several_networks() -> None:
    votes = Votes()
    for number in range(limits.DHT_VOTES_NEEDED - 1):
        assert not votes.add(contact(global_ip(number)), WE)
    assert not votes.add(contact("5.0.0.77"), WE)  # a neighbour of the first voter
    assert votes.address is None
    assert votes.add(contact(global_ip(99)), WE)
    assert votes.address == WE
    assert not votes.add(contact(global_ip(100)), WE)


def test_it_takes_two_thirds() -> None:
    votes = Votes()
    for number in range(4):
        votes.add(contact(global_ip(number)), OTHER)
    changed = [votes.add(contact(global_ip(100 + number)), WE) for number in range(9)]
    assert changed == [False] * 7 + [True, False]
    assert votes.address == WE


def test_a_voter_may_change_its_mind() -> None:
    votes = Votes()
    for number in range(5):
        votes.add(contact(global_ip(number)), WE)
    changed = [votes.add(contact(global_ip(number)), OTHER) for number in range(5)]
    assert changed == [False, False, False, False, True]


def test_loopback_does_not_count() -> None:
    votes = Votes()
    for number in range(9):
        assert not votes.add(contact("127.0.0.1", port=number + 1), WE)
    assert votes.address is None


def test_the_oldest_vote_makes_room() -> None:
    votes = Votes()
    for number in range(limits.DHT_VOTES):
        votes.add(contact(global_ip(number)), WE)
    changed = [votes.add(contact(global_ip(1000 + number)), OTHER) for number in range(limits.DHT_VOTES)]
    assert changed.index(True) == 42  # 43 of 64 are two thirds
