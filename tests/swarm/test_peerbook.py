"""The book of peers: rules one by one, every bound, then random histories against a naive model."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from btor.limits import (
    BANS,
    BANS_KEPT,
    DIAL_FAILURES,
    DIAL_RETRY,
    DIAL_RETRY_USER_MAX,
    DIALS_PER_ADDRESS,
    DIALS_PER_SECOND,
    HALF_OPEN,
    OWN_ADDRESSES,
    PEER_LIST,
    PEER_LIST_PAUSED,
    PEER_SHARE_OF_LIST,
    RECONNECT,
    SEEDS_APART,
    TRUSTED_AFTER_HANDSHAKE,
    WEED_PERIOD,
)
from btor.swarm.bans import Bans
from btor.swarm.dial_budget import DialBudget
from btor.swarm.peerbook import RANK, STALE_TICKETS, PeerBook, PeerSource
from btor.swarm.priority import peer_priority
from btor.wire.address import Address

A: Address = ("9.0.0.1", 6881)
B: Address = ("9.0.1.1", 6881)
C: Address = ("9.0.2.1", 6881)
LOOP: Address = ("127.0.0.1", 7001)
LOOP2: Address = ("127.0.0.1", 7002)
FROM: Address = ("127.0.0.1", 50_001)  # the remote end of an incoming connection
ME = "127.0.0.1"


def book(**options: int | bool) -> PeerBook:
    return PeerBook(random.Random(3), **options)  # type: ignore[arg-type]  # a table of keyword arguments


def public(index: int, port: int = 6881) -> Address:
    """An address of its own network."""
    return (f"{11 + index // 60_000}.{index // 250 % 240}.{index % 250}.1", port)


def dial(peers: PeerBook, now: float) -> Address | None:
    address = peers.next_to_dial(now)
    if address is not None:
        peers.on_dialled(address, now)
    peers.check_invariants()
    return address


def connect(peers: PeerBook, address: Address, now: float) -> None:
    peers.on_dialled(address, now)
    peers.on_connected(address, now)
    peers.check_invariants()


def drain(peers: PeerBook, now: float) -> list[Address]:
    found = []
    while (address := dial(peers, now)) is not None:
        found.append(address)
    return found


# --- what gets in ----------------------------------------------------------------------------------------------------


def test_empty() -> None:
    peers = book()
    assert len(peers) == 0
    assert peers.next_to_dial(0.0) is None
    assert not peers.is_connected(A)
    assert not peers.is_banned(A)


@pytest.mark.parametrize(
    ("address", "source", "from_ip", "known"),
    [
        (A, "tracker", None, True),
        (A, "pex", "9.9.9.9", True),
        (("9.0.0.1", 0), "user", None, False),
        (("0.1.2.3", 6881), "user", None, False),
        (("224.0.0.1", 6881), "user", None, False),
        (("9.0.0.1", 22), "tracker", None, False),
        (("9.0.0.1", 22), "user", None, True),
        (LOOP, "tracker", "9.9.9.9", False),
        (LOOP, "tracker", "127.0.0.1", True),
        (LOOP, "pex", "127.0.0.1", True),
        (LOOP, "user", None, True),
        (("10.0.0.1", 6881), "dht", "9.9.9.9", False),
        (("10.0.0.1", 6881), "lsd", "192.168.0.7", True),
    ],
)
def test_P11_dialling_rules(address: Address, source: PeerSource, from_ip: str | None, known: bool) -> None:
    peers = book()
    assert peers.add(address, source, 0.0, from_ip=from_ip) is known
    assert (dial(peers, 0.0) == address) is known


def test_add_all_counts() -> None:
    peers = book()
    assert peers.add_all([A, B, ("9.9.9.9", 0), A], "tracker", 0.0) == 3
    assert len(peers) == 2


def test_P8_one_entry_per_address() -> None:
    peers = book()
    for port in range(1024, 1124):
        assert peers.add(("9.0.0.1", port), "pex", 0.0, from_ip="9.9.9.9")
    assert len(peers) == 1
    assert drain(peers, 0.0) == [("9.0.0.1", 1024)]


def test_P8_on_loopback_a_peer_is_address_and_port() -> None:
    peers = book()
    for port in range(7000, 7100):
        assert peers.add((ME, port), "tracker", 0.0, from_ip=ME)
    assert len(peers) == 100
    assert len(set(drain(peers, 0.0))) == 100


def test_P8_loopback_is_public() -> None:
    peers = book(loopback_is_public=True)
    for port in range(7000, 7100):
        assert peers.add((ME, port), "tracker", 0.0, from_ip=ME)
    assert len(peers) == 1
    connect(peers, (ME, 7000), 0.0)
    assert peers.is_connected((ME, 55_555))


def test_a_new_port_replaces_one_that_failed_or_came_from_a_lesser_source() -> None:
    peers = book()
    peers.add(A, "pex", 0.0, from_ip="9.9.9.9")
    peers.add((A[0], 7000), "pex", 0.0, from_ip="9.9.9.9")
    assert peers.next_to_dial(0.0) == A
    peers.add((A[0], 7000), "tracker", 0.0)
    assert dial(peers, 0.0) == (A[0], 7000)
    peers.on_failed((A[0], 7000), 0.0)
    peers.add((A[0], 7001), "dht", 1.0)
    assert dial(peers, 1.0 + 2 * DIAL_RETRY) == (A[0], 7001)


# --- the order -------------------------------------------------------------------------------------------------------


def test_order_by_source() -> None:
    peers = book()
    sources: list[PeerSource] = ["pex", "dht", "user", "lsd", "tracker"]
    for index, source in enumerate(sources):
        peers.add(public(index), source, 0.0)
    assert drain(peers, 0.0) == [public(2), public(4), public(3), public(1), public(0)]


def test_fewest_failures_come_before_the_source() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    assert dial(peers, 0.0) == A
    peers.on_failed(A, 0.0)
    peers.add(B, "pex", 0.0, from_ip="9.9.9.9")
    assert drain(peers, 1000.0) == [B, A]


def test_the_oldest_contact_comes_first() -> None:
    peers = book()
    order = [public(index) for index in (3, 1, 2, 0)]
    for when, address in enumerate(order):
        peers.add(address, "tracker", 0.0)
        peers.on_dialled(address, float(when))
        peers.on_failed(address, float(when))
    peers.add(public(9), "tracker", 0.0)
    peers.on_dialled(public(9), 5.0)
    peers.on_failed(public(9), 5.0)
    assert drain(peers, 1000.0) == [*order, public(9)]


def test_ties_are_broken_by_lot() -> None:
    firsts = set()
    for seed in range(40):
        peers = PeerBook(random.Random(seed))
        peers.add_all([A, B, C], "tracker", 0.0)
        firsts.add(peers.next_to_dial(0.0))
    assert firsts == {A, B, C}


def test_a_better_source_moves_up() -> None:
    peers = book()
    for index in range(20):
        peers.add(public(index), "pex", 0.0, from_ip="9.9.9.9")
    peers.next_to_dial(0.0)
    peers.add(public(7), "tracker", 0.0)
    peers.check_invariants()
    assert peers.next_to_dial(0.0) == public(7)
    peers.add(public(9), "user", 0.0)
    assert drain(peers, 0.0)[:2] == [public(9), public(7)]


# --- again and again -------------------------------------------------------------------------------------------------


def test_failures_wait_longer_and_end() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    now = 0.0
    for fails in range(1, DIAL_FAILURES + 1):
        assert dial(peers, now) == A
        peers.on_failed(A, now)
        if fails < DIAL_FAILURES:
            assert dial(peers, now + (fails + 1) * DIAL_RETRY - 0.1) is None
            now += (fails + 1) * DIAL_RETRY
    assert dial(peers, now + 1e6) is None
    assert len(peers) == 1


def test_a_dial_that_could_not_be_tried_is_no_failure() -> None:
    peers = book()
    peers.add(A, "tracker", 0)
    for now in range(0, 100, 5):
        assert dial(peers, now) == A
        peers.on_not_tried(A, now)
        assert dial(peers, now + RECONNECT - 0.1) is None
    peers.on_connected(A, 100)
    peers.on_not_tried(A, 100)
    assert dial(peers, 200) is None
    peers.on_not_tried(B, 200)
    assert not peers.knows(B)


def test_when_nobody_answers_those_who_once_did_are_tried_in_turn() -> None:
    peers, budget = book(), DialBudget()
    for address, now in ((A, 0), (B, 1)):
        peers.add(address, "tracker", 0)
        connect(peers, address, now)
    peers.add(C, "tracker", 0)
    assert peers.next_to_probe(5, budget) is None  # both are connected, and the third never was
    for address in (B, A):
        peers.on_closed(address, 10, False)
    probed = []
    for now in range(20, 2_000, 30):
        probe = peers.next_to_probe(now, budget)
        assert probe is not None
        peers.on_dialled(probe, now)
        assert peers.next_to_probe(now, budget) != probe
        peers.on_failed(probe, now + 1)
        peers.check_invariants()
        probed.append(probe)
    assert set(itertools.pairwise(probed)) == {(A, B), (B, A)}  # also after they were given up
    for now in (2_000, 2_001, 2_002):
        budget.on_dialled(A[0], now)
        budget.on_dialled(B[0], now)
    assert peers.next_to_probe(2_003, budget) is None
    peers.ban(A)
    peers.bans.add(B)
    assert peers.next_to_probe(9_000, budget) is None


def test_a_visitor_is_not_tried_for_it_said_no_port() -> None:
    peers = book()
    peers.on_connected(FROM, 0)
    assert peers.next_to_probe(10, DialBudget()) is None


def test_half_open_connections_are_bounded_for_probes_too() -> None:
    peers, budget = book(), DialBudget()
    peers.add(A, "tracker", 0)
    connect(peers, A, 0)
    peers.on_closed(A, 1, True)
    for index in range(HALF_OPEN):
        budget.on_dialled(public(index)[0], index / 10)
    assert peers.next_to_probe(1_000, budget) is None


def test_what_failed_while_the_network_was_gone_is_forgiven_to_those_who_once_answered() -> None:
    peers = book()
    for address in (A, B):
        peers.add(address, "tracker", 0)
    connect(peers, A, 0)
    peers.on_closed(A, 1, False)
    for now in (1_000, 2_000, 3_000):
        while (one := dial(peers, now)) is not None:
            peers.on_failed(one, now)
    assert dial(peers, 9_000) is None
    peers.revive(9_000)
    assert dial(peers, 9_000) == A
    assert dial(peers, 9_000) is None


def test_a_tracker_forgives_one_failure() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    for now in (0.0, 1000.0, 2000.0):
        assert dial(peers, now) == A
        peers.on_failed(A, now)
    peers.add(A, "pex", 3000.0, from_ip="9.9.9.9")
    assert dial(peers, 3000.0) is None
    peers.add(A, "tracker", 3000.0)
    assert dial(peers, 3000.0) == A
    peers.on_failed(A, 3000.0)
    assert dial(peers, 1e6) is None


@pytest.mark.parametrize("address", [A, LOOP])
def test_the_users_peers_and_loopback_are_tried_soon_and_for_ever(address: Address) -> None:
    peers = book()
    peers.add(address, "user" if address is A else "tracker", 0.0, from_ip=ME)
    now = 0.0
    waits = [1.0, 2.0, 4.0, 8.0, 16.0] + [DIAL_RETRY_USER_MAX] * 60
    for wait in waits:
        assert dial(peers, now) == address
        peers.on_failed(address, now)
        assert dial(peers, now + wait - 0.01) is None
        now += wait


def test_the_user_names_one_that_was_given_up() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    for now in (0.0, 1000.0, 2000.0):
        dial(peers, now)
        peers.on_failed(A, now)
    assert peers.add(A, "user", 2001.0)
    assert dial(peers, 2001.0) == A
    peers.on_failed(A, 2001.0)
    assert dial(peers, 2002.0) == A


def test_a_connection_worth_having_is_made_again_soon() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    dial(peers, 0.0)
    peers.on_failed(A, 0.0)
    connect(peers, A, 500.0)
    assert peers.is_connected(A)
    assert peers.is_connected((A[0], 1))
    assert dial(peers, 1000.0) is None
    peers.on_closed(A, 1000.0, True)
    assert not peers.is_connected(A)
    assert dial(peers, 1000.0 + RECONNECT - 0.1) is None
    assert dial(peers, 1000.0 + RECONNECT) == A


def test_a_connection_that_moved_nothing_counts_as_a_failure() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    for attempt in range(DIAL_FAILURES):
        connect(peers, A, attempt * 1000.0)
        peers.on_closed(A, attempt * 1000.0, False)
    assert dial(peers, 1e6) is None


# --- incoming peers --------------------------------------------------------------------------------------------------


def test_an_incoming_peer_is_known_while_it_is_here() -> None:
    peers = book()
    peers.on_connected((A[0], 40_000), 0.0)
    peers.check_invariants()
    assert peers.is_connected(A)
    peers.on_closed((A[0], 40_000), 1.0, True)
    assert len(peers) == 0
    assert dial(peers, 1e6) is None


@pytest.mark.parametrize(("address", "source"), [(A, "user"), (LOOP, "user"), (LOOP, "tracker")])
@pytest.mark.parametrize("moved", [False, True])
def test_where_dials_never_end_a_peer_that_is_complete_as_we_are_waits_long(
    address: Address, source: PeerSource, moved: bool
) -> None:
    peers = book()
    peers.add(address, source, 0, from_ip=ME)
    connect(peers, address, 0)
    for now in (10, 10 + SEEDS_APART):
        peers.on_closed(address, now, moved, sated=True)
        assert dial(peers, now + SEEDS_APART - 0.1) is None
        assert dial(peers, now + SEEDS_APART) == address
        peers.on_connected(address, now + SEEDS_APART)
    peers.on_closed(address, 2000, False)  # it is not complete any more, or not there
    assert dial(peers, 2001) == address


def test_elsewhere_a_peer_that_is_complete_as_we_are_is_given_up() -> None:
    peers = book()
    peers.add(A, "tracker", 0)
    for now in (0, 1000, 2000):
        assert dial(peers, now) == A
        peers.on_connected(A, now)
        peers.on_closed(A, now, True, sated=True)
    assert dial(peers, 10_000) is None


def test_an_incoming_peer_that_a_tracker_knows_is_dialled_when_it_is_gone() -> None:
    peers = book()
    peers.on_connected((A[0], 40_000), 0.0)
    peers.add(A, "tracker", 0.0)
    peers.check_invariants()
    assert dial(peers, 0.0) is None
    peers.on_closed((A[0], 40_000), 1.0, True)
    assert dial(peers, 10.0) == A


def test_an_incoming_peer_says_its_port() -> None:
    peers = book()
    peers.on_connected((A[0], 40_000), 0.0)
    peers.on_listen_port((A[0], 40_000), 6881, 0.0)
    peers.on_closed((A[0], 40_000), 1.0, True)
    assert dial(peers, 10.0) == A
    peers.on_listen_port(A, 7000, 0.0)  # it has one
    assert drain(peers, 1e6) == []


@pytest.mark.parametrize("port", [0, 22])
def test_an_incoming_peer_says_a_port_that_is_not_dialled(port: int) -> None:
    peers = book()
    peers.on_connected(A, 0.0)
    peers.on_listen_port(A, port, 0.0)
    peers.on_closed(A, 1.0, True)
    assert len(peers) == 0


def test_a_listen_port_of_nobody() -> None:
    peers = book()
    peers.on_listen_port(A, 6881, 0.0)
    assert len(peers) == 0


@pytest.mark.parametrize("known", [False, True])
def test_loopback_listen_port_is_the_same_peer(known: bool) -> None:
    peers = book()
    if known:
        peers.add(LOOP, "tracker", 0.0, from_ip=ME)
    peers.on_connected(FROM, 1.0)
    assert not peers.is_connected(LOOP)
    peers.on_listen_port(FROM, LOOP[1], 1.0)
    peers.check_invariants()
    assert len(peers) == 1
    assert peers.is_connected(LOOP)
    assert peers.is_connected(FROM)
    assert dial(peers, 100.0) is None
    peers.on_closed(FROM, 100.0, True)
    peers.check_invariants()
    assert not peers.is_connected(FROM)
    assert dial(peers, 100.0 + RECONNECT) == LOOP


def test_loopback_listen_port_is_that_of_the_connection() -> None:
    peers = book()
    peers.on_connected(FROM, 0.0)
    peers.on_listen_port(FROM, FROM[1], 0.0)
    peers.check_invariants()
    peers.on_closed(FROM, 0.0, True)
    assert dial(peers, 100.0) == FROM


def test_loopback_listen_port_of_somebody_else() -> None:
    peers = book()
    peers.add(LOOP, "tracker", 0.0, from_ip=ME)
    connect(peers, LOOP, 0.0)
    peers.on_connected(FROM, 0.0)
    peers.on_listen_port(FROM, LOOP[1], 0.0)
    peers.check_invariants()
    peers.on_closed(FROM, 1.0, True)
    assert peers.is_connected(LOOP)


def test_a_peer_connects_while_it_is_dialled() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    dial(peers, 0.0)
    peers.on_connected((A[0], 40_000), 0.5)
    peers.on_failed(A, 1.0)
    peers.check_invariants()
    assert peers.is_connected(A)
    peers.on_closed((A[0], 40_000), 2.0, True)
    assert dial(peers, 2.0 + RECONNECT) == A


def test_a_dial_reaches_a_peer_that_came_to_us() -> None:
    peers = book()
    peers.add(LOOP, "tracker", 0.0, from_ip=ME)
    dial(peers, 0.0)
    peers.on_connected(FROM, 0.5)
    peers.on_duplicate(LOOP, FROM, 1.0)
    peers.check_invariants()
    assert peers.is_connected(LOOP)
    assert drain(peers, 1e5) == []
    peers.on_closed(FROM, 1e5, True)
    assert dial(peers, 2e5) == LOOP


def test_a_dial_reaches_a_peer_at_its_other_address() -> None:
    peers = book()
    peers.add_all([A, B], "tracker", 0.0)
    connect(peers, A, 0.0)
    for step in range(DIAL_FAILURES):
        assert dial(peers, step * 1000.0) == B
        peers.on_duplicate(B, A, step * 1000.0)
    assert dial(peers, 1e6) is None
    peers.on_duplicate(C, B, 0.0)  # not in the book
    peers.on_dialled(C, 0.0)
    assert len(peers) == 2


# --- ourselves, the barred -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [A, LOOP])
def test_P8_own_id_is_forgotten_for_the_session(address: Address) -> None:
    peers = book()
    peers.add(address, "tracker", 0.0, from_ip=ME)
    dial(peers, 0.0)
    peers.on_self(address)
    peers.check_invariants()
    assert len(peers) == 0
    assert not peers.add(address, "user", 1.0)
    peers.on_failed(address, 1.0)
    assert peers.add((address[0], 7777), "tracker", 1.0, from_ip=ME)
    peers.on_self(address)
    assert len(peers) == 1


def test_own_addresses_are_bounded() -> None:
    peers = book()
    for index in range(OWN_ADDRESSES):
        peers.on_self(public(index))
    assert not peers.add(public(0), "tracker", 0.0)
    peers.on_self(public(OWN_ADDRESSES))
    assert peers.add(public(0), "tracker", 0.0)
    assert not peers.add(public(1), "tracker", 0.0)


def test_bans_are_by_address() -> None:
    peers = book()
    peers.add(A, "tracker", 0.0)
    connect(peers, A, 0.0)
    peers.ban(A, b"p" * 20)
    peers.check_invariants()
    assert peers.is_banned((A[0], 1), b"q" * 20)
    assert not peers.add((A[0], 1), "user", 1.0)
    peers.on_closed(A, 1.0, False)
    assert len(peers) == 0
    peers.ban(B)  # not in the book
    assert peers.is_banned(B)


@pytest.mark.parametrize("incoming", [False, True])
def test_bans_on_loopback_are_by_listen_address_and_peer_id(incoming: bool) -> None:
    peers = book()
    peers.add_all([LOOP, LOOP2], "tracker", 0.0, from_ip=ME)
    if incoming:
        peers.on_connected(FROM, 0.0)
        peers.on_listen_port(FROM, LOOP[1], 0.0)
    else:
        connect(peers, LOOP, 0.0)
    peers.ban(FROM if incoming else LOOP, b"p" * 20)
    assert peers.is_banned(LOOP)
    assert peers.is_banned((ME, 1), b"p" * 20)
    assert not peers.is_banned((ME, 1), b"q" * 20)
    assert not peers.is_banned(LOOP2, b"q" * 20)
    assert dial(peers, 100.0) == LOOP2
    assert not peers.add(LOOP, "tracker", 0.0, from_ip=ME)


def test_bans_on_loopback_without_a_peer_id_and_when_public() -> None:
    peers = book()
    peers.ban(LOOP)
    assert peers.is_banned(LOOP)
    assert not peers.is_banned(LOOP2)
    strict = book(loopback_is_public=True)
    strict.ban(LOOP)
    assert strict.is_banned(LOOP2)


def test_bans_hold_for_all_torrents() -> None:
    bans = Bans()
    first, second = PeerBook(random.Random(1), bans=bans), PeerBook(random.Random(1), bans=bans)
    second.add_all([A, B], "tracker", 0.0)
    second.next_to_dial(0.0)
    first.ban(A)
    assert drain(second, 0.0) == [B]
    assert len(second) == 1


def test_bans_are_bounded_and_the_oldest_goes() -> None:
    bans = Bans()
    for index in range(BANS):
        bans.add(public(index))
    bans.add(public(0))
    assert bans.bars(public(1))
    bans.add(public(BANS))
    assert not bans.bars(public(1))
    assert bans.bars(public(0))
    assert bans.bars(public(BANS))


def test_bans_are_kept_for_the_next_run() -> None:
    bans = Bans()
    first, second = PeerBook(random.Random(1), bans=bans), PeerBook(random.Random(1), bans=bans)
    for address in (A, B, LOOP):
        first.ban(address)
    second.ban(C)
    assert first.barred == (A[0], B[0])  # on loopback another peer may have that port then
    again = book()
    again.restore_bans(first.barred)
    assert again.is_banned((A[0], 9))
    assert not again.is_banned(C)
    assert again.barred == first.barred
    public_loopback = book(loopback_is_public=True)
    public_loopback.ban(LOOP)
    assert public_loopback.barred == (ME,)


def test_bans_that_are_kept_are_bounded_and_the_oldest_goes() -> None:
    peers = book()
    for index in range(BANS_KEPT):
        peers.ban(public(index))
    assert len(peers.barred) == BANS_KEPT
    peers.ban(public(0))
    peers.ban(public(BANS_KEPT))
    assert len(peers.barred) == BANS_KEPT
    assert public(1)[0] not in peers.barred
    assert peers.barred[-2:] == (public(0)[0], public(BANS_KEPT)[0])


# --- bounds of the list ----------------------------------------------------------------------------------------------


def test_P10_list_is_bounded() -> None:
    peers = book()
    assert peers.add_all((public(index) for index in range(PEER_LIST)), "tracker", 0.0) == PEER_LIST
    assert not peers.add(public(PEER_LIST), "tracker", 0.0)
    assert len(peers) == PEER_LIST
    assert peers.add(public(5), "tracker", 0.0)
    assert peers.add(public(PEER_LIST), "user", 0.0)


def test_P10_paused_list_is_bounded() -> None:
    peers = book()
    peers.add_all((public(index) for index in range(1000)), "tracker", 0.0)
    peers.add_all((public(index) for index in range(1000, 2000)), "dht", 0.0)
    connect(peers, public(1999), 0.0)
    peers.resize(PEER_LIST_PAUSED)
    peers.check_invariants()
    assert len(peers) == PEER_LIST_PAUSED
    assert peers.is_connected(public(1999))
    while (address := peers.next_to_dial(0.0)) is not None:
        assert int(address[0].split(".")[1]) < 4  # the thousand that the tracker named
        peers.on_dialled(address, 0.0)
    peers.resize(PEER_LIST)
    assert peers.add(public(1500), "dht", 0.0)


def test_P10_share_of_one_peer() -> None:
    peers = book(limit=100)
    share = int(100 * PEER_SHARE_OF_LIST)
    told = [public(index) for index in range(100)]
    assert peers.add_all(told[: share + 5], "pex", 0.0, from_ip="9.9.9.9") == share
    assert peers.add(told[50], "pex", 0.0, from_ip="9.9.9.8")
    peers.check_invariants()
    assert peers.add(told[0], "tracker", 0.0)  # no longer on that peer's word alone
    assert peers.add(told[share], "pex", 0.0, from_ip="9.9.9.9")
    assert not peers.add(told[share + 1], "pex", 0.0, from_ip="9.9.9.9")
    peers.ban(told[1])
    assert peers.add(told[share + 1], "pex", 0.0, from_ip="9.9.9.9")
    peers.check_invariants()


def test_P10_share_of_one_peer_is_not_kept_on_loopback() -> None:
    peers = book(limit=100)
    assert peers.add_all([(ME, port) for port in range(7000, 7090)], "pex", 0.0, from_ip=ME) == 90
    strict = book(limit=100, loopback_is_public=True)
    assert strict.add_all([(f"127.0.{index}.1", 7000) for index in range(90)], "pex", 0.0, from_ip=ME) == 25


def test_weeding_makes_room_for_a_better_source() -> None:
    peers = book(limit=10)
    peers.add_all((public(index) for index in range(10)), "dht", 0.0)
    assert not peers.add(public(20), "pex", 0.0, from_ip="9.9.9.9")
    assert not peers.add(public(20), "dht", 0.0)
    assert peers.add(public(20), "tracker", 0.0)
    peers.check_invariants()
    assert len(peers) == 10
    assert dial(peers, 0.0) == public(20)


def test_weeding_spares_the_connected_the_dialled_and_the_users() -> None:
    peers = book(limit=3)
    peers.add(A, "user", 0.0)
    assert peers.add_all([B, C], "dht", 0.0) == 2
    connect(peers, B, 0.0)
    peers.on_dialled(C, 0.0)
    assert not peers.add(public(1), "tracker", 0.0)
    peers.on_failed(C, 0.0)
    assert not peers.add(public(1), "tracker", WEED_PERIOD - 0.1)
    assert peers.add(public(1), "tracker", WEED_PERIOD)
    assert len(peers) == 3
    assert peers.is_connected(B)


def test_weeding_looks_again_at_what_it_found() -> None:
    peers = book(limit=3)
    assert peers.add_all([A, B, C], "dht", 0.0) == 3
    assert peers.add(public(1), "tracker", 0.0)
    left = [address for address in drain(peers, 0.0) if address in (A, B, C)]
    assert len(left) == 2
    assert not peers.add(public(2), "tracker", 0.0)
    peers.on_connected(left[0], 0.0)
    peers.on_failed(left[1], 0.0)
    peers.ban(left[1])
    assert peers.add(public(2), "tracker", 0.0)
    assert not peers.add(public(3), "tracker", 0.0)


def test_the_failed_are_weeded_first() -> None:
    peers = book(limit=3)
    peers.add_all([A, B, C], "tracker", 0.0)
    for now in (0.0, 1000.0, 2000.0):
        peers.on_dialled(B, now)
        peers.on_failed(B, now)
    assert peers.add(public(1), "pex", 3000.0, from_ip="9.9.9.9")
    assert set(drain(peers, 3000.0)) == {A, C, public(1)}


def test_peers_that_come_and_go_leave_no_tickets_behind() -> None:
    peers = book()
    peers.add_all((public(index) for index in range(50)), "tracker", 0.0)
    for step in range(3000):
        address = public(step % 50)
        peers.on_connected(address, 10.0 * step)
        peers.on_closed(address, 10.0 * step, True)
        if step < 2000 and step % 100 == 99:
            peers.next_to_dial(10.0 * step)
    peers.check_invariants()
    places = len(peers._waiting) + len(peers._ready) + len(peers._privileged)
    assert places <= 2 * len(peers) + STALE_TICKETS
    assert len(set(drain(peers, 1e6))) == 50


def test_hearing_the_same_again_costs_nothing() -> None:
    peers = book()
    for _ in range(1000):
        peers.add(A, "pex", 0.0, from_ip="9.9.9.9")
    assert len(peers._waiting) == 1


def test_another_tracker_has_other_peers() -> None:
    peers = book()
    peers.add_all([A, B, ("9.0.3.1", 6881)], "tracker", 0.0)
    peers.add(C, "user", 0.0)
    connect(peers, A, 0.0)
    peers.on_dialled(B, 0.0)
    peers.on_connected(("9.0.4.1", 50_000), 0.0)  # came to us
    connect(peers, C, 0.0)
    peers.forget_swarm()
    peers.check_invariants()
    assert [address for address in (A, B, C) if peers.knows(address)] == [C]
    for address in (A, C, ("9.0.4.1", 50_000)):
        peers.on_closed(address, 1.0, True)
    peers.on_failed(B, 1.0)
    assert drain(peers, 1e6) == [C]
    assert len(peers) == 1


# --- with the budget -------------------------------------------------------------------------------------------------


def spend(peers: PeerBook, budget: DialBudget, now: float) -> list[Address]:
    """Dial all that the budget lets through; every connection stays half-open."""
    dialled = []
    while (address := peers.next_to_dial(now, budget)) is not None:
        peers.on_dialled(address, now)
        budget.on_dialled(address[0], now)
        dialled.append(address)
        peers.check_invariants()
    return dialled


def test_first_reply_is_dialled_at_once() -> None:
    peers, budget = book(), DialBudget()
    peers.add_all((public(index) for index in range(200)), "tracker", 0.0)
    assert len(spend(peers, budget, 0.0)) == DIALS_PER_SECOND == 30
    assert spend(peers, budget, 0.9) == []
    assert len(spend(peers, budget, 1.0)) == DIALS_PER_SECOND
    spend(peers, budget, 2.0)
    assert len(spend(peers, budget, 3.0)) == HALF_OPEN - 3 * DIALS_PER_SECOND


def test_the_user_and_recent_handshakes_are_not_held_back() -> None:
    peers, budget = book(), DialBudget()
    peers.add(A, "tracker", 0.0)
    connect(peers, A, 0.0)
    peers.on_closed(A, 1.0, True)
    for index in range(HALF_OPEN):
        budget.on_dialled(public(index)[0], 2.0)
    peers.add(B, "tracker", 10.0)
    peers.add(C, "user", 10.0)
    assert set(spend(peers, budget, 10.0)) == {A, C}


@pytest.mark.parametrize("seen", [False, True])
def test_a_handshake_is_trusted_for_ten_minutes(seen: bool) -> None:
    peers, budget = book(), DialBudget()
    peers.add(A, "tracker", 0.0)
    connect(peers, A, 0.0)
    peers.on_closed(A, 100.0, True)
    if seen:
        assert peers.next_to_dial(200.0, budget) == A
    for index in range(HALF_OPEN):
        budget.on_dialled(public(index)[0], 2.0)
    assert peers.next_to_dial(TRUSTED_AFTER_HANDSHAKE - 0.1, budget) == A
    assert peers.next_to_dial(TRUSTED_AFTER_HANDSHAKE, budget) is None
    peers.check_invariants()
    budget.on_finished(public(0)[0])
    assert peers.next_to_dial(TRUSTED_AFTER_HANDSHAKE, budget) == A


def test_P10_one_victim_is_dialled_three_times_a_minute_over_all_torrents() -> None:
    budget = DialBudget()
    books = [PeerBook(random.Random(index)) for index in range(50)]
    dials: list[float] = []
    for step in range(600):
        now = step / 2
        for index, peers in enumerate(books):
            peers.add(("9.9.9.9", 2000 + index * 7 + step), "tracker", now)
            for address in spend(peers, budget, now):
                dials.append(now)
                budget.on_finished(address[0])
                peers.on_failed(address, now)
    assert len(dials) == 5 * DIALS_PER_ADDRESS


def test_an_address_that_is_held_back_lets_others_pass() -> None:
    peers, budget = book(), DialBudget()
    for _ in range(DIALS_PER_ADDRESS):
        budget.on_dialled(A[0], 0.0)
    peers.add(A, "tracker", 5.0)
    peers.add(B, "pex", 5.0, from_ip="9.9.9.9")
    assert spend(peers, budget, 5.0) == [B]
    assert spend(peers, budget, 59.9) == []
    assert spend(peers, budget, 60.0) == [A]


# --- random histories ------------------------------------------------------------------------------------------------

IPS = ["9.0.0.1", "9.0.0.2", "9.0.0.3", "127.0.0.1"]
ADDRESSES = st.tuples(st.sampled_from(IPS), st.integers(7000, 7002))
SOURCES: st.SearchStrategy[PeerSource] = st.sampled_from(["user", "magnet", "tracker", "lsd", "dht", "pex"])


class Histories(RuleBasedStateMachine):
    """Whatever happens: nobody is dialled twice, while connected, when barred, when it is ourselves, or too soon."""

    def __init__(self) -> None:
        super().__init__()
        self.book = PeerBook(random.Random(1), limit=6)
        self.now = 0.0
        self.dialling: set[Address] = set()
        self.connected: Counter[Address] = Counter()
        self.fails: Counter[Address] = Counter()
        self.not_before: dict[Address, float] = {}
        self.users: set[Address] = set()
        self.barred: set[Address] = set()

    def one(self, address: Address) -> Address:
        """Which peer an address stands for."""
        return address if address[0] == ME else (address[0], 0)

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0, 120.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(address=ADDRESSES, source=SOURCES)
    def hear(self, address: Address, source: PeerSource) -> None:
        known = self.book.add(address, source, self.now, from_ip=ME)
        one = self.one(address)
        assert not (known and one in self.barred)
        if known and source == "user":
            self.users.add(one)
            self.fails[one] = 0
            self.not_before.pop(one, None)
        elif known and source == "tracker":
            self.fails[one] = max(0, self.fails[one] - 1)

    @rule()
    def dial(self) -> None:
        address = self.book.next_to_dial(self.now)
        if address is None:
            return
        one = self.one(address)
        assert one not in self.dialling
        assert not self.connected[one]
        assert one not in self.barred
        assert self.fails[one] < DIAL_FAILURES or one in self.users or one[0] == ME
        assert self.now >= self.not_before.get(one, 0.0)
        self.book.on_dialled(address, self.now)
        self.dialling.add(one)

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), good=st.booleans())
    def dialled(self, data: st.DataObject, good: bool) -> None:
        one = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.discard(one)
        address = one if one[1] else (one[0], 7000)
        if good and not self.connected[one] and one not in self.barred:
            self.book.on_connected(address, self.now)
            self.connected[one] = 1
        else:
            self.book.on_failed(address, self.now)
            if not self.connected[one]:
                self.failed(one)

    @precondition(lambda self: self.dialling)
    @rule(data=st.data())
    def not_tried(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.discard(one)
        self.book.on_not_tried(one if one[1] else (one[0], 7000), self.now)
        if not self.connected[one]:
            self.not_before[one] = self.now + RECONNECT

    @rule()
    def revive(self) -> None:
        self.book.revive(self.now)
        for entry in self.book._entries.values():
            if entry.handshake >= 0 and self.fails[self.one(entry.address)]:
                self.fails[self.one(entry.address)] = 0
                self.not_before.pop(self.one(entry.address), None)

    @rule(address=ADDRESSES)
    def incoming(self, address: Address) -> None:
        one = self.one(address)
        if not self.connected[one] and not self.book.is_banned(address):
            self.book.on_connected(address, self.now)
            self.dialling.discard(one)
            self.connected[one] = 1

    @precondition(lambda self: +self.connected)
    @rule(data=st.data(), moved=st.booleans(), sated=st.booleans())
    def closed(self, data: st.DataObject, moved: bool, sated: bool) -> None:
        one = data.draw(st.sampled_from(sorted(+self.connected)))
        self.connected[one] = 0
        self.book.on_closed(one if one[1] else (one[0], 7000), self.now, moved, sated=sated)
        if sated and (one[0] == ME or one in self.users):
            self.fails[one] = 0
            self.not_before[one] = self.now + SEEDS_APART
        elif moved and not sated:
            self.fails[one] = 0
            self.not_before[one] = self.now + RECONNECT
        else:
            self.failed(one)

    @rule(address=ADDRESSES)
    def ban(self, address: Address) -> None:
        self.book.ban(address)
        one = self.one(address)
        self.barred.add(one)
        self.connected[one] = 0
        self.dialling.discard(one)

    @invariant()
    def what_is_dropped_is_forgotten(self) -> None:
        kept = {self.one(entry.address) for entry in self.book._entries.values()}
        for one in set(self.fails) - kept:
            del self.fails[one]
        for one in set(self.not_before) - kept:
            del self.not_before[one]

    def failed(self, one: Address) -> None:
        self.fails[one] += 1
        patient = one[0] != ME and one not in self.users
        self.not_before[one] = self.now + ((self.fails[one] + 1) * DIAL_RETRY if patient else 1.0)

    @invariant()
    def in_order(self) -> None:
        self.book.check_invariants()
        for one in self.connected:
            assert self.book.is_connected(one) == bool(self.connected[one])
        strangers = sum(one not in self.users for one in +self.connected)
        assert len(self.book) <= 6 + len(self.users) + strangers


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_ranks_are_in_the_order_of_trust() -> None:
    assert sorted(RANK, key=lambda source: RANK[source]) == ["user", "magnet", "tracker", "lsd", "dht", "pex"]


def test_of_equals_the_pair_with_the_higher_priority_is_dialled_first() -> None:
    """BEP 40: by the addresses, once ours is known; another family goes by lot."""
    own = ("93.184.216.34", 6881)
    addresses = [(f"{first}.9.9.9", 7000) for first in range(20, 40)]
    book = PeerBook(random.Random(1))
    book.own = (own,)
    for address in [*addresses, ("2600::9", 7000)]:
        assert book.add(address, "tracker", 0.0)
    dialled = []
    while (chosen := book.next_to_dial(0.0)) is not None:
        book.on_dialled(chosen, 0.0)
        dialled.append(chosen)
    assert len(dialled) == 21
    dialled.remove(("2600::9", 7000))
    assert dialled == sorted(addresses, key=lambda address: -peer_priority(own, address))
