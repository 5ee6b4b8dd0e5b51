"""One DHT node of one address family at one address (BEP 5, 32, 33, 42, 43, 45, 51): datagrams in, datagrams out.

It is fed by ``on_packet`` and ``on_time`` and asked for what follows by ``take_packets``, ``take_ended`` and
``next_due``; by itself it does nothing. A session has one for each of its UDP sockets.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from btor import limits
from btor.dht.answers import Answers
from btor.dht.contact import BITS, Contact, contact_at, contacts_in, id_fits, make_id
from btor.dht.guard import AnswerBudget, FloodGuard
from btor.dht.lookup import Lookup
from btor.dht.routing import Table
from btor.dht.transactions import Pending, Transactions
from btor.dht.votes import Votes
from btor.errors import BtorError
from btor.wire import krpc
from btor.wire.address import Address
from btor.wire.krpc import NODE4, NODE6, WANT4, WANT6, Message, Query, Reply, decode_message, encode_message

if TYPE_CHECKING:
    import random

START: Final = 16  # nodes of the table that a lookup begins with
NAMED: Final = 16  # nodes of one answer that are looked at
NAMED_PINGS: Final = 2  # of the nodes that one answer names, for the table
JITTER: Final = 0.2  # of a period, so that nodes that started together do not stay together
NEVER: Final = float("inf")


class Question:
    """One question to one address. ``reply`` is there once ``ended`` and answered; ``seconds``: how long that took."""

    def __init__(self, address: Address, now: float) -> None:
        self.address = address
        self.reply: Reply | None = None
        self.ended = False
        self.seconds = 0.0
        self._asked_at = now

    def end(self, reply: Reply | None, now: float) -> None:
        """It is over; without a reply it failed."""
        self.reply = reply
        self.seconds = now - self._asked_at
        self.ended = True


class _ForTable:
    """The owner of questions that only the table wants answered. ``newcomer``: to a node that is not in it."""

    def __init__(self, *, newcomer: bool) -> None:
        self.newcomer = newcomer


_NEWCOMER: Final = _ForTable(newcomer=True)
_CHECK: Final = _ForTable(newcomer=False)
_Owner: TypeAlias = Lookup | Question | _ForTable


class Node:
    """A node with a random id, which gives way to one that fits its address once that is known.

    ``read_only`` (BEP 43): it asks and does not answer. ``guarded``: floods are ignored and answers have a rate; not on
    loopback, unless ``loopback_is_public``. ``sibling``: the node of the other family at the same host, if there is
    one; each is told the nodes that the other hears of (BEP 32). Times in monotonic seconds.
    """

    def __init__(
        self,
        rng: random.Random,
        now: float,
        *,
        ipv6: bool = False,
        read_only: bool = False,
        guarded: bool = True,
        loopback_is_public: bool = False,
    ) -> None:
        self.id = make_id(None, rng)
        self.ipv6 = ipv6
        self.read_only = read_only
        self.table = Table(self.id, loopback_is_public=loopback_is_public)
        self.votes = Votes()
        self.sibling: Node | None = None
        self.answers = Answers(rng, now, ipv6=ipv6, loopback_is_public=loopback_is_public)
        self.received = 0
        self.malformed = 0
        self.ignored = 0  # of those who sent too many
        self.sent = 0
        self._rng = rng
        self._guarded = guarded
        self._public_loopback = loopback_is_public
        self._guard = FloodGuard()
        self._budget = AnswerBudget(now)
        self._transactions: Transactions[_Owner] = Transactions(rng)
        self._out: list[tuple[Message, Address]] = []
        self._lookups: dict[Lookup, None] = {}
        self._waiting: deque[Lookup] = deque()
        self._ended: list[Lookup | Question] = []
        self._known: dict[Address, None] = {}  # where to begin
        self._routers: set[Address] = set()
        self._newcomers = 0  # pings on the way to nodes that are not in the table
        self._own: Lookup | None = None  # the lookup of our own id
        self._own_due = NEVER  # as long as there is nobody to ask
        self._own_retry = limits.DHT_BOOTSTRAP_RETRY_MIN
        self._settled = False  # our own neighbourhood was found once
        self._check_from = now + limits.DHT_CHECK * (1 + JITTER * rng.random())  # not before, and only if one is silent
        self._sweep_from = now  # not before, and only if something is stored

    def take_id(self, node_id: bytes) -> None:
        """Have this id from now on."""
        self.id = node_id
        self.table.rebase(node_id)

    @property
    def settled(self) -> bool:
        """Whether it has found its place among the others."""
        return self._settled

    # -- what a session asks ----------------------------------------------------------------------------------------

    def add_node(self, address: Address, now: float, *, router: bool = False) -> None:
        """There may be a node at ``address``: somewhere to begin, and perhaps one for the table.

        ``router``: a public place to begin, which never enters the table.
        """
        if address in self._known:
            return
        if len(self._known) >= limits.DHT_KNOWN_ADDRESSES:
            self._routers.discard(oldest := next(iter(self._known)))
            del self._known[oldest]
        self._known[address] = None
        if router:
            self._routers.add(address)
        for lookup in list(self._lookups):
            if not lookup.answered:  # it is waiting for somewhere to begin
                lookup.add_strangers([address])
                self._advance(lookup, now)
        if self._own is None and len(self.table) < limits.DHT_BUCKET:
            self._own_due = now
        elif self._own is None and not router:
            self._ask(krpc.PING, None, address, _CHECK, now)

    def lookup(self, target: bytes, now: float, *, peers: bool = True, scrape: bool = False) -> Lookup:
        """Search for the nodes closest to ``target``, or for peers of that info-hash. ``take_ended`` tells its end."""
        bits = self.table.network_bits()
        lookup = Lookup(
            target,
            own=self.table.own,
            want_peers=peers,
            scrape=scrape,
            plausible_bits=bits + limits.DHT_PLAUSIBLE_BITS if self._settled and bits else BITS,
            loopback_is_public=self._public_loopback,
        )
        if len(self._lookups) < limits.DHT_LOOKUPS:
            self._start(lookup, now)
        else:
            self._waiting.append(lookup)
        return lookup

    def abandon(self, lookup: Lookup, now: float) -> None:
        """Nobody waits for it any more."""
        if lookup in self._lookups:
            self._end(lookup, now)
            self._ended.remove(lookup)
        elif lookup in self._waiting:
            self._waiting.remove(lookup)

    def announce(self, lookup: Lookup, port: int, now: float, *, seed: bool = False, implied: bool = False) -> int:
        """Tell the closest nodes of an ended lookup that we have that torrent; how many are told."""
        closest = lookup.closest()
        for candidate in closest:
            pending = self._transactions.start(candidate.contact, _CHECK, now)
            query = Query(
                pending.transaction,
                krpc.ANNOUNCE_PEER,
                self.id,
                lookup.target,
                token=candidate.token,
                port=port,
                implied_port=implied,
                seed=seed,
                read_only=self.read_only,
            )
            self._out.append((query, pending.address))
        return len(closest)

    def ping(self, address: Address, now: float) -> Question:
        """Ask the node at ``address`` whether it is there. ``take_ended`` tells the outcome."""
        question = Question(address, now)
        self._ask(krpc.PING, None, address, question, now)
        return question

    # -- feed -------------------------------------------------------------------------------------------------------

    def on_packet(self, data: bytes, address: Address, now: float) -> None:
        """A datagram came from ``address``. Raises nothing, whatever it holds."""
        self.received += 1
        if self._guarded and not self._is_trusted(address) and not self._guard.admits(address[0], now):
            self.ignored += 1
            return
        try:
            message = decode_message(data)
        except BtorError:
            self.malformed += 1
            return
        self.on_message(message, address, now)

    def on_message(self, message: Message, address: Address, now: float) -> None:
        """What a datagram from ``address`` says."""
        if isinstance(message, Query):
            if not self.read_only and address[1]:
                self._on_query(message, address, now)
            return
        pending = self._transactions.close(message.transaction, address)
        if pending is None:
            return  # late, or a guess
        if isinstance(pending.owner, _ForTable):
            self._newcomers -= pending.owner.newcomer
        if isinstance(message, Reply):
            self._on_reply(pending, message, now)
        else:
            self._fail(pending, now)

    def on_time(self, now: float) -> None:
        """Time has passed: call it at ``next_due``."""
        for pending in self._transactions.take_slow(now):
            if isinstance(pending.owner, Lookup):
                pending.owner.on_slow(pending.asked)
                self._advance(pending.owner, now)
        for pending in self._transactions.take_late(now):
            if isinstance(pending.asked, Contact):
                self.table.on_failure(pending.asked)
            if isinstance(pending.owner, _ForTable):
                self._newcomers -= pending.owner.newcomer
            self._fail(pending, now)
        if now >= self._own_due:
            self._find_ourselves(now)
        if now >= self._check_from and now >= self.table.silent_from():
            self._check_from = now + limits.DHT_CHECK
            self._check(now)
        if now >= self._sweep_from and len(self.answers.store):
            self._sweep_from = now + limits.DHT_SWEEP
            self.answers.store.sweep(now)

    # -- drain ------------------------------------------------------------------------------------------------------

    def take_packets(self, now: float) -> list[tuple[bytes, Address]]:
        """The datagrams to send now."""
        packets = []
        for message, address in self.take_messages():
            data = encode_message(message)
            bounded = self._guarded and not isinstance(message, Query) and not self._is_trusted(address)
            if bounded and not self._budget.takes(len(data), now):
                continue
            packets.append((data, address))
        self.sent += len(packets)
        return packets

    def take_messages(self) -> list[tuple[Message, Address]]:
        """The same before they are encoded, without a bound on their rate: for simulations."""
        out, self._out = self._out, []
        return out

    def take_ended(self) -> list[Lookup | Question]:
        """Lookups and questions that have ended."""
        ended, self._ended = self._ended, []
        return ended

    def next_due(self) -> float:
        """When ``on_time`` has something to do."""
        check = max(self._check_from, self.table.silent_from())
        sweep = self._sweep_from if len(self.answers.store) else NEVER
        return min(check, sweep, self._own_due, self._transactions.next_due())

    def saved(self) -> list[Contact]:
        """The nodes worth keeping for the next run, those heard of last first."""
        entries = sorted((entry for entry in self.table if not entry.failures), key=lambda entry: -entry.heard)
        return [entry.contact for entry in entries[: limits.DHT_SAVED_NODES]]

    # -- questions of others ----------------------------------------------------------------------------------------

    def _on_query(self, query: Query, address: Address, now: float) -> None:
        tables = {WANT6 if self.ipv6 else WANT4: self.table}
        if self.sibling is not None:
            tables[WANT4 if self.ipv6 else WANT6] = self.sibling.table
        self._out.append((self.answers.answer(self.id, tables, query, address, now), address))
        if not query.read_only:
            contact = contact_at(query.id, address)
            if not self.table.on_query(contact, now):
                self._try_newcomer(contact, now)

    def _try_newcomer(self, contact: Contact, now: float) -> bool:
        """Ask a node that is not in the table whether it is there, if the table has use for it."""
        if self._newcomers >= limits.DHT_UNKNOWN_PINGS or not self.table.wants(contact):
            return False
        self._newcomers += 1
        self._ask(krpc.PING, None, contact, _NEWCOMER, now)
        return True

    # -- our own questions ------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: bytes,
        target: bytes | None,
        asked: Contact | Address,
        owner: _Owner,
        now: float,
        *,
        scrape: bool = False,
    ) -> None:
        pending = self._transactions.start(asked, owner, now)
        if isinstance(asked, Contact):
            self.table.on_asked(asked, now)
        want = WANT4 | WANT6 if self.sibling is not None and target is not None else 0
        query = Query(pending.transaction, method, self.id, target, want, scrape=scrape, read_only=self.read_only)
        self._out.append((query, pending.address))

    def _on_reply(self, pending: Pending[_Owner], reply: Reply, now: float) -> None:
        if reply.id == self.id:
            self._known.pop(pending.address, None)  # that is ourselves
            self._fail(pending, now)
            return
        contact = contact_at(reply.id, pending.address)
        asked = pending.asked
        if pending.address not in self._routers:
            self.table.on_reply(contact, now)
            if self._own is None and self._own_due == NEVER:  # the first one came to us
                self._own_due = now
        if reply.ip and (len(reply.ip) == 18) == self.ipv6 and self.votes.add(contact, reply.ip[:-2]):
            self._on_new_address(now)
        if isinstance(asked, Contact) and asked.id != reply.id:
            self.table.forget(asked)
            self._fail(pending, now)
            return
        nodes, other = (reply.nodes6, reply.nodes) if self.ipv6 else (reply.nodes, reply.nodes6)
        named = self._named(nodes, contact, NODE6 if self.ipv6 else NODE4)
        if self.sibling is not None and other:
            self.sibling.on_named(self._named(other, contact, NODE4 if self.ipv6 else NODE6), now)
        if isinstance(pending.owner, Lookup):
            pending.owner.on_reply(asked, contact, reply, named)
            self._advance(pending.owner, now)
        elif isinstance(pending.owner, Question):
            pending.owner.end(reply, now)
            self._ended.append(pending.owner)
        else:
            self.on_named(named, now)

    def on_named(self, contacts: list[Contact], now: float) -> None:
        """Nodes that an answer named, to us or to the sibling: one or two of them may be for the table."""
        tried = 0
        for contact in contacts:
            tried += self._try_newcomer(contact, now)
            if tried == NAMED_PINGS:
                return

    @staticmethod
    def _named(nodes: bytes | None, teller: Contact, size: int) -> list[Contact]:
        if not nodes:
            return []
        return [one for one in contacts_in(nodes[: NAMED * size], size) if one.may_be_named_by(teller)]

    def _fail(self, pending: Pending[_Owner], now: float) -> None:
        """No answer, or an error for one."""
        if isinstance(pending.owner, Lookup):
            pending.owner.on_failure(pending.asked)
            self._advance(pending.owner, now)
        elif isinstance(pending.owner, Question):
            pending.owner.end(None, now)
            self._ended.append(pending.owner)

    # -- lookups ----------------------------------------------------------------------------------------------------

    def _start(self, lookup: Lookup, now: float) -> None:
        self._lookups[lookup] = None
        lookup.add(self.table.closest(int.from_bytes(lookup.target), START))
        lookup.add_strangers(self._known)
        if not self.table.closest(self.table.own, 1):  # all silent lately: perhaps it was the network
            lookup.add_strangers([entry.contact.address for entry in self.table][: limits.DHT_KNOWN_ADDRESSES])
        self._advance(lookup, now)

    def _advance(self, lookup: Lookup, now: float) -> None:
        """Ask whom it wants to ask, and see whether it has ended."""
        if lookup not in self._lookups:
            return
        method = krpc.GET_PEERS if lookup.want_peers else krpc.FIND_NODE
        for who in lookup.take():
            self._ask(method, lookup.target, who, lookup, now, scrape=lookup.scrape)
        if lookup.done:
            self._end(lookup, now)

    def _end(self, lookup: Lookup, now: float) -> None:
        del self._lookups[lookup]
        if lookup is self._own:
            self._on_own_end(lookup, now)
        else:
            self._ended.append(lookup)
        if self._waiting and len(self._lookups) < limits.DHT_LOOKUPS:
            self._start(self._waiting.popleft(), now)

    # -- keeping the table ------------------------------------------------------------------------------------------

    def _find_ourselves(self, now: float) -> None:
        """Look for our own id: it finds the neighbourhood, and tells it of us."""
        self._own_due = NEVER
        if self._own is not None:
            del self._lookups[self._own]  # it was for an id that we have no more
        self._own = Lookup(self.id, own=self.table.own, loopback_is_public=self._public_loopback)
        self._start(self._own, now)

    def _on_own_end(self, lookup: Lookup, now: float) -> None:
        self._own = None
        self._settled = self._settled or lookup.answered > 0
        if len(self.table) >= limits.DHT_BUCKET:
            wait, self._own_retry = limits.DHT_REFRESH, limits.DHT_BOOTSTRAP_RETRY_MIN
        else:  # nobody there, or few so far
            wait, self._own_retry = self._own_retry, min(2 * self._own_retry, limits.DHT_BOOTSTRAP_RETRY_MAX)
        self._own_due = min(self._own_due, now + wait * (1 + JITTER * self._rng.random()))

    def _on_new_address(self, now: float) -> None:
        """The others agree on our address: the id must fit it (BEP 42)."""
        ip = self.votes.address
        if ip is not None and not id_fits(self.id, ip):
            self.take_id(make_id(ip, self._rng))
            self._own_due = now

    def _check(self, now: float) -> None:
        """Ask one node that has long been silent for others of its bucket: it is kept fresh, and so is the bucket."""
        entry = self.table.silent(now)
        if entry is not None:
            target = self.table.target_near(entry.contact, self._rng).to_bytes(krpc.ID)
            self._ask(krpc.FIND_NODE, target, entry.contact, _CHECK, now)

    def _is_trusted(self, address: Address) -> bool:
        """Whether the bounds by address do not apply there."""
        if self._public_loopback:
            return False
        return address[0].startswith("127.") or address[0] == "::1"
