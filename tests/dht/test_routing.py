"""The routing table: who comes in, who has to go, who is named."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from btor import limits
from btor.dht.contact import Contact, make_id
from btor.dht.routing import Table
from btor.wire.address import pack_ip
from tests.dht.build import contact, global_ip, local

OWN = bytes(20)
FAR = 1 << 159  # shares no bit with our id
K = limits.DHT_BUCKET


def fitting(number: int, *, bits: int = 0) -> Contact:
    """A node that shares exactly ``bits`` bits with OWN and whose id fits its address."""
    for attempt in range(100_000):
        ip = (
            global_ip(number * 37 % 65536)
            if not attempt
            else f"6.{attempt >> 8 & 255}.{attempt & 255}.{number % 250 + 1}"
        )
        node_id = make_id(pack_ip(ip), random.Random(number * 1000 + attempt))
        if 160 - int.from_bytes(node_id).bit_length() == bits:
            return contact(ip, node_id)
    raise AssertionError("nobody")


def in_one_room(count: int) -> list[Contact]:
    """Loopback nodes of bucket 5, which has one room."""
    return [local(number, (1 << 154) + number) for number in range(count)]


def test_only_who_answers_comes_in() -> None:
    table, node = Table(OWN), contact("5.6.7.8")
    assert not table.on_query(node, 0.0)
    table.on_asked(node, 0.0)
    table.on_failure(node)
    table.forget(node)
    assert len(table) == 0
    assert table.wants(node)
    table.on_reply(node, 1.0)
    assert [entry.contact for entry in table] == [node]
    assert not table.wants(node)
    assert table.on_query(node, 2.0)
    table.on_asked(node, 3.0)
    entry = table.find(node)
    assert entry is not None
    assert (entry.heard, entry.asked) == (2.0, 3.0)
    table.forget(node)
    assert len(table) == 0


def test_our_own_id_stays_out() -> None:
    table = Table(OWN)
    assert not table.wants(local(1, OWN))
    table.on_reply(local(1, OWN), 0.0)
    assert len(table) == 0
    assert table.bits_shared(0) == 160


def test_rooms_and_spares() -> None:
    table, nodes = Table(OWN), in_one_room(3 * K)
    for node in nodes[:K]:
        assert table.wants(node)
        table.on_reply(node, 0.0)
    for number, node in enumerate(nodes[K:]):
        assert table.wants(node) == (number == 0)
        table.on_reply(node, 1.0 + number)
    assert table.buckets() == {5: K}
    table.check_invariants()
    table.on_failure(nodes[0])
    assert table.wants(nodes[K])
    assert len(table) == K
    table.on_failure(nodes[0])
    assert table.find(nodes[0]) is None
    assert table.find(nodes[-1]) is not None  # of those that wait, the one that answered last
    table.on_reply(nodes[-2], 99.0)
    table.check_invariants()


def test_a_bad_node_makes_room_for_anybody() -> None:
    table, nodes = Table(OWN), in_one_room(K + 1)
    for node in nodes[:K]:
        table.on_reply(node, 0.0)
    for _ in range(limits.DHT_FAILURES):
        table.on_failure(nodes[3])
    assert table.find(nodes[3]) is not None
    table.on_reply(nodes[K], 1.0)
    assert table.find(nodes[3]) is None
    assert table.find(nodes[K]) is not None


def test_an_answer_forgives() -> None:
    table, nodes = Table(OWN), in_one_room(2)
    table.on_reply(nodes[0], 0.0)
    table.on_failure(nodes[0])
    assert table.closest(0) == []
    table.on_reply(nodes[0], 1.0)
    assert table.closest(0) == [nodes[0]]


def test_a_spare_that_came_in_elsewhere_is_passed_over() -> None:
    table, nodes = Table(OWN), in_one_room(K + 2)
    for node in nodes:
        table.on_reply(node, 0.0)
    other_id = local(K + 1, FAR)  # the last spare has another id now
    table.on_reply(other_id, 1.0)
    for _ in range(2):
        table.on_failure(nodes[0])
    assert table.find(nodes[K]) is not None
    table.check_invariants()


def test_the_first_buckets_hold_more() -> None:
    table, rng = Table(OWN), random.Random(1)
    for number in range(5000):
        table.on_reply(local(number, rng.getrandbits(160)), 0.0)
    sizes = table.buckets()
    assert [sizes[bits] for bits in range(5)] == [*limits.DHT_WIDE_BUCKETS, K]
    table.check_invariants()


def test_D2_sybil_one_node_an_address() -> None:
    table = Table(OWN)
    first = contact("5.6.7.8", FAR + 1, port=1)
    table.on_reply(first, 0.0)
    table.on_reply(contact("5.6.7.8", FAR // 2, port=2), 1.0)
    assert [entry.contact for entry in table] == [first]
    table.on_failure(first)
    second = contact("5.6.7.8", FAR // 2, port=2)
    table.on_reply(second, 2.0)
    assert [entry.contact for entry in table] == [second]
    renamed = contact("5.6.7.8", FAR + 5, port=2)
    table.on_reply(renamed, 3.0)
    assert [entry.contact for entry in table] == [renamed]


def test_D2_sybil_one_of_a_24_in_a_bucket() -> None:
    """200 nodes of one network: one in each bucket."""
    table, rng = Table(OWN), random.Random(1)
    for number in range(200):
        table.on_reply(contact(f"5.6.7.{number + 1}", rng.getrandbits(160)), 0.0)
    assert set(table.buckets().values()) == {1}
    table.check_invariants()
    six = Table(OWN)
    for number in range(9):
        six.on_reply(contact(f"2001:db8:1:2::{number + 1}", FAR + number), 0.0)
    assert len(six) == 1


def test_a_silent_neighbour_makes_room() -> None:
    table = Table(OWN)
    first, second = contact("5.6.7.8", FAR + 1), contact("5.6.7.9", FAR + 2)
    table.on_reply(first, 0.0)
    table.on_failure(first)
    table.on_reply(second, 1.0)
    assert [entry.contact for entry in table] == [second]


def test_one_id_once() -> None:
    table = Table(OWN)
    table.on_reply(contact("5.6.7.8", FAR), 0.0)
    table.on_reply(contact("6.6.7.8", FAR), 1.0)
    assert [entry.contact.address[0] for entry in table] == ["5.6.7.8"]
    table.on_failure(contact("5.6.7.8", FAR))
    table.on_reply(contact("6.6.7.8", FAR), 2.0)
    assert [entry.contact.address[0] for entry in table] == ["6.6.7.8"]
    table.on_failure(contact("6.6.7.8", FAR))
    table.on_reply(contact("6.6.7.9", FAR), 3.0)  # same id and same network
    assert [entry.contact.address[0] for entry in table] == ["6.6.7.9"]
    table.check_invariants()


def test_on_loopback_no_limit_by_address_unless_asked_for() -> None:
    for public, size in ((False, 5), (True, 1)):
        table = Table(OWN, loopback_is_public=public)
        for number in range(5):
            table.on_reply(local(number, FAR + number), 0.0)
        assert len(table) == size
        table.check_invariants()


def test_a_fitting_id_displaces_one_that_does_not_fit() -> None:
    table = Table(OWN)
    for number in range(K):
        table.on_reply(contact(global_ip(number), (1 << 154) + number), 0.0)
    newcomer = fitting(1, bits=5)
    assert newcomer.fits
    table.on_reply(newcomer, 1.0)
    assert table.find(newcomer) is not None
    assert len(table) == K
    table.on_reply(contact(global_ip(99), (1 << 154) + 99), 1.0)
    assert table.find(contact(global_ip(99), (1 << 154) + 99)) is None


def test_closest_are_the_closest() -> None:
    table, rng = Table(rng_bytes(7)), random.Random(3)
    for number in range(3000):
        # crowded around our own id, so that the deep buckets are full too
        shared = rng.randrange(40)
        node_id = table.own >> 160 - shared << 160 - shared | rng.getrandbits(160 - shared)
        table.on_reply(local(number, node_id), 0.0)
    nodes = [entry.contact for entry in table]
    for _ in range(200):
        shared = rng.randrange(30)
        target = table.own >> 160 - shared << 160 - shared | rng.getrandbits(160 - shared)
        for count in (1, K, 16):
            assert table.closest(target, count) == sorted(nodes, key=lambda node: node.number ^ target)[:count]
    assert table.closest(table.own) == sorted(nodes, key=lambda node: node.number ^ table.own)[:K]


def test_all_are_named_where_there_are_few() -> None:
    table = Table(OWN)
    nodes = [local(bits, 1 << 159 - bits) for bits in (0, 3, 7)]
    for node in nodes:
        table.on_reply(node, 0.0)
    for target in (0, FAR, 1 << 156, 1 << 155):
        assert table.closest(target) == sorted(nodes, key=lambda node: node.number ^ target)


def rng_bytes(seed: int) -> bytes:
    return random.Random(seed).randbytes(20)


def test_a_crowd_without_fitting_ids_is_a_quarter_at_most() -> None:
    table = Table(OWN)
    crowd = [contact(global_ip(number), FAR + number) for number in range(K)]
    honest = [fitting(number, bits=number % 3 + 1) for number in range(1, 12)]
    for node in [*crowd, *honest]:
        table.on_reply(node, 0.0)
    named = table.closest(FAR)
    assert len(named) == K
    assert sum(not node.fits for node in named) == K // 4
    assert named == sorted(named, key=lambda node: node.number ^ FAR)


def test_a_crowd_is_named_where_there_is_nobody_else() -> None:
    table, rng = Table(OWN), random.Random(1)
    for number in range(400):
        table.on_reply(contact(global_ip(number), rng.getrandbits(160)), 0.0)
    assert len(table.closest(FAR)) == K


def test_silent_nodes_are_found_in_turn() -> None:
    table, nodes = Table(OWN), in_one_room(3)
    assert table.silent(0.0) is None
    for number, node in enumerate(nodes):
        table.on_reply(node, float(number))
    assert table.silent(limits.DHT_GOOD - 0.1) is None
    now = limits.DHT_GOOD + 10
    found = []
    for _ in range(3):
        entry = table.silent(now)
        assert entry is not None
        found.append(entry.contact)
        table.on_asked(entry.contact, now)
    assert sorted(found, key=lambda node: node.address) == nodes
    assert table.silent(now + 1) is None
    assert table.silent(now + limits.DHT_GOOD / 3) is not None
    table.forget(nodes[0])
    for _ in range(5):
        entry = table.silent(now + limits.DHT_GOOD)
        assert entry is not None
        assert entry.contact is not nodes[0]
    table.check_invariants()


def test_nobody_is_silent_before_it_is_said() -> None:
    table, (first, second) = Table(OWN), in_one_room(2)
    assert table.silent_from() == float("inf")
    table.on_reply(first, 10.0)
    table.on_reply(second, 20.0)
    assert table.silent_from() == 10.0 + limits.DHT_GOOD
    table.on_query(first, 500.0)
    assert table.silent(table.silent_from()) is None  # it has been heard of meanwhile
    assert table.silent_from() == 20.0 + limits.DHT_GOOD
    entry = table.silent(table.silent_from())
    assert entry is not None
    assert entry.contact is second
    table.forget(second)
    assert table.silent(20.0 + limits.DHT_GOOD) is None
    assert table.silent_from() == 500.0 + limits.DHT_GOOD


def test_those_who_left_do_not_pile_up() -> None:
    table, nodes = Table(OWN), in_one_room(8)
    for turn in range(50):
        for node in nodes:
            table.on_reply(node, float(turn))
            table.check_invariants()
        for node in nodes[1:]:
            table.forget(node)
            table.check_invariants()


@pytest.mark.parametrize("shared", [0, 1, 3, 4, 50, 158, 159])
def test_a_target_near_a_node_is_in_its_room(shared: int) -> None:
    table = Table(OWN)
    number = 1 << 159 - shared | random.Random(shared).getrandbits(159 - shared) if shared < 159 else 1
    node = local(1, number)
    table.on_reply(node, 0.0)
    for seed in range(20):
        assert table.bits_shared(table.target_near(node, random.Random(seed))) == shared


def test_how_many_nodes_there_are() -> None:
    assert Table(OWN).network_bits() == 0
    for bits in (8, 12):
        table, rng = Table(rng_bytes(1)), random.Random(2)
        for number in range(1 << bits):
            table.on_reply(local(number, rng.getrandbits(160)), 0.0)
        assert abs(table.network_bits() - bits) <= 2


def test_another_id() -> None:
    table, rng = Table(OWN), random.Random(1)
    nodes = [local(number, rng.getrandbits(160)) for number in range(60)]
    for number, node in enumerate(nodes):
        table.on_reply(node, float(number))
    before = {entry.contact for entry in table}
    table.on_failure(next(iter(before)))
    table.rebase(rng_bytes(5))
    table.check_invariants()
    assert {entry.contact for entry in table} <= before
    assert len(table) > 30
    assert sum(entry.failures for entry in table) == 1
    table.rebase(nodes[-1].id)  # that of a node we know
    assert table.find(nodes[-1]) is None
    table.check_invariants()


class TableMachine(RuleBasedStateMachine):
    """Anything happens in any order: the invariants hold, and nobody is in who has not answered."""

    @initialize(public=st.booleans())
    def begin(self, public: bool) -> None:
        self.table = Table(OWN, loopback_is_public=public)
        self.answered: set[Contact] = set()
        self.now = 0.0

    nodes = st.one_of(
        st.builds(local, st.integers(0, 20), st.integers(0, 15).map(lambda low: (1 << 154) + low)),
        st.builds(
            lambda net, host, low: contact(f"5.0.{net}.{host + 1}", (1 << 154) + low),
            st.integers(0, 12),
            st.integers(0, 2),
            st.integers(0, 15),
        ),
    )

    @rule(node=nodes)
    def reply(self, node: Contact) -> None:
        self.now += 1
        self.table.on_reply(node, self.now)
        self.answered.add(node)

    @rule(node=nodes)
    def query(self, node: Contact) -> None:
        assert self.table.on_query(node, self.now) == (self.table.find(node) is not None)

    @rule(node=nodes)
    def failure(self, node: Contact) -> None:
        self.table.on_failure(node)

    @rule(node=nodes)
    def forget(self, node: Contact) -> None:
        self.table.forget(node)
        assert self.table.find(node) is None

    @rule(seconds=st.sampled_from([1.0, 400.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.table.silent(self.now)

    @invariant()
    def holds(self) -> None:
        self.table.check_invariants()
        assert {entry.contact for entry in self.table} <= self.answered


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=60, stateful_step_count=40)
