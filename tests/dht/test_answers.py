"""What a node answers to each question, and what it refuses."""

from __future__ import annotations

import random

import pytest

from btor import limits
from btor.dht.answers import Answers
from btor.dht.bloom import filter_of
from btor.dht.routing import Table
from btor.wire import krpc
from btor.wire.address import Address, pack_address
from btor.wire.krpc import WANT4, WANT6, Failure, Message, Query, Reply, encode_message
from tests.dht.build import contact, global_ip, local

OWN, ASKER, HASH = b"o" * 20, b"a" * 20, b"h" * 20
FROM: Address = ("5.6.7.8", 4321)
IP = pack_address(FROM)


class Half:
    """The serving half of a node, with ten nodes of each family in its tables."""

    def __init__(self, *, ipv6: bool = False) -> None:
        self.answers = Answers(random.Random(1), 0.0, ipv6=ipv6, loopback_is_public=False)
        self.tables = {WANT4: Table(OWN), WANT6: Table(OWN)}
        for number in range(10):
            self.tables[WANT4].on_reply(local(number, number << 100), 0.0)
            self.tables[WANT6].on_reply(contact("::1", number << 100, port=number + 1), 0.0)

    def answer(self, query: Query, address: Address = FROM, now: float = 0.0) -> Message:
        return self.answers.answer(OWN, self.tables, query, address, now)

    def reply(self, query: Query, address: Address = FROM, now: float = 0.0) -> Reply:
        found = self.answer(query, address, now)
        assert isinstance(found, Reply)
        assert len(encode_message(found)) <= limits.DHT_ANSWER
        return found

    def announce(
        self, port: int = 6881, *, token: bytes | None = None, address: Address = FROM, **flags: bool
    ) -> Message:
        if token is None:
            token = self.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH), address).token
        return self.answer(Query(b"aa", krpc.ANNOUNCE_PEER, ASKER, HASH, 0, token, port, **flags), address)


def test_ping() -> None:
    assert Half().answer(Query(b"aa", krpc.PING, ASKER)) == Reply(b"aa", OWN, IP)


def test_find_node() -> None:
    half, target = Half(), (3 << 100).to_bytes(20)
    found = half.reply(Query(b"aa", krpc.FIND_NODE, ASKER, target))
    expected = b"".join(node.compact for node in half.tables[WANT4].closest(3 << 100))
    assert found == Reply(b"aa", OWN, IP, expected)
    assert len(expected) == limits.DHT_BUCKET * 26


@pytest.mark.parametrize(
    ("ipv6", "want", "four", "six"),
    [
        (False, 0, True, False),
        (True, 0, False, True),
        (False, WANT4, True, False),
        (False, WANT6, False, True),
        (True, WANT4 | WANT6, True, True),
    ],
)
def test_families(ipv6: bool, want: int, four: bool, six: bool) -> None:
    address = ("2001:db9::1", 1) if ipv6 else FROM
    found = Half(ipv6=ipv6).reply(Query(b"aa", krpc.FIND_NODE, ASKER, HASH, want), address)
    assert (found.nodes is not None, found.nodes6 is not None) == (four, six)


def test_a_node_without_a_sibling_knows_one_family() -> None:
    half = Half()
    del half.tables[WANT6]
    found = half.reply(Query(b"aa", krpc.FIND_NODE, ASKER, HASH, WANT4 | WANT6))
    assert found.nodes
    assert found.nodes6 is None


def test_unknown_methods() -> None:
    half = Half()
    known = half.reply(Query(b"aa", krpc.FIND_NODE, ASKER, HASH))
    assert half.answer(Query(b"aa", b"get", ASKER, HASH)) == known
    assert half.answer(Query(b"aa", b"put", ASKER)) == Failure(b"aa", 204, b"Method Unknown", IP)


def test_announced_peers_are_found() -> None:
    half = Half()
    before = half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH))
    assert before.values == ()
    assert before.nodes
    assert half.announce(6881) == Reply(b"aa", OWN, IP)
    found = half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH))
    assert found.values == (pack_address(("5.6.7.8", 6881)),)
    assert found.nodes
    assert found.token


def test_the_port_of_the_datagram() -> None:
    half = Half()
    half.announce(1, implied_port=True)
    assert half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH)).values == (IP,)


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_D3_storage_ports(port: int) -> None:
    half = Half()
    assert half.announce(port) == Failure(b"aa", 203, b"Bad Port", IP)
    assert half.announce(65535) == Reply(b"aa", OWN, IP)
    assert half.answers.store.peers == 1


def test_D3_storage_tokens() -> None:
    """Foreign or old: 203, and nothing is stored."""
    half = Half()
    bad = Failure(b"aa", 203, b"Bad Token", IP)
    foreign = half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH), ("5.6.7.9", 1)).token
    own = half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH)).token
    assert half.announce(token=foreign) == bad
    assert half.announce(token=b"") == bad
    query = Query(b"aa", krpc.ANNOUNCE_PEER, ASKER, HASH, 0, own, 1)
    assert half.answer(query, now=2 * limits.DHT_TOKEN_ROTATION) == bad
    assert half.answers.store.peers == 0


def test_seeds_and_scrapes() -> None:
    half = Half()
    half.announce(1, seed=True)
    half.announce(2, address=("5.6.9.9", 7))
    scraped = half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH, scrape=True))
    assert (scraped.seeds, scraped.peers) == (filter_of([IP[:4]]), filter_of([pack_address(("5.6.9.9", 7))[:4]]))
    assert len(half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH)).values) == 2
    assert half.reply(Query(b"aa", krpc.GET_PEERS, ASKER, HASH, noseed=True)).values == (pack_address(("5.6.9.9", 2)),)


@pytest.mark.parametrize("scrape", [False, True])
@pytest.mark.parametrize("ipv6", [False, True])
def test_answers_fit_one_packet(ipv6: bool, scrape: bool) -> None:
    half = Half(ipv6=ipv6)
    for number in range(300):
        ip = f"2001:db9::{number:x}" if ipv6 else global_ip(number)
        half.answers.store.add(HASH, pack_address((ip, 1)), False, 0.0)
    asker = ("2001:db9::1", 1) if ipv6 else FROM
    query = Query(b"t" * 16, krpc.GET_PEERS, ASKER, HASH, WANT4 | WANT6, scrape=scrape)
    found = half.reply(query, asker)
    if not scrape:
        assert len(encode_message(found)) > limits.DHT_ANSWER - 120
        assert found.values


def test_samples() -> None:
    half = Half()
    half.announce()
    found = half.reply(Query(b"aa", krpc.SAMPLE_INFOHASHES, ASKER, b"t" * 20))
    assert (found.samples, found.num, found.interval) == (HASH, 1, limits.DHT_SAMPLE_INTERVAL)
    assert found.nodes
