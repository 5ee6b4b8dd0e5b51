"""Addresses that are named, dialled, reached, lost, barred and forgotten in any order, against a plain dictionary."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from btor.limits import (
    DIAL_FAILURES,
    DIAL_RETRY,
    DIAL_RETRY_USER_MAX,
    DIAL_RETRY_USER_MIN,
    PEER_SHARE_OF_LIST,
    RECONNECT,
    TRUSTED_AFTER_HANDSHAKE,
    WEED_PERIOD,
)
from btor.swarm.peerbook import INCOMING, NEVER, RANK, PeerBook, PeerSource, _Entry
from btor.wire.address import Address
from tests.machine import Bug, Machine, explore, finds, named

LIMIT = 8
SHARE = PEER_SHARE_OF_LIST * LIMIT  # of one peer's exchange: all that "pex" names here
PORT = 6881
numbers = st.integers(0, 11)
SOURCES: tuple[PeerSource, ...] = ("user", "tracker", "dht", "pex")


@dataclass
class Known:
    """What is true of one peer."""

    rank: int
    fails: int = 0
    due: float = NEVER
    contact: float = NEVER
    handshake: float = NEVER
    connected: bool = False
    dialling: bool = False
    listening: bool = True
    patient: bool = True
    told: bool = False  # by exchange, and by nobody better since

    def may_be_dialled(self) -> bool:
        given_up = self.patient and self.fails >= DIAL_FAILURES
        return self.listening and not (self.connected or self.dialling or given_up)


def address_of(number: int) -> Address:
    return f"20.{number}.0.1", PORT


class PeerBookMachine(Machine):
    """The model: of each IP that the book knows what happened with it."""

    @initialize(seed=st.integers(0, 9))
    def begin(self, seed: int) -> None:
        self.book = PeerBook(random.Random(seed), limit=LIMIT)
        self.now = 0.0
        self.known: dict[int, Known] = {}
        self.barred: set[int] = set()

    @rule(number=numbers, source=st.sampled_from(SOURCES))
    def add(self, number: int, source: PeerSource) -> None:
        added = self.book.add(address_of(number), source, self.now, from_ip=None if source == "user" else "20.99.0.1")
        entry = self.known.get(number)
        if number in self.barred:
            assert not added
        elif entry is not None:
            assert added
            entry.listening = True
            if RANK[source] < entry.rank:
                entry.rank, entry.told = RANK[source], False
            if source == "tracker" and entry.fails:
                entry.fails -= 1
            if source == "user":
                entry.patient, entry.fails, entry.due = False, 0, NEVER
        elif source == "pex" and sum(other.told for other in self.known.values()) >= SHARE:
            assert not added
        elif added:
            self.known[number] = Known(RANK[source], patient=source != "user", told=source == "pex")
        else:
            assert source != "user" and len(self.known) >= LIMIT
        self.forget_weeded(number)
        self.settle()

    def forget_weeded(self, newcomer: int) -> None:
        """To make room one goes that is neither used nor the user's; it is not better than the new one."""
        gone = [number for number in self.known if not self.book.knows(address_of(number))]
        assert len(gone) <= 1
        for number in gone:
            entry = self.known.pop(number)
            assert not (entry.connected or entry.dialling or entry.rank == RANK["user"])
            given_up = entry.patient and entry.fails >= DIAL_FAILURES
            assert (given_up, entry.fails, entry.rank) > (False, 0, self.known[newcomer].rank) or (
                self.now - self.book._weeded < WEED_PERIOD
            )

    @rule(limit=st.sampled_from([3, LIMIT]))
    def resize(self, limit: int) -> None:
        self.book.resize(limit)
        self.drop_unknown()
        self.book.resize(LIMIT)
        self.settle()

    def drop_unknown(self) -> None:
        for number in list(self.known):
            if not self.book.knows(address_of(number)):
                entry = self.known.pop(number)
                assert not (entry.connected or entry.dialling or entry.rank == RANK["user"])

    @rule()
    def dial(self) -> None:
        """The next one is the best of those that are due; if there is none, nobody is."""
        address = self.book.next_to_dial(self.now)
        due = {
            number: entry
            for number, entry in self.known.items()
            if entry.may_be_dialled() and entry.due <= self.now and number not in self.barred
        }
        if address is None:
            assert not due
            return
        number = int(address[0].split(".")[1])
        assert address == address_of(number)
        entry = due[number]
        if not self.is_privileged(entry):
            assert not any(
                self.is_privileged(other) and self.now - other.handshake >= 0 and other.rank == RANK["user"]
                for other in due.values()
            )
        better = [
            other
            for other in due.values()
            if other.rank == entry.rank == RANK["user"] and (other.fails, other.contact) < (entry.fails, entry.contact)
        ]
        assert not better
        self.book.on_dialled(address, self.now)
        entry.dialling, entry.contact = True, self.now
        self.settle()

    def is_privileged(self, entry: Known) -> bool:
        return entry.rank == RANK["user"] or self.now - entry.handshake < TRUSTED_AFTER_HANDSHAKE

    def fail_now(self, entry: Known) -> None:
        entry.fails += 1
        entry.contact = self.now
        if entry.patient:
            entry.due = self.now + (entry.fails + 1) * DIAL_RETRY
        else:
            entry.due = self.now + min(DIAL_RETRY_USER_MAX, DIAL_RETRY_USER_MIN * 2.0 ** (entry.fails - 1))

    @rule(number=numbers, tried=st.sampled_from([True, True, False]))
    def dial_fails(self, number: int, tried: bool) -> None:
        entry = self.known.get(number)
        if entry is None or not entry.dialling:
            return
        entry.dialling = False
        if tried:
            self.book.on_failed(address_of(number), self.now)
            if not entry.connected:
                self.fail_now(entry)
        else:
            self.book.on_not_tried(address_of(number), self.now)
            if not entry.connected:
                entry.due = self.now + RECONNECT
        self.drop_if_lost(number)
        self.settle()

    @rule(number=numbers)
    def connect(self, number: int) -> None:
        """A dial succeeds, or it comes to us."""
        if number in self.barred:
            return
        entry = self.known.get(number)
        if entry is None:
            entry = self.known[number] = Known(INCOMING, listening=False)
        elif entry.connected:
            return
        self.book.on_connected(address_of(number), self.now)
        entry.connected, entry.dialling, entry.handshake = True, False, self.now
        self.settle()

    @rule(number=numbers)
    def say_port(self, number: int) -> None:
        entry = self.known.get(number)
        if entry is not None and entry.connected:
            self.book.on_listen_port(address_of(number), PORT, self.now)
            entry.listening = True
            self.settle()

    @rule(number=numbers, moved=st.booleans(), sated=st.booleans())
    def close(self, number: int, moved: bool, sated: bool) -> None:
        entry = self.known.get(number)
        if entry is None or not entry.connected:
            return
        self.book.on_closed(address_of(number), self.now, moved, sated=sated)
        entry.connected = False
        if sated and not entry.patient:
            entry.fails, entry.contact, entry.due = 0, self.now, self.now + 600.0
        elif sated or not moved:
            self.fail_now(entry)
        else:
            entry.fails, entry.contact, entry.due = 0, self.now, self.now + RECONNECT
        self.drop_if_lost(number)
        self.settle()

    def drop_if_lost(self, number: int) -> None:
        """Whom we cannot dial and are not connected with we do not keep."""
        entry = self.known[number]
        if not (entry.listening or entry.connected or entry.dialling):
            del self.known[number]

    @rule(number=numbers, bar=st.integers(0, 5))
    def ban(self, number: int, bar: int) -> None:
        if bar:
            return  # seldom: a ban is for ever
        self.book.ban(address_of(number))
        self.barred.add(number)
        self.known.pop(number, None)
        assert address_of(number)[0] in self.book.barred
        self.settle()

    @rule()
    def network_was_gone(self) -> None:
        self.book.revive(self.now)
        for entry in self.known.values():
            if entry.fails and entry.handshake > NEVER:
                entry.fails, entry.due = 0, self.now
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0, 180.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([5.0, 120.0]))
    def dial_all(self, seconds: float) -> None:
        """All that are due, each once."""
        self.now += seconds
        for _ in range(len(self.known)):
            self.dial()
        assert self.book.next_to_dial(self.now) is None

    def settle(self) -> None:
        book = self.book
        book.check_invariants()
        assert len(book) == len(self.known)
        for number in range(12):
            address = address_of(number)
            entry = self.known.get(number)
            assert book.knows(address) == (entry is not None)
            assert book.is_connected(address) == (entry is not None and entry.connected)
            assert book.is_banned(address) == (number in self.barred)
        bound = sum(entry.connected or entry.dialling or entry.rank == RANK["user"] for entry in self.known.values())
        incoming = sum(entry.rank == INCOMING for entry in self.known.values())
        assert len(book) <= max(LIMIT, bound + incoming, LIMIT + incoming + bound)


def test_any_order_of_events() -> None:
    explore(PeerBookMachine)


BUGS = [
    Bug("a failed dial never ends", PeerBook, "on_failed", "entry.dialling = False", "pass"),
    Bug("one failure more before it is given up", _Entry, "given_up", ">= DIAL_FAILURES", "> DIAL_FAILURES", seed=4),
    Bug("who is barred stays in the book", PeerBook, "ban", "self._drop(entry)", "pass"),
    Bug("an entry keeps its old ticket", PeerBook, "on_connected", "False, now, NO_TICKET", "False, now, entry.ticket"),
    Bug("one peer's exchange fills the book", PeerBook, "add", "self._told[teller] >= ", "self._told[teller] > "),
    Bug("who was reached before is dialled at once", PeerBook, "on_closed", "now + RECONNECT", "now", seed=2),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(PeerBookMachine, bug)
