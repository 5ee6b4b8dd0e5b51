"""Which address we have: by the word of several networks."""

from __future__ import annotations

from btor.limits import OWN_IP_VOTES, OWN_IP_VOTES_NEEDED
from btor.swarm.own_ips import OwnIps

OWN, OTHER = "93.184.216.34", "93.184.216.35"


def test_it_takes_the_word_of_several_networks() -> None:
    own = OwnIps()
    for voter in range(OWN_IP_VOTES_NEEDED):
        assert own.of_family("8.8.8.8") is None
        own.on_vote(f"8.8.{voter}.1", OWN)
        own.on_vote(f"8.8.{voter}.2", OWN)  # of the same network
    assert own.of_family("8.8.8.8") == OWN
    assert own.of_family("2600::1") is None


def test_the_families_do_not_mix() -> None:
    own = OwnIps()
    for voter in range(OWN_IP_VOTES_NEEDED):
        own.on_vote(f"2600:{voter}::1", "2600:9::9")
        own.on_vote(f"8.8.{voter}.1", OWN)
    assert own.of_family("2600::1") == "2600:9::9" and own.of_family("1.1.1.1") == OWN


def test_who_changes_its_word_has_one_vote() -> None:
    own = OwnIps()
    for voter in range(OWN_IP_VOTES_NEEDED):
        own.on_vote(f"8.8.{voter}.1", OWN)
        own.on_vote(f"8.8.{voter}.1", OTHER)
    assert own.of_family("8.8.8.8") == OTHER


def test_what_is_not_seen_from_the_internet_does_not_count() -> None:
    own = OwnIps()
    for voter in range(OWN_IP_VOTES_NEEDED + 1):
        own.on_vote(f"10.0.{voter}.1", OWN)
        own.on_vote(f"8.8.{voter}.1", "192.168.1.5")
        own.on_vote("8.8.8.8", "127.0.0.1")
    assert own.of_family("8.8.8.8") is None


def test_the_oldest_word_is_forgotten() -> None:
    own = OwnIps()
    for voter in range(OWN_IP_VOTES_NEEDED):
        own.on_vote(f"8.8.{voter}.1", OWN)
    for voter in range(OWN_IP_VOTES - OWN_IP_VOTES_NEEDED):
        own.on_vote(f"9.{voter}.0.1", f"1.1.1.{voter}")
    assert own.of_family("8.8.8.8") == OWN
    own.on_vote("9.200.0.1", "1.1.2.1")
    assert own.of_family("8.8.8.8") is None
