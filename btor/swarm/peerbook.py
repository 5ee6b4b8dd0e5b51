"""The addresses of one torrent's peers: which are known, which is dialled next, which are barred.

A peer is its IP address: there is one connection per IP and torrent, and a new port replaces one that failed. On
loopback, where a whole swarm shares one IP, a peer is its address and port, and a failed dial is repeated soon.

The order of dialling: fewest failures, then by source (the user, a magnet's ``x.pe``, a tracker, local discovery, DHT,
exchange, a former incoming peer), then the one out of touch for longest, then by the priority that both ends of a pair
agree on (BEP 40), or by lot while our own address is not known.

Invariant: an entry that may be dialled has one live ticket, in ``_waiting`` or in one of the two ready heaps; a ticket
is withdrawn by giving the entry another number, and stale ones are skipped when met.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from btor.limits import (
    BANS_KEPT,
    DIAL_FAILURES,
    DIAL_RETRY,
    DIAL_RETRY_USER_MAX,
    DIAL_RETRY_USER_MIN,
    OWN_ADDRESSES,
    PEER_LIST,
    PEER_SHARE_OF_LIST,
    RECONNECT,
    SEEDS_APART,
    TRUSTED_AFTER_HANDSHAKE,
    WEED_PERIOD,
)
from btor.swarm.bans import Bans
from btor.swarm.priority import peer_priority
from btor.wire.address import Address, dialable, reach

if TYPE_CHECKING:
    import random

    from btor.swarm.dial_budget import DialBudget

PeerSource = Literal["user", "magnet", "tracker", "lsd", "dht", "pex"]
Key = str | Address  # the IP, or on loopback the address

RANK: Final[dict[PeerSource, int]] = {"user": 0, "magnet": 1, "tracker": 2, "lsd": 3, "dht": 4, "pex": 5}
INCOMING: Final = 6  # the rank of a peer that we know only because it came to us
NEVER: Final = float("-inf")
NO_TICKET: Final = 0
STALE_TICKETS: Final = 64  # beyond twice the entries: below that, throwing them out is not worth it
DIAL_RETRY_DOUBLINGS: Final = 16  # by then far over any maximum


class _Entry:
    """One known peer."""

    __slots__ = (
        "address",
        "connected",
        "contact",
        "dialling",
        "due",
        "fails",
        "handshake",
        "key",
        "listening",
        "patient",
        "rank",
        "salt",
        "teller",
        "ticket",
    )

    def __init__(self, key: Key, address: Address, rank: int, salt: float) -> None:
        self.key = key
        self.address = address
        self.rank = rank
        self.salt = salt  # breaks ties
        self.listening = rank != INCOMING  # the port is one that can be dialled
        self.patient = True  # retries wait by the minute and end; not so for the user's peers and on loopback
        self.teller: str | None = None  # the peer that told us of it, by exchange
        self.connected = False
        self.dialling = False
        self.fails = 0
        self.contact = NEVER  # the last attempt or end of a connection
        self.handshake = NEVER  # the last one completed
        self.due = NEVER  # not to be dialled before
        self.ticket = NO_TICKET

    @property
    def given_up(self) -> bool:
        """Whether it is not dialled any more."""
        return self.patient and self.fails >= DIAL_FAILURES

    @property
    def may_be_dialled(self) -> bool:
        """Whether it is dialled when its time has come."""
        return self.listening and not (self.connected or self.dialling or self.given_up)

    @property
    def badness(self) -> tuple[bool, int, int]:
        """What is weeded first compares highest."""
        return (self.given_up, self.fails, self.rank)


class _Place(NamedTuple):
    """A place in the order of dialling."""

    fails: int
    rank: int
    contact: float
    salt: float
    ticket: int
    entry: _Entry


class PeerBook:
    """The peers of one torrent. Times are monotonic seconds; addresses hold IPs in canonical form.

    ``bans`` is the session's; without it the book has its own. ``own``: our addresses as the internet sees them, one of
    a family at most, as far as they are known.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        bans: Bans | None = None,
        limit: int = PEER_LIST,
        loopback_is_public: bool = False,
    ) -> None:
        self.bans = Bans(loopback_is_public=loopback_is_public) if bans is None else bans
        self.own: tuple[Address, ...] = ()
        self._rng = rng
        self._limit = limit
        self._loopback_is_public = loopback_is_public
        self._entries: dict[Key, _Entry] = {}
        self._listen_ports: dict[Address, Address] = {}  # on loopback: the remote end of a connection → listen address
        self._barred: dict[str, None] = {}  # IPs that this torrent had barred, in this run or before
        self._own: dict[Address, None] = {}  # our own addresses, as dials found out
        self._told: Counter[str] = Counter()  # entries by the peer that told us of them
        self._tickets = NO_TICKET
        self._waiting: list[tuple[float, int, _Entry]] = []  # by due time
        self._ready: list[_Place] = []  # by the order of dialling
        self._privileged: list[_Place] = []  # no budget holds these back
        self._weeds: list[_Entry] = []  # the worst last
        self._weeded = NEVER

    def __len__(self) -> int:
        """Known peers, connected ones included."""
        return len(self._entries)

    # -- what is known --------------------------------------------------------------------------------------------

    def add(self, address: Address, source: PeerSource, now: float, *, from_ip: str | None = None) -> bool:
        """A source names a peer; whether it is known now.

        ``from_ip``: the IP of the tracker, node or peer that named it, which decides with the source whether the
        address may be dialled at all.
        """
        user = source == "user"
        if not dialable(address, source_ip=from_ip, user=user or source == "magnet"):
            return False
        if address in self._own or self.bans.bars(address):
            return False
        entry = self._find(address)
        if entry is not None:
            self._hear_again(entry, address, source)
            return True
        teller = self._teller(source, from_ip)
        if teller is not None and self._told[teller] >= PEER_SHARE_OF_LIST * self._limit:
            return False
        if not user and not self._make_room(RANK[source], now):
            return False
        self._enqueue(self._enter(address, RANK[source], teller))
        return True

    def add_all(
        self, addresses: Iterable[Address], source: PeerSource, now: float, *, from_ip: str | None = None
    ) -> int:
        """Add each; how many are known now."""
        return sum(self.add(address, source, now, from_ip=from_ip) for address in addresses)

    def on_listen_port(self, remote: Address, port: int, now: float) -> None:
        """The peer that connected to us from ``remote`` says which port it listens on (BEP 10 ``p``)."""
        entry = self._find(remote)
        address = (remote[0], port)
        if entry is None or entry.listening or not dialable(address, source_ip=remote[0], user=False):
            return
        if isinstance(entry.key, str) or address == remote:
            entry.address, entry.listening = address, True
            return
        # on loopback the listen address is another key, perhaps known already
        known = self._entries.setdefault(address, entry)
        if known.connected and known is not entry:
            return  # what it says is not true, or not news
        del self._entries[remote]
        self._listen_ports[remote] = address
        known.key, known.address, known.listening = address, address, True
        known.connected, known.handshake, known.ticket = True, now, NO_TICKET

    def resize(self, limit: int) -> None:
        """Keep at most ``limit`` peers (a paused torrent needs fewer), dropping the worst."""
        self._limit = limit
        surplus = len(self._entries) - limit
        if surplus > 0:
            for entry in self._weedable()[-surplus:]:
                self._drop(entry)

    def forget_swarm(self) -> None:
        """Forget all but those that the user named: a private torrent's other tracker has other peers (BEP 27)."""
        for entry in list(self._entries.values()):
            if entry.rank != RANK["user"]:
                self._drop(entry)

    # -- dialling -------------------------------------------------------------------------------------------------

    def next_to_dial(self, now: float, budget: DialBudget | None = None) -> Address | None:
        """The peer to dial now, or None. It stays next until ``on_dialled``. What ``budget`` holds back is left out."""
        self._promote(now)
        while (entry := self._first(self._privileged)) is not None:
            if self._is_privileged(entry, now):
                return entry.address
            heapq.heappush(self._ready, heapq.heappop(self._privileged))
        while (budget is None or budget.open(now)) and (entry := self._first(self._ready)) is not None:
            wait = 0.0 if budget is None else budget.wait(entry.address[0], now)
            if not wait:
                return entry.address
            heapq.heappop(self._ready)
            entry.due = now + wait
            self._enqueue(entry)
        return None

    def next_to_probe(self, now: float, budget: DialBudget) -> Address | None:
        """Of the peers that were reached before, the one out of touch for longest, even if it was given up."""
        reached = [
            entry
            for entry in self._entries.values()
            if entry.handshake > NEVER
            and entry.listening
            and not (entry.connected or entry.dialling or self.bans.bars(entry.address))
        ]
        entry = min(reached, key=lambda entry: entry.contact, default=None)
        if entry is None or not budget.open(now) or budget.wait(entry.address[0], now):
            return None
        return entry.address

    def revive(self, now: float) -> None:
        """The network was gone, not they: forgive the peers that had been reached before what failed since."""
        for entry in list(self._entries.values()):
            if entry.fails and entry.handshake > NEVER:
                entry.fails, entry.due = 0, now
                self._enqueue(entry)

    def on_dialled(self, address: Address, now: float) -> None:
        """A connection to a peer is being opened."""
        entry = self._find(address)
        if entry is not None:
            entry.dialling, entry.contact, entry.ticket = True, now, NO_TICKET

    def on_failed(self, address: Address, now: float) -> None:
        """It could not be opened, or no handshake came: tried again later and later, then given up."""
        entry = self._find(address)
        if entry is None:
            return
        entry.dialling = False
        if not entry.connected:  # it may have connected to us meanwhile
            self._count_failure(entry, now)

    def on_not_tried(self, address: Address, now: float) -> None:
        """It could not even be tried, for a reason of ours: it is due again soon, and nothing is held against it."""
        entry = self._find(address)
        if entry is None:
            return
        entry.dialling = False
        if not entry.connected:
            entry.due = now + RECONNECT
            self._enqueue(entry)

    def on_duplicate(self, address: Address, remote: Address, now: float) -> None:
        """The dial to ``address`` reached a peer that is connected already, from ``remote``."""
        entry = self._find(address)
        if entry is not None:
            entry.dialling = False
        if address[0] == remote[0]:
            self.on_listen_port(remote, address[1], now)
        if entry is not None and not entry.connected:
            self._count_failure(entry, now)

    def on_connected(self, address: Address, now: float) -> None:
        """A handshake with a peer is complete, whoever dialled. One that is not known came to us."""
        entry = self._find(address) or self._enter(address, INCOMING)
        entry.connected, entry.dialling, entry.handshake, entry.ticket = True, False, now, NO_TICKET

    def on_closed(self, address: Address, now: float, moved: bool, *, sated: bool = False) -> None:
        """The connection is gone. ``moved``: it was worth having, so the peer is dialled again soon.

        ``sated``: both sides are complete, which no further dial is likely to change.
        """
        entry = self._find(address)
        self._listen_ports.pop(address, None)
        if entry is None:
            return
        entry.connected = False
        if sated and not entry.patient:
            entry.fails, entry.contact, entry.due = 0, now, now + SEEDS_APART
            self._enqueue(entry)
            return
        if sated or not moved:
            self._count_failure(entry, now)
            return
        entry.fails, entry.contact, entry.due = 0, now, now + RECONNECT
        self._enqueue(entry)

    def on_self(self, address: Address) -> None:
        """The peer there has our own peer id: never again in this session."""
        self._own[address] = None
        while len(self._own) > OWN_ADDRESSES:
            del self._own[next(iter(self._own))]
        entry = self._find(address)
        if entry is not None and entry.address == address:
            self._drop(entry)

    # -- who may be connected -------------------------------------------------------------------------------------

    def knows(self, address: Address) -> bool:
        """Whether the peer at ``address`` is known; one that is being dialled may have been forgotten meanwhile."""
        return self._find(address) is not None

    def is_connected(self, address: Address) -> bool:
        """Whether there is a connection with the peer at ``address`` (its IP, on loopback its port too)."""
        entry = self._find(address)
        return entry is not None and entry.connected

    def ban(self, address: Address, peer_id: bytes | None = None) -> None:
        """Bar a peer for the session, by IP; on loopback by listen address and peer id."""
        entry = self._find(address)
        self.bans.add(address if entry is None else entry.address, peer_id)
        if entry is not None:
            self._drop(entry)
        if isinstance(self._key(address), str):
            self._note_barred(address[0])

    @property
    def barred(self) -> tuple[str, ...]:
        """The IPs that this torrent had barred, for the next run: the latest ``BANS_KEPT``.

        None on loopback, where a ban is one of a port, which somebody else has in the next run.
        """
        return tuple(self._barred)

    def restore_bans(self, ips: Iterable[str]) -> None:
        """Bar again whom an earlier run of this torrent had barred."""
        for ip in ips:
            self.bans.add((ip, 0))
            self._note_barred(ip)

    def _note_barred(self, ip: str) -> None:
        self._barred.pop(ip, None)
        self._barred[ip] = None
        while len(self._barred) > BANS_KEPT:
            del self._barred[next(iter(self._barred))]

    def is_banned(self, address: Address, peer_id: bytes | None = None) -> bool:
        """Whether it is barred."""
        return self.bans.bars(address, peer_id)

    def check_invariants(self) -> None:
        """AssertionError when tickets and entries disagree (tests)."""
        places = [(ticket, entry) for _, ticket, entry in self._waiting]
        places += [(place.ticket, place.entry) for place in [*self._ready, *self._privileged]]
        live = [entry for ticket, entry in places if entry.ticket == ticket]
        holders = set(live)
        assert len(live) == len(holders), "two tickets"
        assert all(self._entries.get(entry.key) is entry for entry in live), "a ticket of nobody"
        for key, entry in self._entries.items():
            assert entry.key == key
            assert entry.listening or entry.connected or entry.dialling, entry.address
            assert (entry in holders) == entry.may_be_dialled, entry.address
        assert self._told == Counter(entry.teller for entry in self._entries.values() if entry.teller is not None)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _key(self, address: Address) -> Key:
        if not self._loopback_is_public and reach(address[0]) == "loopback":
            return self._listen_ports.get(address, address)
        return address[0]

    def _find(self, address: Address) -> _Entry | None:
        return self._entries.get(self._key(address))

    def _is_privileged(self, entry: _Entry, now: float) -> bool:
        return entry.rank == RANK["user"] or now - entry.handshake < TRUSTED_AFTER_HANDSHAKE

    def _teller(self, source: PeerSource, from_ip: str | None) -> str | None:
        """Whose share of the list this counts in; None where no share is kept."""
        if source != "pex" or from_ip is None or not isinstance(self._key((from_ip, 0)), str):
            return None
        return from_ip

    def _enter(self, address: Address, rank: int, teller: str | None = None) -> _Entry:
        key = self._key(address)
        entry = _Entry(key, address, rank, self._rng.random())
        entry.patient = rank != RANK["user"] and isinstance(key, str)
        entry.teller = teller
        if teller is not None:
            self._told[teller] += 1
        self._entries[key] = entry
        return entry

    def _hear_again(self, entry: _Entry, address: Address, source: PeerSource) -> None:
        """Another word on a known peer. A better source counts; a tracker's word forgives a failure."""
        rank = RANK[source]
        better, forgiven = rank < entry.rank, source == "tracker" and entry.fails > 0
        if isinstance(entry.key, str) and (not entry.listening or entry.fails or better):
            entry.address, entry.listening = address, True
        if better:
            entry.rank = rank
            self._forget_teller(entry)
        if forgiven:
            entry.fails -= 1
        if source == "user":
            entry.patient, entry.fails, entry.due = False, 0, NEVER
        if better or forgiven or source == "user":
            self._enqueue(entry)

    def _count_failure(self, entry: _Entry, now: float) -> None:
        entry.fails += 1
        entry.contact = now
        if entry.patient:
            entry.due = now + (entry.fails + 1) * DIAL_RETRY
        else:
            doublings = min(entry.fails - 1, DIAL_RETRY_DOUBLINGS)
            entry.due = now + min(DIAL_RETRY_USER_MAX, DIAL_RETRY_USER_MIN * 2.0**doublings)
        self._enqueue(entry)

    def _enqueue(self, entry: _Entry) -> None:
        """Give the entry its one ticket, or none if it is not to be dialled; drop it if it never can be."""
        if not (entry.listening or entry.connected or entry.dialling):
            self._drop(entry)
            return
        entry.ticket = NO_TICKET
        if entry.may_be_dialled:
            self._tickets += 1
            entry.ticket = self._tickets
            heapq.heappush(self._waiting, (entry.due, entry.ticket, entry))
        if len(self._waiting) + len(self._ready) + len(self._privileged) > 2 * len(self._entries) + STALE_TICKETS:
            self._compact()

    def _compact(self) -> None:
        """Throw out stale tickets: while nobody is dialled nothing else does, and peers that come and go leave some."""
        self._waiting = [place for place in self._waiting if place[2].ticket == place[1]]
        self._ready = [place for place in self._ready if place.entry.ticket == place.ticket]
        self._privileged = [place for place in self._privileged if place.entry.ticket == place.ticket]
        heapq.heapify(self._waiting)
        heapq.heapify(self._ready)
        heapq.heapify(self._privileged)

    def _promote(self, now: float) -> None:
        """Line up the entries whose time has come."""
        while self._waiting and self._waiting[0][0] <= now:
            _, ticket, entry = heapq.heappop(self._waiting)
            if entry.ticket == ticket:
                line = self._privileged if self._is_privileged(entry, now) else self._ready
                heapq.heappush(line, _Place(entry.fails, entry.rank, entry.contact, self._lot(entry), ticket, entry))

    def _lot(self, entry: _Entry) -> float:
        """What decides among equals, between 0 and 1, the lowest first."""
        for own in self.own:
            if (":" in own[0]) == (":" in entry.address[0]):
                return 1.0 - peer_priority(own, entry.address) / 2**32
        return entry.salt

    def _first(self, heap: list[_Place]) -> _Entry | None:
        """The first live entry of a ready heap, left there. What is stale or barred by now is thrown out."""
        while heap:
            entry = heap[0].entry
            live = entry.ticket == heap[0].ticket
            if live and not self.bans.bars(entry.address):
                return entry
            heapq.heappop(heap)
            if live:
                self._drop(entry)
        return None

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry.key]
        entry.ticket = NO_TICKET
        self._forget_teller(entry)

    def _forget_teller(self, entry: _Entry) -> None:
        if entry.teller is None:
            return
        self._told[entry.teller] -= 1
        if not self._told[entry.teller]:
            del self._told[entry.teller]
        entry.teller = None

    def _weedable(self) -> list[_Entry]:
        """What may be dropped for a better one, the worst last."""
        found = [
            entry
            for entry in self._entries.values()
            if not (entry.connected or entry.dialling or entry.rank == RANK["user"])
        ]
        return sorted(found, key=lambda entry: entry.badness)

    def _make_room(self, rank: int, now: float) -> bool:
        """Whether a new peer fits in, now or in the place of a worse one."""
        if len(self._entries) < self._limit:
            return True
        if not self._weeds and now - self._weeded >= WEED_PERIOD:
            self._weeds, self._weeded = self._weedable(), now
        while self._weeds:
            worst = self._weeds[-1]
            if self._entries.get(worst.key) is not worst or worst.connected or worst.dialling:
                self._weeds.pop()
            elif worst.badness > (False, 0, rank):
                self._drop(self._weeds.pop())
                return True
            else:
                return False
        return False
