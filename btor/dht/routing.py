"""The routing table (BEP 5, Kademlia): many near nodes, few far ones, each known to answer.

Bucket i holds nodes whose ids share exactly i leading bits with ours: what remains when only the bucket that holds our
own id is ever split. The first buckets have several *rooms*, told apart by the next bits, so that lookups take fewer
steps; a room holds K nodes. A node comes in by answering, never by asking or by being named. One of an IP, one of a /24
(or /64) in a bucket; a node whose id does not fit its address (BEP 42) makes room for one whose id does.

Invariant: ``_hosts``, the rooms and, but on loopback, the networks of the buckets hold the same entries.
"""

from __future__ import annotations

import itertools
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

from btor.dht.contact import BITS, Contact
from btor.limits import DHT_BUCKET, DHT_FAILURES, DHT_GOOD, DHT_WIDE_BUCKETS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

NEVER: Final = float("-inf")
UNFIT: Final = 4  # one node of so many that are named may have an id that does not fit its address
SCANNED: Final = 48  # nodes looked at, at most, to find enough that are fit to be named

_ROOM_BITS: Final = tuple((size // DHT_BUCKET).bit_length() - 1 for size in DHT_WIDE_BUCKETS)


class Entry:
    """A node of the table. Times in monotonic seconds."""

    __slots__ = ("asked", "contact", "failures", "fits", "gone", "heard")

    def __init__(self, contact: Contact, now: float) -> None:
        self.contact = contact
        self.fits = contact.fits  # read for every node that is named
        self.heard = now  # an answer, or a question once it had answered
        self.asked = NEVER
        self.failures = 0  # questions in a row that it left unanswered
        self.gone = False  # not in the table any more

    @property
    def is_bad(self) -> bool:
        """Whether it has left so many questions unanswered that anybody may take its place."""
        return self.failures >= DHT_FAILURES


class _Room:
    """Nodes by the number of their id, and who would like to be in, the last one that answered at the end."""

    __slots__ = ("entries", "spares")

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.spares: dict[Contact, float] = {}  # when they answered

    def weakest(self, newcomer: Contact) -> Entry | None:
        """Who has to go for ``newcomer``: a bad node, else, if its id fits its address, one whose id does not."""
        for entry in self.entries.values():
            if entry.is_bad:
                return entry
        if newcomer.fits:
            for entry in self.entries.values():
                if not entry.fits:
                    return entry
        return None


class _Bucket:
    """The rooms of one bucket, and its nodes by their networks."""

    __slots__ = ("networks", "room_bits", "rooms", "shift")

    def __init__(self, bits: int) -> None:
        self.room_bits = _ROOM_BITS[bits] if bits < len(_ROOM_BITS) else 0
        self.shift = BITS - 1 - bits - self.room_bits
        self.rooms = [_Room() for _ in range(1 << self.room_bits)]
        self.networks: dict[bytes, Entry] = {}

    def index(self, number: int) -> int:
        """Which room an id belongs to."""
        return number >> self.shift & (1 << self.room_bits) - 1

    def room(self, number: int) -> _Room:
        """The room that an id belongs to."""
        return self.rooms[self.index(number)]

    def __len__(self) -> int:
        return sum(len(room.entries) for room in self.rooms)

    def __iter__(self) -> Iterator[Entry]:
        for room in self.rooms:
            yield from room.entries.values()


class Table:
    """The table of the node ``own``. ``loopback_is_public``: the limits by address hold on loopback too."""

    def __init__(self, own: bytes, *, loopback_is_public: bool = False) -> None:
        self.own = int.from_bytes(own)
        self._public_loopback = loopback_is_public
        self._buckets: dict[int, _Bucket] = {}
        self._hosts: dict[bytes, Entry] = {}
        # a heap: when each entry may first have been silent for too long; those that are gone leave it late
        self._round: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Entry]:
        for bits in sorted(self._buckets):
            yield from self._buckets[bits]

    def bits_shared(self, number: int) -> int:
        """How many leading bits an id has in common with ours: its bucket. 160 for our own."""
        return BITS - (number ^ self.own).bit_length()

    def buckets(self) -> dict[int, int]:
        """How many nodes each bucket holds that has any."""
        return {bits: len(self._buckets[bits]) for bits in sorted(self._buckets) if len(self._buckets[bits])}

    def find(self, contact: Contact) -> Entry | None:
        """The entry of exactly this node."""
        entry = self._hosts.get(self._host(contact))
        return entry if entry is not None and entry.contact.compact == contact.compact else None

    def wants(self, contact: Contact) -> bool:
        """Whether a node that is not in the table would get a place, or one to wait in, if it answered."""
        if contact.number == self.own or self._host(contact) in self._hosts:
            return False
        bucket = self._buckets.get(self.bits_shared(contact.number))
        if bucket is None:
            return True
        room = bucket.room(contact.number)
        if len(room.entries) < DHT_BUCKET or not room.spares:
            return True
        return any(entry.failures for entry in room.entries.values())

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
        elif entry.contact.compact == contact.compact:
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
        spares = self._buckets[self.bits_shared(contact.number)].room(contact.number).spares
        while entry.is_bad and spares:
            spare, heard = spares.popitem()
            if self._host(spare) not in self._hosts and self._insert(spare, heard):
                return

    def forget(self, contact: Contact) -> None:
        """There is no such node any more."""
        entry = self.find(contact)
        if entry is not None:
            self._remove(entry)

    def rebase(self, own: bytes) -> None:
        """Our id is another now."""
        entries = sorted(self._hosts.values(), key=lambda entry: entry.heard)
        self.own = int.from_bytes(own)
        self._buckets.clear()
        self._hosts.clear()
        self._round.clear()
        for entry in entries:
            if self._insert(entry.contact, entry.heard):
                self._hosts[self._host(entry.contact)].failures = entry.failures

    # -- what is asked ----------------------------------------------------------------------------------------------

    def closest(self, target: int, count: int = DHT_BUCKET) -> list[Contact]:
        """Up to ``count`` nodes that last answered, the closest to ``target`` first.

        Nodes whose id does not fit their address are a quarter of them at most, while there are enough others: else a
        crowd of them around the target would be all that anybody is told.
        """
        found: list[Contact] = []
        unfit: list[Contact] = []
        left = SCANNED
        for entries in self._groups(target):
            for number in sorted(entries, key=target.__xor__):
                entry = entries[number]
                if not entry.failures:
                    (found if entry.fits else unfit).append(entry.contact)
            left -= len(entries)
            if len(found) >= count or (left <= 0 and len(found) + len(unfit) >= count):
                break
        if unfit:
            unfit = unfit[: max(count // UNFIT, count - len(found))]
            found = sorted(found[:count] + unfit, key=lambda contact: contact.number ^ target)
        return found[:count]

    def _groups(self, target: int) -> Iterator[dict[int, Entry]]:
        """The nodes in groups, each farther from ``target`` than the one before: only inside a group is there to sort.

        First who shares one bit more with it than we do, room by room; then all that are nearer to us than that; then
        the other buckets, the nearest to us first.
        """
        shared = self.bits_shared(target)
        if shared in self._buckets:
            yield from self._rooms(self._buckets[shared], target)
        nearer: dict[int, Entry] = {}
        for bits, bucket in self._buckets.items():
            if bits > shared:
                for room in bucket.rooms:
                    nearer.update(room.entries)
        yield nearer
        for bits in sorted(self._buckets, reverse=True):
            if bits < shared:
                yield from self._rooms(self._buckets[bits], target)

    @staticmethod
    def _rooms(bucket: _Bucket, target: int) -> Iterator[dict[int, Entry]]:
        nearest = bucket.index(target)
        for step in range(len(bucket.rooms)):
            yield bucket.rooms[nearest ^ step].entries

    def silent(self, now: float) -> Entry | None:
        """A node that was not heard of for DHT_GOOD seconds, nor asked in the last third of them."""
        while self._round and self._round[0][0] <= now:
            _, order, entry = self._round[0]
            if entry.gone:
                heappop(self._round)
                continue
            due = max(entry.heard + DHT_GOOD, entry.asked + DHT_GOOD / 3)
            if due <= now:
                return entry
            heapreplace(self._round, (due, order, entry))
        return None

    def silent_from(self) -> float:
        """Before then no node is `silent`."""
        return self._round[0][0] if self._round else float("inf")

    def target_near(self, contact: Contact, rng: random.Random) -> int:
        """A random id in the room of ``contact``, a node of the table: who is asked for it refreshes that room."""
        rest = self._buckets[self.bits_shared(contact.number)].shift
        return contact.number >> rest << rest | (rng.getrandbits(rest) if rest else 0)

    def network_bits(self) -> int:
        """About log2 of the number of nodes there are, by how near the nearest ones of the table are; 0: no idea."""
        count = 0
        for bits in sorted(self._buckets, reverse=True):
            count += sum(entry.fits for entry in self._buckets[bits])
            if count >= DHT_BUCKET:
                return bits + count.bit_length()
        return 0

    # -- inside -----------------------------------------------------------------------------------------------------

    def _host(self, contact: Contact) -> bytes:
        if self._public_loopback and contact.is_loopback:
            return contact.host[:-2]
        return contact.host

    def _is_limited(self, contact: Contact) -> bool:
        return self._public_loopback or not contact.is_loopback

    def _insert(self, contact: Contact, heard: float) -> bool:
        bits = self.bits_shared(contact.number)
        if bits == BITS:
            return False
        bucket = self._buckets.get(bits)
        if bucket is None:
            bucket = self._buckets[bits] = _Bucket(bits)
        room = bucket.room(contact.number)
        victims = self._in_the_way(bucket, room, contact)
        if any(not victim.failures for victim in victims):
            return False  # first come
        if not victims and len(room.entries) >= DHT_BUCKET:
            weakest = room.weakest(contact)
            if weakest is None:
                room.spares.pop(contact, None)
                room.spares[contact] = heard
                if len(room.spares) > DHT_BUCKET:
                    del room.spares[next(iter(room.spares))]
                return False
            victims = [weakest]
        for victim in victims:
            self._remove(victim)
        entry = Entry(contact, heard)
        room.entries[contact.number] = entry
        self._hosts[self._host(contact)] = entry
        heappush(self._round, (heard + DHT_GOOD, next(self._order), entry))
        if self._is_limited(contact):
            bucket.networks[contact.network] = entry
        return True

    def _in_the_way(self, bucket: _Bucket, room: _Room, contact: Contact) -> list[Entry]:
        """Entries that the bucket cannot hold beside ``contact``: of the same id, and of the same network."""
        found = []
        if contact.number in room.entries:
            found.append(room.entries[contact.number])
        if self._is_limited(contact):
            neighbour = bucket.networks.get(contact.network)
            if neighbour is not None and neighbour not in found:
                found.append(neighbour)
        return found

    def _remove(self, entry: Entry) -> None:
        contact = entry.contact
        entry.gone = True
        bucket = self._buckets[self.bits_shared(contact.number)]
        del self._hosts[self._host(contact)]
        del bucket.room(contact.number).entries[contact.number]
        if self._is_limited(contact):
            del bucket.networks[contact.network]
        if len(self._round) > 2 * len(self._hosts) + DHT_BUCKET:  # most are gone
            self._round = [one for one in self._round if not one[2].gone]
            heapify(self._round)

    def check_invariants(self) -> None:
        """For tests."""
        entries = {id(entry) for entry in self}
        assert entries == {id(entry) for entry in self._hosts.values()}
        assert entries == {id(entry) for _, _, entry in self._round if not entry.gone}
        assert len(self._round) <= 2 * len(self._hosts) + DHT_BUCKET
        assert len(entries) == len(self._hosts)
        for bits, bucket in self._buckets.items():
            limited = {id(entry) for entry in bucket if self._is_limited(entry.contact)}
            assert limited == {id(entry) for entry in bucket.networks.values()}
            for index, room in enumerate(bucket.rooms):
                assert len(room.entries) <= DHT_BUCKET
                assert len(room.spares) <= DHT_BUCKET
                for number, entry in room.entries.items():
                    assert entry.contact.number == number
                    assert (self.bits_shared(number), bucket.index(number)) == (bits, index)
                    assert self._hosts[self._host(entry.contact)] is entry
