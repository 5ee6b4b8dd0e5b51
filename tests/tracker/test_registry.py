"""The registry: who is told of whom, who is forgotten, and the bounds."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from btor import limits
from btor.tracker.registry import Answer, Bounds, RefusedError, Registry
from btor.wire.address import Address
from btor.wire.tracker_http import AnnounceRequest, ScrapeEntry

INFO_HASH = b"i" * 20
INTERVAL = 100.0


def made(**bounds: int) -> Registry:
    return Registry(random.Random(7), interval=INTERVAL, bounds=Bounds(**bounds) if bounds else None)


def announce(
    registry: Registry, ip: str = "8.8.8.8", port: int = 6881, *, now: float = 0.0, most: int = 200, **fields: Any
) -> Answer:
    family = fields.pop("family", None)
    values: dict[str, Any] = {"info_hash": INFO_HASH, "peer_id": f"{ip}:{port}".encode().ljust(20), "left": 1} | fields
    request = AnnounceRequest(port=port, uploaded=0, downloaded=0, **values)
    answer = registry.announce(request, ip, now, most=most, family=family)
    registry.check_invariants()
    return answer


def peers(answer: Answer) -> set[Address]:
    assert len(set(answer.reply.peers)) == len(answer.reply.peers)
    assert set(answer.peer_ids) == set(answer.reply.peers)
    return set(answer.reply.peers)


def figures(registry: Registry, now: float = 0.0, info_hash: bytes = INFO_HASH) -> ScrapeEntry | None:
    return registry.scrape(info_hash, now)


def test_peers_are_told_of_each_other_and_not_of_themselves() -> None:
    registry = made()
    assert peers(announce(registry, "8.8.8.8")) == set()
    assert peers(announce(registry, "9.9.9.9")) == {("8.8.8.8", 6881)}
    assert peers(announce(registry, "8.8.8.8")) == {("9.9.9.9", 6881)}
    assert peers(announce(registry, "8.8.8.8", info_hash=b"other" * 4)) == set()


def test_reply_fields() -> None:
    registry = made()
    announce(registry, "9.9.9.9", left=0, event="completed", peer_id=b"a" * 20)
    answer = announce(registry, "8.8.8.8")
    reply = answer.reply
    assert (reply.interval, reply.seeders, reply.leechers, reply.downloaded) == (100, 1, 1, 1)
    assert reply.external_ip == "8.8.8.8"
    assert answer.peer_ids == {("9.9.9.9", 6881): b"a" * 20}
    assert announce(registry, "127.0.0.1").reply.external_ip is None
    assert announce(registry, "10.0.0.1").reply.external_ip is None


def test_started_completed_stopped() -> None:
    registry = made()
    assert figures(registry) is None
    announce(registry, event="started")
    assert figures(registry) == ScrapeEntry(0, 1, 0)
    announce(registry, event="completed", left=0)
    assert figures(registry) == ScrapeEntry(1, 0, 1)
    announce(registry, event="completed", left=0)  # a repeated packet
    assert figures(registry) == ScrapeEntry(1, 0, 1)
    announce(registry, "9.9.9.9", left=0, event="started")  # a seed from the start has downloaded nothing
    assert figures(registry) == ScrapeEntry(2, 0, 1)
    answer = announce(registry, event="stopped", left=0)
    assert answer.reply.peers == []
    assert figures(registry) == ScrapeEntry(1, 0, 1)


def test_stopped_of_the_unknown_leaves_no_trace() -> None:
    registry = made()
    assert announce(registry, event="stopped").reply.peers == []
    assert figures(registry) is None
    announce(registry, "9.9.9.9")
    announce(registry, event="stopped")
    assert figures(registry) == ScrapeEntry(0, 1, 0)


def test_stopped_counts_only_from_the_peer_itself() -> None:
    registry = made()
    announce(registry, peer_id=b"new" + b"x" * 17)
    announce(registry, peer_id=b"old" + b"x" * 17, event="stopped")
    assert figures(registry) == ScrapeEntry(0, 1, 0)
    announce(registry, peer_id=b"new" + b"x" * 17, event="stopped")
    assert figures(registry) == ScrapeEntry(0, 0, 0)


def test_a_restarted_peer_takes_its_own_place() -> None:
    registry = made()
    announce(registry, peer_id=b"a" * 20, left=0)
    announce(registry, peer_id=b"b" * 20)
    assert figures(registry) == ScrapeEntry(0, 1, 0)
    assert announce(registry, "9.9.9.9").peer_ids == {("8.8.8.8", 6881): b"b" * 20}


def test_loopback_tells_peers_apart_by_port_and_peer_id() -> None:
    registry = made()
    for port in (1, 2):
        announce(registry, "127.0.0.1", port)
    announce(registry, "127.0.0.1", 2, peer_id=b"other".ljust(20))
    assert figures(registry) == ScrapeEntry(0, 3, 0)
    assert peers(announce(registry, "127.0.0.1", 3)) == {("127.0.0.1", 1), ("127.0.0.1", 2)}
    assert peers(announce(registry, "127.0.0.1", 2)) == {("127.0.0.1", 1), ("127.0.0.1", 3)}
    announce(registry, "127.0.0.1", 2, event="stopped", peer_id=b"other".ljust(20))
    assert figures(registry) == ScrapeEntry(0, 3, 0)


def test_a_peer_of_both_families_is_not_told_of_itself() -> None:
    registry = made()
    announce(registry, "2001:db8::1", peer_id=b"a" * 20)
    assert peers(announce(registry, "8.8.8.8", peer_id=b"a" * 20)) == set()
    assert peers(announce(registry, "9.9.9.9")) == {("2001:db8::1", 6881), ("8.8.8.8", 6881)}


def test_families() -> None:
    registry = made()
    announce(registry, "2001:db8::1")
    announce(registry, "8.8.8.8")
    assert peers(announce(registry, "9.9.9.9", family=4)) == {("8.8.8.8", 6881)}
    assert peers(announce(registry, "9.9.9.9", family=6)) == {("2001:db8::1", 6881)}
    assert peers(announce(registry, "9.9.9.9")) == {("8.8.8.8", 6881), ("2001:db8::1", 6881)}


@pytest.mark.parametrize(
    ("asker", "told"),
    [
        ("127.0.0.1", {"8.8.8.8", "10.0.0.1", "127.0.0.2", "::1", "fd00::1", "2001:db8::1"}),
        ("::1", {"8.8.8.8", "10.0.0.1", "127.0.0.2", "fd00::1", "2001:db8::1"}),
        ("192.168.0.1", {"8.8.8.8", "10.0.0.1", "fd00::1", "2001:db8::1"}),
        ("9.9.9.9", {"8.8.8.8", "2001:db8::1"}),
        ("fe80::9", {"8.8.8.8", "2001:db8::1", "fe80::1"}),
    ],
)
def test_nobody_is_told_of_addresses_that_it_cannot_reach(asker: str, told: set[str]) -> None:
    registry = made()
    for ip in ("8.8.8.8", "10.0.0.1", "127.0.0.2", "::1", "fd00::1", "2001:db8::1", "fe80::1"):
        announce(registry, ip)
    assert {ip for ip, _ in announce(registry, asker).reply.peers} == told


@pytest.mark.parametrize(
    ("numwant", "most", "expected"),
    [(-1, 200, 50), (-7, 200, 50), (0, 200, 0), (7, 200, 7), (1000, 200, 200), (1000, 67, 67), (-1, 20, 20)],
)
def test_numwant(numwant: int, most: int, expected: int) -> None:
    registry = made()
    for port in range(1, 300):
        announce(registry, port=port)
    answer = announce(registry, "9.9.9.9", numwant=numwant, most=most)
    assert len(peers(answer)) == expected


def test_the_choice_is_random() -> None:
    registry = made()
    for port in range(1, 101):
        announce(registry, port=port, left=port % 2)
    told: set[Address] = set()
    for _ in range(40):
        told |= peers(announce(registry, "9.9.9.9", numwant=10))
    assert len(told) >= 90


def test_a_seed_is_told_of_leechers_first() -> None:
    registry = made()
    for port in range(1, 11):
        announce(registry, port=port, left=0 if port > 4 else 9)
    leechers = {("8.8.8.8", port) for port in range(1, 5)}
    assert peers(announce(registry, "9.9.9.9", left=0, numwant=3)) < leechers
    assert peers(announce(registry, "9.9.9.9", left=0, numwant=4)) == leechers
    six = peers(announce(registry, "9.9.9.9", left=0, numwant=6))
    assert leechers < six
    assert len(six) == 6
    assert len(peers(announce(registry, "9.9.9.9", left=0))) == 10


# --- forgetting ----------------------------------------------------------------------------------------------


def test_silent_peers_are_forgotten_after_two_intervals() -> None:
    registry = made()
    announce(registry, "8.8.8.8", now=0.0)
    announce(registry, "9.9.9.9", now=1.0, left=0)
    life = limits.TRACKED_SILENCE * INTERVAL
    assert figures(registry, life) == ScrapeEntry(1, 1, 0)
    assert figures(registry, life + 0.5) == ScrapeEntry(1, 0, 0)
    assert peers(announce(registry, "7.7.7.7", now=life + 1)) == {("9.9.9.9", 6881)}
    assert peers(announce(registry, "7.7.7.7", now=life + 1.5)) == set()


def test_an_announce_renews() -> None:
    registry = made()
    announce(registry, "8.8.8.8", now=0.0)
    announce(registry, "9.9.9.9", now=1.0)
    announce(registry, "8.8.8.8", now=150.0)
    registry.expire(210.0)
    registry.check_invariants()
    assert peers(announce(registry, "7.7.7.7", now=210.0)) == {("8.8.8.8", 6881)}


def test_expire_forgets_torrents() -> None:
    registry = made()
    announce(registry, "8.8.8.8", now=0.0)
    announce(registry, "9.9.9.9", now=50.0, info_hash=b"other" * 4)
    registry.expire(200.0)
    assert registry.totals() == {"torrents": 2, "peers": 2, "seeders": 0, "leechers": 2}
    registry.expire(200.5)
    assert registry.totals() == {"torrents": 1, "peers": 1, "seeders": 0, "leechers": 1}
    assert figures(registry, 200.5) is None
    registry.expire(1e6)
    assert registry.totals() == {"torrents": 0, "peers": 0, "seeders": 0, "leechers": 0}


# --- bounds --------------------------------------------------------------------------------------------------


def test_bound_of_peers_per_torrent_drops_the_oldest() -> None:
    registry = made(peers_per_torrent=3)
    for port in (1, 2, 3):
        announce(registry, port=port)
    announce(registry, port=1)  # on the bound, and renewed
    assert figures(registry) == ScrapeEntry(0, 3, 0)
    announce(registry, port=4)
    assert peers(announce(registry, "9.9.9.9", event="stopped")) == set()
    registry_peers = announce(registry, "8.8.8.8", 1).reply.peers
    assert set(registry_peers) == {("8.8.8.8", 3), ("8.8.8.8", 4)}


def test_bound_of_peers_refuses_newcomers_until_somebody_goes() -> None:
    registry = made(peers=2)
    announce(registry, port=1, now=0.0)
    announce(registry, port=2, now=100.0, info_hash=b"other" * 4)
    announce(registry, port=2, now=100.0, info_hash=b"other" * 4)
    for info_hash in (INFO_HASH, b"other" * 4, b"third" * 4):
        with pytest.raises(RefusedError, match="peers") as caught:
            announce(registry, port=3, now=200.0, info_hash=info_hash)
        assert caught.value.retry_after == INTERVAL
    assert figures(registry, 200.0, b"third" * 4) is None
    announce(registry, port=3, now=201.0)  # the first has been silent for too long
    assert registry.totals()["peers"] == 2


def test_bound_of_peers_and_a_torrent_that_is_full_itself() -> None:
    registry = made(peers=2, peers_per_torrent=1)
    announce(registry, port=1)
    announce(registry, port=1, info_hash=b"other" * 4)
    announce(registry, port=2)
    assert registry.totals()["peers"] == 2


def test_bound_of_torrents() -> None:
    registry = made(torrents=2)
    announce(registry, info_hash=b"1" * 20, now=0.0)
    announce(registry, info_hash=b"2" * 20, now=1.0)
    with pytest.raises(RefusedError, match="torrents"):
        announce(registry, info_hash=b"3" * 20, now=2.0)
    announce(registry, info_hash=b"2" * 20, now=3.0, event="stopped")  # an empty one makes room
    announce(registry, info_hash=b"3" * 20, now=4.0)
    assert figures(registry, 4.0, b"2" * 20) is None
    announce(registry, info_hash=b"4" * 20, now=201.0)  # and so does a silent one
    assert figures(registry, 201.0, b"1" * 20) is None


def test_a_silent_torrent_that_comes_back_into_a_full_tracker() -> None:
    registry = made(torrents=1, peers=1)
    announce(registry, now=0.0)
    announce(registry, "9.9.9.9", now=1_000.0)
    assert figures(registry, 1_000.0) == ScrapeEntry(0, 1, 0)


# --- against a naive model -----------------------------------------------------------------------------------

IPS = ["8.8.8.8", "9.9.9.9", "10.0.0.1", "127.0.0.1", "::1", "2001:db8::1"]


class RegistryMachine(RuleBasedStateMachine):
    """Against a list that is searched from end to end."""

    @initialize()
    def start(self) -> None:
        self.registry = made(torrents=3, peers=6, peers_per_torrent=4)
        self.now = 0.0
        self.seen: dict[tuple[bytes, str, int, bytes], tuple[float, bool]] = {}

    @rule(
        info_hash=st.sampled_from([b"a" * 20, b"b" * 20, b"c" * 20, b"d" * 20]),
        ip=st.sampled_from(IPS),
        port=st.integers(1, 3),
        peer_id=st.sampled_from([b"x" * 20, b"y" * 20]),
        left=st.integers(0, 1),
        event=st.sampled_from(["", "started", "completed", "stopped"]),
        numwant=st.integers(-1, 5),
    )
    def announce(
        self, info_hash: bytes, ip: str, port: int, peer_id: bytes, left: int, event: Any, numwant: int
    ) -> None:
        request = AnnounceRequest(
            info_hash=info_hash,
            peer_id=peer_id,
            port=port,
            uploaded=0,
            downloaded=0,
            left=left,
            event=event,
            numwant=numwant,
        )
        try:
            answer = self.registry.announce(request, ip, self.now)
        except RefusedError:
            return
        key = (info_hash, ip, port, peer_id)
        if event == "stopped":
            self.seen.pop(key, None)
        else:
            self.seen[key] = (self.now, left == 0)
        for address in answer.reply.peers:
            assert address != (ip, port)
            told = (info_hash, *address, answer.peer_ids[address])
            assert told in self.seen
            assert self.seen[told][0] >= self.now - 2 * INTERVAL
        assert len(answer.reply.peers) <= (50 if numwant < 0 else numwant)

    @rule(seconds=st.sampled_from([0.0, 1.0, 50.0, 150.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.registry.expire(self.now)
        alive = sum(seen >= self.now - 2 * INTERVAL for seen, _ in self.seen.values())
        assert self.registry.totals()["peers"] <= alive

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "registry"):
            self.registry.check_invariants()


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
