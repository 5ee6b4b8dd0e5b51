"""Thousands of DHT nodes in one process, on virtual time: latency, loss, nodes that nobody can reach, churn, sybils."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from btor.dht.contact import compact_address, make_id
from btor.dht.lookup import Lookup
from btor.dht.node import Node
from btor.wire.address import Address
from btor.wire.krpc import ANNOUNCE_PEER, GET_PEERS, PING, Message, Query, Reply, decode_message, encode_message

NAT_MEMORY = 60.0  # s that a router lets answers through
PORT = 6881
GRIND = 24  # ids that an attacker tries for an address: about all eight that differ where it matters


@dataclass(frozen=True)
class Weather:
    """What the network does to a datagram. ``latency``: shortest and longest, s; ``loss``: share of datagrams."""

    latency: tuple[float, float] = (0.020, 0.300)
    loss: float = 0.05
    unreachable: float = 0.20


class SimulatedNode:
    """One btor node at an address of its own. ``reachable``: also by those whom it has not asked."""

    def __init__(self, node: Node, address: Address, *, reachable: bool, joined: float) -> None:
        self.node = node
        self.address = address
        self.reachable = reachable
        self.joined = joined
        self.alive = True
        self.wakes_at = float("inf")
        self.asked: dict[Address, float] = {}  # of one that is not reachable: to whom it has sent


class Sybil:
    """A node that answers correctly and names only others of its kind."""

    def __init__(self, world: World, node_id: bytes, address: Address) -> None:
        self._world = world
        self.id = node_id
        self.address = address
        self.queries = 0

    def answer(self, query: Query, sender: Address) -> Reply:
        self.queries += 1
        ip = compact_address(sender)
        if query.method in (PING, ANNOUNCE_PEER):
            return Reply(query.transaction, self.id, ip)
        token = b"sybil" if query.method == GET_PEERS else b""
        return Reply(query.transaction, self.id, ip, self._world.sybil_nodes(), token=token)


class World:
    """All nodes and what is on the way between them. ``codec``: datagrams are encoded and decoded, not handed over."""

    def __init__(self, seed: int, weather: Weather, *, codec: bool) -> None:
        self.rng = random.Random(seed)
        self.weather = weather
        self.codec = codec
        self.now = 0.0
        self.messages = 0
        self.lost = 0
        self.nodes: list[SimulatedNode] = []  # those alive
        self._by_address: dict[Address, SimulatedNode | Sybil] = {}
        self._heap: list[tuple[float, int, Any, Any, Any]] = []
        self._order = itertools.count()
        self._sybils: list[bytes] = []
        self._ended: dict[Lookup, Callable[[SimulatedNode, Lookup], None]] = {}

    # -- population -------------------------------------------------------------------------------------------------

    def new_address(self) -> Address:
        """Somewhere on the internet where nobody is."""
        while True:
            first = self.rng.choice((5, 23, 31, 46, 62, 77, 82, 91, 93, 109, 151, 178, 185, 188, 213))
            ip = f"{first}.{self.rng.randrange(256)}.{self.rng.randrange(256)}.{self.rng.randrange(1, 255)}"
            if (ip, PORT) not in self._by_address:
                return ip, PORT

    def join(self) -> SimulatedNode:
        """A new node, which has been told of three others."""
        node = Node(random.Random(self.rng.getrandbits(64)), self.now)
        reachable = not self.nodes or self.rng.random() >= self.weather.unreachable
        simulated = SimulatedNode(node, self.new_address(), reachable=reachable, joined=self.now)
        entrances = [self.rng.choice(self.nodes) for _ in range(8)] if self.nodes else []
        for entrance in [one for one in entrances if one.reachable][:3]:
            node.add_node(entrance.address, self.now)
        self.nodes.append(simulated)
        self._by_address[simulated.address] = simulated
        self._flush(simulated)
        return simulated

    def leave(self, simulated: SimulatedNode) -> None:
        """It is gone, without a word."""
        simulated.alive = False
        self.nodes.remove(simulated)
        del self._by_address[simulated.address]

    def add_sybils(self, count: int, target: bytes, bits: tuple[int, int]) -> list[Sybil]:
        """Sybils whose ids share between ``bits`` with ``target``; those of before are gone.

        Where one of the ids that fit the address (BEP 42) is that near, the sybil has it; else one that does not fit.
        """
        for address in [address for address, one in self._by_address.items() if isinstance(one, Sybil)]:
            del self._by_address[address]
        number = int.from_bytes(target)
        sybils = []
        for _ in range(count):
            address = self.new_address()
            ip = compact_address(address)[:-2]
            rest = 160 - self.rng.randint(*bits)
            node_id = (number >> rest << rest | self.rng.getrandbits(rest)).to_bytes(20)
            fitting = min((make_id(ip, self.rng) for _ in range(GRIND)), key=lambda one: int.from_bytes(one) ^ number)
            if (int.from_bytes(fitting) ^ number).bit_length() <= 160 - bits[0]:
                node_id = fitting
            sybil = Sybil(self, node_id, address)
            self._by_address[sybil.address] = sybil
            sybils.append(sybil)
        self._sybils = [sybil.id + compact_address(sybil.address) for sybil in sybils]
        return sybils

    def sybil_nodes(self) -> bytes:
        """Eight of them."""
        return b"".join(self.rng.sample(self._sybils, min(8, len(self._sybils))))

    # -- events -----------------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], object]) -> None:
        """Do something at that time."""
        heapq.heappush(self._heap, (time, next(self._order), None, action, None))

    def run(self, until: float) -> None:
        """Everything that happens until then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            time, _, target, content, sender = heapq.heappop(heap)
            self.now = time
            if target is None:
                content()
            elif isinstance(target, SimulatedNode):
                if target.alive and target.wakes_at == time:
                    target.wakes_at = float("inf")
                    if target.node.next_due() <= time:  # else what it was waiting for has come meanwhile
                        target.node.on_time(time)
                    self._flush(target)
            else:
                self._deliver(target, content, sender)
        self.now = until

    def look_up(self, simulated: SimulatedNode, target: bytes, ended: Callable[[SimulatedNode, Lookup], None]) -> None:
        """Have a node look for peers; ``ended`` is told."""
        lookup = simulated.node.lookup(target, self.now)
        self._ended[lookup] = ended
        self._flush(simulated)

    def announce(self, simulated: SimulatedNode, target: bytes, told: Callable[[int], None]) -> None:
        """Have a node announce itself; ``told`` hears to how many."""

        def found(one: SimulatedNode, lookup: Lookup) -> None:
            told(one.node.announce(lookup, PORT, self.now))
            self._flush(one)

        self.look_up(simulated, target, found)

    def send(self, data: Message | bytes, sender: Address, receiver: Address) -> None:
        """Put a datagram on its way."""
        self.messages += 1
        rng = self.rng
        if rng.random() < self.weather.loss:
            self.lost += 1
            return
        shortest, longest = self.weather.latency
        arrival = self.now + shortest + (longest - shortest) * rng.random()
        heapq.heappush(self._heap, (arrival, next(self._order), receiver, data, sender))

    def _deliver(self, receiver: Address, data: Message | bytes, sender: Address) -> None:
        target = self._by_address.get(receiver)
        if target is None:
            return
        if isinstance(target, Sybil):
            message = decode_message(data) if isinstance(data, bytes) else data
            if isinstance(message, Query):
                reply = target.answer(message, sender)
                self.send(encode_message(reply) if self.codec else reply, receiver, sender)
            return
        if not target.reachable and self.now - target.asked.get(sender, -NAT_MEMORY) >= NAT_MEMORY:
            return
        if isinstance(data, bytes):
            target.node.on_packet(data, sender, self.now)
        else:
            target.node.on_message(data, sender, self.now)
        self._flush(target)

    def _flush(self, simulated: SimulatedNode) -> None:
        """Send what a node has to send, tell what has ended, and see when it wants to be woken."""
        node, now = simulated.node, self.now
        packets: Any = node.take_packets(now) if self.codec else node.take_messages()
        for data, receiver in packets:
            if not simulated.reachable:
                simulated.asked[receiver] = now
            self.send(data, simulated.address, receiver)
        for ended in node.take_ended():
            told = self._ended.pop(ended, None) if isinstance(ended, Lookup) else None
            if told is not None and isinstance(ended, Lookup):
                told(simulated, ended)
        due = node.next_due()
        if due < simulated.wakes_at:
            simulated.wakes_at = due
            heapq.heappush(self._heap, (due, next(self._order), simulated, None, None))
