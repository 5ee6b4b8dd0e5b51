"""One search for the nodes closest to an id, and for the peers they know (Kademlia, BEP 5, 33).

A few questions are on the way at a time, always to the closest nodes that were not asked yet; every answer names nodes
that are closer. It ends when the K closest that live have answered.

Against nodes that crowd around a target: those whose id does not fit their address (BEP 42), or is closer to the target
than chance explains, are *outsiders*. They are asked too, but one at a time, few in all, and never count among the K,
unless there is nobody else. At most two questions of those on the way go to one network.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from typing import TYPE_CHECKING, Final

from btor.dht.bloom import union
from btor.dht.contact import BITS, Contact
from btor.limits import (
    DHT_BUCKET,
    DHT_CANDIDATES,
    DHT_LOOKUP_PEERS,
    DHT_LOOKUP_QUERIES,
    DHT_OUTSIDERS,
    DHT_PARALLEL,
    DHT_PARALLEL_PER_NETWORK,
)
from btor.wire.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from btor.wire.krpc import Reply

NEW: Final = 0
ASKED: Final = 1
SLOW: Final = 2
ANSWERED: Final = 3
FAILED: Final = 4


class Candidate:
    """A node met on the way. ``depth``: through how many answers it was found."""

    __slots__ = ("contact", "depth", "inside", "state", "token")

    def __init__(self, contact: Contact, depth: int, inside: bool) -> None:
        self.contact = contact
        self.depth = depth
        self.inside = inside
        self.state = NEW
        self.token = b""


Ranked = tuple[int, bytes, Candidate]  # distance, to break ties the compact form


class Lookup:
    """A search for ``target`` (20 bytes). Made and driven by the node; whoever started it reads the results.

    ``peers``: compact addresses, each with the packed IP of the node that told. ``asked``: questions so far. ``hops``:
    the depth of the first answer that held peers, else of the deepest one. ``seeds``, ``others``: the joined Bloom
    filters of a scrape, None where no node gave any.
    """

    def __init__(
        self,
        target: bytes,
        *,
        own: int,
        want_peers: bool = False,
        scrape: bool = False,
        plausible_bits: int = BITS,
        loopback_is_public: bool = False,
    ) -> None:
        self.target = target
        self.want_peers = want_peers
        self.scrape = scrape
        self.peers: dict[bytes, str] = {}
        self.seeds: bytes | None = None
        self.others: bytes | None = None
        self.asked = 0
        self.answered = 0
        self.failed = 0
        self.hops = 0
        self._number = int.from_bytes(target)
        self._own = own
        self._plausible_bits = plausible_bits
        self._public_loopback = loopback_is_public
        self._inside: list[Ranked] = []
        self._outside: list[Ranked] = []
        self._known: dict[Contact, Candidate] = {}
        self._strangers: dict[Address, int] = {}  # addresses without an id, to begin from: their state
        self._busy = 0  # questions on the way that are not slow yet
        self._slow = 0  # those that are
        self._outsiders_busy = 0
        self._outsiders_asked = 0
        self._networks: Counter[bytes] = Counter()  # of the questions on the way
        self._fresh: list[tuple[bytes, str]] = []

    # -- what is known ----------------------------------------------------------------------------------------------

    def add(self, contacts: Iterable[Contact], depth: int = 0) -> None:
        """Nodes that were named, or that we know ourselves."""
        for contact in contacts:
            if contact not in self._known and contact.number != self._own:
                self._enter(contact, depth)

    def add_strangers(self, addresses: Iterable[Address]) -> None:
        """Addresses whose ids nobody knows, asked while too few others are there."""
        for address in addresses:
            self._strangers.setdefault(address, NEW)

    def _enter(self, contact: Contact, depth: int) -> Candidate | None:
        distance = contact.number ^ self._number
        inside = self._is_inside(contact, distance)
        ranked, limit = (self._inside, DHT_CANDIDATES) if inside else (self._outside, DHT_OUTSIDERS)
        if len(ranked) >= limit and distance >= ranked[-1][0]:
            return None
        candidate = self._known[contact] = Candidate(contact, depth, inside)
        insort(ranked, (distance, contact.compact, candidate))
        if len(ranked) > limit:
            *_, gone = ranked[-1]
            if gone.state == NEW:
                ranked.pop()
                del self._known[gone.contact]
        return candidate

    def _is_inside(self, contact: Contact, distance: int) -> bool:
        if contact.is_loopback and not self._public_loopback:
            return True
        return contact.fits and BITS - distance.bit_length() <= self._plausible_bits

    # -- what happens -----------------------------------------------------------------------------------------------

    def on_reply(self, asked: Contact | Address, contact: Contact, reply: Reply, named: Iterable[Contact]) -> None:
        """``contact``, of which we knew what ``asked`` says, answered and named nodes that may be asked."""
        if not isinstance(asked, Contact):
            self._move(asked, ANSWERED)
        candidate = self._known.get(contact)
        if candidate is None:  # a stranger so far
            candidate = self._enter(contact, 0)
            if candidate is None:
                return
        self.answered += candidate.state != ANSWERED
        self._move(contact, ANSWERED)  # also of a stranger: others may have named it, so it was asked twice
        candidate.token = reply.token
        self.add(named, candidate.depth + 1)
        if self.want_peers:
            self._collect(candidate, reply)
        if not self.peers:
            self.hops = max(self.hops, candidate.depth)

    def _collect(self, candidate: Candidate, reply: Reply) -> None:
        if reply.values and not self.peers:
            self.hops = candidate.depth
        for peer in reply.values:
            if peer not in self.peers and len(self.peers) < DHT_LOOKUP_PEERS:
                self.peers[peer] = candidate.contact.address[0]
                self._fresh.append((peer, candidate.contact.address[0]))
        if reply.seeds is not None:
            self.seeds = reply.seeds if self.seeds is None else union(self.seeds, reply.seeds)
        if reply.peers is not None:
            self.others = reply.peers if self.others is None else union(self.others, reply.peers)

    def on_slow(self, asked: Contact | Address) -> None:
        """It has not answered yet: another may be asked beside it."""
        self._move(asked, SLOW)

    def on_failure(self, asked: Contact | Address) -> None:
        """It did not answer, or with an error."""
        self.failed += 1
        self._move(asked, FAILED)

    def _move(self, asked: Contact | Address, state: int) -> None:
        """A question or its answer, or the lack of it, changes the state of a node or a stranger."""
        if isinstance(asked, Contact):
            candidate = self._known[asked]
            before = candidate.state
            if before == ANSWERED:
                return  # another question to it, as to a stranger, was answered
            candidate.state = state
            step = (state == ASKED) - (before == ASKED)
            self._networks[asked.network] += step
            if not candidate.inside:
                self._outsiders_busy += step
        else:
            before = self._strangers[asked]
            self._strangers[asked] = state
        self._busy += (state == ASKED) - (before == ASKED)
        self._slow += (state == SLOW) - (before == SLOW)

    # -- what follows -----------------------------------------------------------------------------------------------

    def take(self) -> list[Contact | Address]:
        """Whom to ask now; strangers by their address."""
        found: list[Contact | Address] = []
        while self._busy < DHT_PARALLEL and self.asked < DHT_LOOKUP_QUERIES:
            candidate = self._next()
            who = self._next_stranger() if candidate is None else candidate.contact
            if who is None:
                break
            self._move(who, ASKED)
            self._outsiders_asked += candidate is not None and not candidate.inside
            self.asked += 1
            found.append(who)
        return found

    @property
    def done(self) -> bool:
        """Whether the K closest have answered, or nobody is left to ask or to wait for."""
        if self.asked >= DHT_LOOKUP_QUERIES:
            return self._busy == 0
        answered, waiting, fresh = self._window()
        if waiting or fresh is not None or self._outsiders_busy or self._next_outsider(answered) is not None:
            return False
        return answered >= DHT_BUCKET or (self._busy + self._slow == 0 and self._next_stranger() is None)

    def closest(self) -> list[Candidate]:
        """The K closest nodes that answered with a token; outsiders only where there are too few others."""
        found: list[Candidate] = []
        for ranked in (self._inside, self._outside):
            for _, _, candidate in ranked:
                if len(found) == DHT_BUCKET:
                    return found
                if candidate.state == ANSWERED and candidate.token:
                    found.append(candidate)
        return found

    def take_peers(self) -> list[tuple[bytes, str]]:
        """Peers found since the last call: compact addresses, and the IP of the node that told."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _window(self) -> tuple[int, bool, Candidate | None]:
        """Of the K closest that may live: how many answered, whether one is still to answer, the first to ask next.

        A slow node leaves its place to the next one for as long as it is silent.
        """
        answered, waiting, fresh, seen = 0, False, None, 0
        for _, _, candidate in self._inside:
            state = candidate.state
            if state == ANSWERED:
                answered += 1
            elif state == ASKED:
                waiting = True
            elif state != NEW:
                continue
            elif self._has_room(candidate.contact):
                fresh = fresh or candidate
            else:
                waiting = True  # for others of its network
            seen += 1
            if seen == DHT_BUCKET:
                break
        return answered, waiting, fresh

    def _next(self) -> Candidate | None:
        answered, waiting, fresh = self._window()
        outsider = self._next_outsider(answered)
        if outsider is None:
            return fresh
        alone = fresh is None and not waiting and answered < DHT_BUCKET
        return outsider if alone or not self._outsiders_busy else fresh

    def _next_outsider(self, answered: int) -> Candidate | None:
        """The closest one to ask: of those nearer than the K-th of the others while there are K, else of all."""
        if self._outsiders_asked >= DHT_OUTSIDERS and answered >= DHT_BUCKET // 2:
            return None
        bound = self._kth_distance() if answered >= DHT_BUCKET else 1 << BITS
        seen = 0
        for distance, _, candidate in self._outside:
            if distance >= bound or seen == DHT_BUCKET:
                return None
            if candidate.state == NEW and self._has_room(candidate.contact):
                return candidate
            seen += candidate.state in (ANSWERED, ASKED)
        return None

    def _kth_distance(self) -> int:
        answered = [distance for distance, _, candidate in self._inside if candidate.state == ANSWERED]
        return answered[DHT_BUCKET - 1]

    def _has_room(self, contact: Contact) -> bool:
        if contact.is_loopback and not self._public_loopback:
            return True
        return self._networks[contact.network] < DHT_PARALLEL_PER_NETWORK

    def _next_stranger(self) -> Address | None:
        if self.answered >= DHT_BUCKET:
            return None
        return next((address for address, state in self._strangers.items() if state == NEW), None)
