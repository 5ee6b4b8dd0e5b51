"""The routing table (BEP 5, Kademlia): many near nodes, few far ones, each known to answer.

Bucket i holds nodes whose ids share exactly i leading bits with ours: what remains when only the bucket that holds our
own id is ever split. A node comes in by answering, never by asking or by being named. One of an IP, one of a /24 (or
/64) in a bucket; a node whose id does not fit its address (BEP 42) makes room for one whose id does.

Invariant: ``_hosts`` and the buckets hold the same entries.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from btor.dht.contact import BITS, Contact, random_number_sharing
from btor.limits import DHT_BUCKET, DHT_FAILURES, DHT_GOOD, DHT_WIDE_BUCKETS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

NEVER: Final = float("-inf")
LOOKS: Final = 8  # at entries in one search for a silent one


class Entry:
    """A node of the table. Times in monotonic seconds."""

    __slots__ = ("asked", "contact", "failures", "heard")

    def __init__(self, contact: Contact, now: float) -> None:
        self.contact = contact
        self.heard = now  # an answer, or a question once it had answered
        self.asked = NEVER
        self.failures = 0  # questions in a row that it left unanswered

    @property
    def is_bad(self) -> bool:
        """Whether it has left so many questions unanswered that anybody may take its place."""
        return self.failures >= DHT_FAILURES


class Bucket:
    """Nodes by the number of their id, and who would like to be in, the last one heard of at the end."""

    __slots__ = ("entries", "spares")

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.spares: dict[Contact, float] = {}  # when they answered


class Table:
    """The table of the node ``own``. ``loopback_is_public``: the limits by address hold on loopback too."""

    def __init__(self, own: bytes, *, loopback_is_public: bool = False) -> None:
        self.own = int.from_bytes(own)
        self._public_loopback = loopback_is_public
        self._buckets: dict[int, Bucket] = {}
        self._hosts: dict[bytes, Entry] = {}
        self._round: deque[Entry] = deque()  # who is looked at next; entries that are gone leave it late

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Entry]:
        for bits in sorted(self._buckets):
            yield from self._buckets[bits].entries.values()

    def bits_shared(self, number: int) -> int:
        """How many leading bits an id has in common with ours: its bucket. 160 for our own."""
        return BITS - (number ^ self.own).bit_length()

    def buckets(self) -> dict[int, int]:
        """How many nodes each bucket holds that has any."""
        return {bits: len(self._buckets[bits].entries) for bits in sorted(self._buckets) if self._buckets[bits].entries}

    def find(self, contact: Contact) -> Entry | None:
        """The entry of exactly this node."""
        entry = self._hosts.get(self._host(contact))
        return entry if entry is not None and entry.contact is contact else self._same(entry, contact)

    def wants(self, contact: Contact) -> bool:
        """Whether a node that is not in the table would get a place, or one to wait in, if it answered."""
        if contact.number == self.own or self._host(contact) in self._hosts:
            return False
        bits = self.bits_shared(contact.number)
        bucket = self._buckets.get(bits)
        if bucket is None or len(bucket.entries) < capacity(bits):
            return True
        return not bucket.spares or any(entry.failures for entry in bucket.entries.values())

    # -- what happens -----------------------------------------------------------------------------------------------

    def on_query(self, contact: Contact, now: float) -> bool:
        """It asked us something; whether it is in the table."""
        entry = self.find(contact)
        if entry is None:
            return False
        entry.heard = now
        return True

    def on_asked(self, contact: Contact, now: float) -> None:
        """We have asked it something."""
        entry = self.find(contact)
        if entry is not None:
            entry.asked = now

    def on_reply(self, contact: Contact, now: float) -> None:
        """It answered us."""
        entry = self._hosts.get(self._host(contact))
        if entry is None:
            self._insert(contact, now)
        elif self._same(entry, contact) is not None:
            entry.heard = now
            entry.failures = 0
        elif entry.contact.address == contact.address or entry.failures:
            self._remove(entry)  # it has a new id; or it is silent, and another node is at its IP
            self._insert(contact, now)

    def on_failure(self, contact: Contact) -> None:
        """It left a question unanswered."""
        entry = self.find(contact)
        if entry is None:
            return
        entry.failures += 1
        bits = self.bits_shared(contact.number)
        spares = self._buckets[bits].spares
        while entry.is_bad and spares:
            spare, heard = spares.popitem()
            if self._host(spare) not in self._hosts:
                self._remove(entry)
                self._insert(spare, heard)
                return

    def forget(self, contact: Contact) -> None:
        """There is no such node any more."""
        entry = self.find(contact)
        if entry is not None:
            self._remove(entry)

    def rebase(self, own: bytes) -> None:
        """Our id is another now."""
        entries = list(self._hosts.values())
        self.own = int.from_bytes(own)
        self._buckets.clear()
        self._hosts.clear()
        self._round.clear()
        for entry in sorted(entries, key=lambda entry: entry.heard):
            if self._insert(entry.contact, entry.heard):
                self._hosts[self._host(entry.contact)].failures = entry.failures

    # -- what is asked ----------------------------------------------------------------------------------------------

    def closest(self, target: int, count: int = DHT_BUCKET) -> list[Contact]:
        """Up to ``count`` nodes that last answered, the closest to ``target`` first."""
        found: list[Contact] = []
        shared = self.bits_shared(target)
        # Seen from the target: first who shares one bit more with it than we do, then all that are closer to us than
        # that, then the other buckets, nearest to ours first. Only inside each group is there anything to sort.
        own = self._buckets.get(shared)
        if own is not None:
            _gather(own.entries, target, count, found)
        if len(found) < count:
            nearer: dict[int, Entry] = {}
            for bits, bucket in self._buckets.items():
                if bits > shared:
                    nearer.update(bucket.entries)
            _gather(nearer, target, count, found)
        for bits in range(shared - 1, -1, -1):
            if len(found) >= count:
                break
            bucket_ = self._buckets.get(bits)
            if bucket_ is not None:
                _gather(bucket_.entries, target, count, found)
        return found

    def silent(self, now: float) -> Entry | None:
        """The next node that was not heard of for DHT_GOOD seconds, nor asked in the last third of them."""
        for _ in range(min(LOOKS, len(self._round))):
            entry = self._round.popleft()
            if self._hosts.get(self._host(entry.contact)) is not entry:
                continue
            self._round.append(entry)
            if now - entry.heard >= DHT_GOOD and now - entry.asked >= DHT_GOOD / 3:
                return entry
        return None

    def target_near(self, contact: Contact, rng: random.Random) -> int:
        """A random id in the bucket of ``contact``: who is asked for it refreshes that bucket."""
        return random_number_sharing(self.own, min(self.bits_shared(contact.number), BITS - 1), rng)

    def network_bits(self) -> int:
        """About log2 of the number of nodes there are, by how near the nearest ones of the table are; 0: no idea."""
        count = 0
        for bits in sorted(self._buckets, reverse=True):
            count += len(self._buckets[bits].entries)
            if count >= DHT_BUCKET:
                return bits + count.bit_length()
        return 0

    # -- inside -----------------------------------------------------------------------------------------------------

    def _host(self, contact: Contact) -> bytes:
        if self._public_loopback and contact.is_loopback:
            return contact.host[:-2]
        return contact.host

    def _shares_network(self, contact: Contact, other: Contact) -> bool:
        return contact.network == other.network and (self._public_loopback or not contact.is_loopback)

    @staticmethod
    def _same(entry: Entry | None, contact: Contact) -> Entry | None:
        return entry if entry is not None and entry.contact.compact == contact.compact else None

    def _insert(self, contact: Contact, heard: float) -> bool:
        bits = self.bits_shared(contact.number)
        if bits == BITS:
            return False
        bucket = self._buckets.setdefault(bits, Bucket())
        victim = self._in_the_way(bucket, contact)
        if victim is not None:
            if not victim.failures:
                return False  # first come
        elif len(bucket.entries) >= capacity(bits):
            victim = _weakest(bucket, contact)
            if victim is None:
                bucket.spares.pop(contact, None)
                bucket.spares[contact] = heard
                if len(bucket.spares) > DHT_BUCKET:
                    del bucket.spares[next(iter(bucket.spares))]
                return False
        if victim is not None:
            self._remove(victim)
        entry = Entry(contact, heard)
        bucket.entries[contact.number] = entry
        self._hosts[self._host(contact)] = entry
        self._round.append(entry)
        return True

    def _in_the_way(self, bucket: Bucket, contact: Contact) -> Entry | None:
        """An entry that the bucket cannot hold beside ``contact``: of the same id or the same network."""
        same = bucket.entries.get(contact.number)
        if same is not None:
            return same
        for entry in bucket.entries.values():
            if self._shares_network(contact, entry.contact):
                return entry
        return None

    def _remove(self, entry: Entry) -> None:
        del self._hosts[self._host(entry.contact)]
        del self._buckets[self.bits_shared(entry.contact.number)].entries[entry.contact.number]

    def check_invariants(self) -> None:
        """For tests."""
        entries = {id(entry) for entry in self}
        assert entries == {id(entry) for entry in self._hosts.values()}
        assert len(entries) == len(self._hosts)
        for bits, bucket in self._buckets.items():
            assert len(bucket.entries) <= capacity(bits)
            assert len(bucket.spares) <= DHT_BUCKET
            for number, entry in bucket.entries.items():
                assert entry.contact.number == number
                assert self.bits_shared(number) == bits
                assert self._hosts[self._host(entry.contact)] is entry
        assert entries <= {id(entry) for entry in self._round}


def capacity(bits: int) -> int:
    """How many nodes the bucket holds whose ids share ``bits`` bits with ours."""
    return DHT_WIDE_BUCKETS[bits] if bits < len(DHT_WIDE_BUCKETS) else DHT_BUCKET


def _gather(entries: dict[int, Entry], target: int, count: int, found: list[Contact]) -> None:
    """Add to ``found``, up to ``count``, those that last answered, the closest first."""
    for number in sorted(entries, key=target.__xor__):
        entry = entries[number]
        if not entry.failures:
            found.append(entry.contact)
            if len(found) >= count:
                return


def _weakest(bucket: Bucket, contact: Contact) -> Entry | None:
    """Who has to go for ``contact``: a bad node, else, if its id fits its address, one whose id does not."""
    for entry in bucket.entries.values():
        if entry.is_bad:
            return entry
    if contact.fits:
        for entry in bucket.entries.values():
            if not entry.contact.fits:
                return entry
    return None
