"""Nodes that answer, ask, fall silent, move and lie in any order: the table against a plain dictionary (BEP 5, 42)."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from btor.dht.contact import BITS, Contact, contact_of, make_id
from btor.dht.routing import Entry, Table
from btor.limits import DHT_BUCKET, DHT_FAILURES, DHT_GOOD
from btor.wire.address import pack_ip
from tests.dht.build import global_ip
from tests.machine import Bug, Machine, explore, finds, named

OWN = bytes(20)
OTHER = b"\x3f" * 20


def made(number: int, shared: int, kind: str) -> Contact:
    """A node whose id has about ``shared`` leading bits in common with ours, or (public and fit) as its address says.

    Equal numbers of one kind are one IP, so the same IP comes under several ids.
    """
    rest = random.Random(f"{number} {shared}").getrandbits(BITS - shared - 1)
    node_id = ((1 << BITS - 1 - shared) | rest).to_bytes(20)
    if kind == "loopback":
        return contact_of(node_id + pack_ip("127.0.0.1") + (1 + number).to_bytes(2))
    ip = pack_ip(global_ip(number) if kind != "crowd" else f"6.1.{number % 4}.{number % 250 + 1}")
    if kind == "fit":
        node_id = make_id(ip, random.Random(number))
    return contact_of(node_id + ip + b"\x1a\xe1")


contacts = st.builds(
    made,
    st.integers(0, 400),
    st.integers(0, 5),
    st.sampled_from(["loopback", "loopback", "loopback", "unfit", "fit", "crowd"]),
)


class RoutingMachine(Machine):
    """The model: of each node that should be there when it was heard of and how often it failed."""

    @initialize()
    def begin(self) -> None:
        self.table = Table(OWN)
        self.now = 0.0
        self.answered: set[bytes] = set()  # nodes that ever answered
        self.rng = random.Random(1)

    def entries(self) -> dict[bytes, Entry]:
        return {entry.contact.compact: entry for entry in self.table}

    def a_node(self, number: int) -> Contact | None:
        entries = sorted(self.entries())
        return contact_of(entries[number % len(entries)]) if entries else None

    @rule(contact=contacts)
    def reply(self, contact: Contact) -> None:
        """Who answered is heard of now; whoever had not failed keeps the place, unless the id must not be there."""
        before = {key: (entry.failures, entry.contact) for key, entry in self.entries().items()}
        wanted = self.table.wants(contact)
        self.answered.add(contact.compact)
        self.table.on_reply(contact, self.now)
        after = self.entries()
        entry = after.get(contact.compact)
        if entry is not None:
            assert (entry.heard, entry.failures) == (self.now, 0)
            assert wanted or contact.compact in before or len(after) <= len(before)
        for key in before.keys() - after.keys():
            failures, gone = before[key]
            moved = gone.address == contact.address
            assert failures or moved or (contact.fits and not gone.fits)
        assert len(before.keys() - after.keys()) <= 3
        assert after.keys() - before.keys() <= {contact.compact}
        self.settle()

    @rule(number=st.integers(0, 999), count=st.integers(1, 12), shared=st.integers(0, 3))
    def replies(self, number: int, count: int, shared: int) -> None:
        """Many nodes of one bucket."""
        for step in range(count):
            contact = made((number + step) % 400, shared, "loopback")
            self.answered.add(contact.compact)
            self.table.on_reply(contact, self.now)
        self.settle()

    @rule(number=st.integers(0, 999))
    def hear(self, number: int) -> None:
        """A node of the table answers."""
        contact = self.a_node(number)
        if contact is not None:
            self.reply(contact)

    @rule(contact=contacts)
    def query(self, contact: Contact) -> None:
        """Asking brings nobody in."""
        before = set(self.entries())
        known = self.table.on_query(contact, self.now)
        assert known == (contact.compact in before)
        assert set(self.entries()) == before
        if known:
            assert self.entries()[contact.compact].heard == self.now
        self.settle()

    @rule(number=st.integers(0, 999), times=st.integers(1, DHT_FAILURES + 1))
    def fail(self, number: int, times: int) -> None:
        """A node falls silent; once it is bad, one that waited takes its place."""
        contact = self.a_node(number)
        for _ in range(times if contact is not None else 0):
            assert contact is not None
            before = self.entries()
            was = before[contact.compact].failures if contact.compact in before else None
            self.table.on_asked(contact, self.now)
            self.table.on_failure(contact)
            after = self.entries()
            if was is None:
                assert after.keys() == before.keys()
            elif contact.compact in after:
                assert after[contact.compact].failures == was + 1
                assert before.keys() <= after.keys()  # a place may stand empty since a node has moved
                assert len(after) <= len(before) + 1
            else:
                assert was + 1 >= DHT_FAILURES
                (taker,) = after.keys() - before.keys()
                assert taker in self.answered
            self.settle()

    @rule(number=st.integers(0, 999))
    def forget(self, number: int) -> None:
        contact = self.a_node(number)
        if contact is not None:
            self.table.forget(contact)
            assert self.table.find(contact) is None
            self.settle()

    @rule(own=st.sampled_from([OWN, OTHER]))
    def rebase(self, own: bytes) -> None:
        """Under another id some have no place; no others come, and failures stay."""
        before = {key: entry.failures for key, entry in self.entries().items()}
        self.table.rebase(own)
        after = self.entries()
        assert after.keys() <= before.keys()
        for key, entry in after.items():
            assert entry.failures == before[key]
        self.settle()

    @rule(seconds=st.sampled_from([1.0, DHT_GOOD / 3, DHT_GOOD]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def look_for_silent(self) -> None:
        entry = self.table.silent(self.now)
        if entry is None:
            return
        assert self.entries()[entry.contact.compact] is entry
        assert self.now - entry.heard >= DHT_GOOD
        assert self.now - entry.asked >= DHT_GOOD / 3

    @rule(bits=st.integers(0, 6), seed=st.integers(0, 99), count=st.sampled_from([1, DHT_BUCKET]))
    def closest(self, bits: int, seed: int, count: int) -> None:
        """As many as there are and no nearer one left out, where every id fits; else no more unfit than needed."""
        target = random.Random(seed).getrandbits(BITS) >> bits
        found = self.table.closest(target, count)
        live = [entry.contact for entry in self.table if not entry.failures]
        fit = sorted((one for one in live if one.fits), key=lambda one: one.number ^ target)
        assert [one.number ^ target for one in found] == sorted(one.number ^ target for one in found)
        assert len(set(found)) == len(found)
        assert set(found) <= set(live)
        if len(fit) == len(live):
            assert [one.number for one in found] == [one.number for one in fit[:count]]
        else:
            assert len(found) == min(count, len(live)) or len(live) > 48
            unfit = [one for one in found if not one.fits]
            if len(fit) >= count and len(live) <= 48:
                assert len(unfit) <= max(count // 4, 0)

    @rule(number=st.integers(0, 999))
    def refresh(self, number: int) -> None:
        contact = self.a_node(number)
        if contact is not None:
            target = self.table.target_near(contact, self.rng)
            assert self.table.bits_shared(target) == self.table.bits_shared(contact.number)

    def settle(self) -> None:
        self.table.check_invariants()
        entries = self.entries()
        assert len(entries) == len(self.table)
        assert entries.keys() <= self.answered
        hosts = [entry.contact.host for entry in self.table]
        assert len(set(hosts)) == len(hosts)  # one of an IP
        assert all(entry.contact.number != self.table.own for entry in self.table)
        assert sum(self.table.buckets().values()) == len(entries)


def test_any_order_of_events() -> None:
    explore(RoutingMachine)


BUGS = [
    Bug("a node that answers again stays suspect", Table, "on_reply", "entry.failures = 0", "pass", seed=2),
    Bug(
        "a node that has fallen silent is named to others",
        Table,
        "closest",
        "if not entry.failures:",
        "if True:",
        seed=2,
    ),
    Bug("a network is never free again", Table, "_remove", "del bucket.networks[contact.network]", "pass"),
    Bug("the bucket farther away counts as the nearer one", Table, "_groups", "if bits > shared:", "if bits < shared:"),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(RoutingMachine, bug)
