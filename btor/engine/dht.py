"""The DHT of a session: a node for each of its UDP sockets (BEP 45), fed, drained and woken when something is due.

It sends nothing before somebody needs it: a torrent that is not private, a question, or the address of a node.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from btor import limits
from btor.dht.lookup import Lookup
from btor.dht.node import Node, Question
from btor.engine.contain import Container
from btor.engine.dht_state import DhtState
from btor.engine.lookup import is_ipv6, look_up
from btor.engine.udp import UdpHub, UdpSocket
from btor.errors import NetworkError
from btor.wire.address import Address, dialable, parse_host_port, reach, unpack_compact
from btor.wire.krpc import Reply

if TYPE_CHECKING:
    from pathlib import Path

    from btor.engine.transport import Network

_log = logging.getLogger(__name__)

NAMES_PER_TORRENT: Final = 8  # of `nodes` that are looked up

OnPeers = Callable[[list[Address], str], None]
"""Peers that the node at an IP named."""


class Answer(NamedTuple):
    """What one of our nodes found: the ended lookup, and the node, which can announce to whom it found."""

    node: Node
    lookup: Lookup


class _Place(NamedTuple):
    """A node and the socket that it speaks through."""

    socket: UdpSocket
    node: Node


class _Search:
    """The lookups of one question, one for each node; ``on_peers`` hears of peers as they are found."""

    def __init__(self, on_peers: OnPeers | None) -> None:
        self.answers: list[Answer] = []
        self.on_peers = on_peers
        self.open = 0
        self.ended = trio.Event()

    def settle(self) -> None:
        """One of its lookups has ended."""
        self.open -= 1
        if self.open == 0:
            self.ended.set()

    def deliver(self) -> None:
        """Hand on the peers found since the last time."""
        for _, lookup in self.answers:
            by_node: dict[str, list[Address]] = {}
            for compact, ip in lookup.take_peers():
                by_node.setdefault(ip, []).extend(unpack_compact(compact, len(compact)))
            if self.on_peers is not None:
                for ip, peers in by_node.items():
                    self.on_peers(peers, ip)


class Dht:
    """Our nodes on ``sockets``, which somebody else receives from and hands datagrams on by ``on_datagram``.

    ``bootstrap``: HOST:PORT of nodes to begin with. ``public``: they are routers that never enter a table, and are left
    alone by a node that listens on loopback only. ``state_dir``: where the table is kept over restarts. ``troubles``:
    why some of ``bootstrap`` are nowhere to begin.
    """

    def __init__(
        self,
        sockets: Sequence[UdpSocket],
        network: Network,
        *,
        rng: Random,
        bootstrap: Sequence[str] = (),
        public: bool = False,
        state_dir: Path | None = None,
        read_only: bool = False,
        loopback_is_public: bool = False,
        container: Container | None = None,
    ) -> None:
        self._network = network
        self._bootstrap = [parse_host_port(one) for one in bootstrap]
        self._public = public
        self._container = container or Container()
        self._state_dir = state_dir
        self.troubles: list[str] = []
        now = trio.current_time()
        self._places: dict[UdpSocket, _Place] = {}
        for sock in sockets:
            ipv6 = ":" in sock.local[0]
            node = Node(
                rng,
                now,
                ipv6=ipv6,
                read_only=read_only,
                loopback_is_public=loopback_is_public,
            )
            sibling = next((one for one in self.nodes if one.ipv6 != ipv6 and one.sibling is None), None)
            if sibling is not None:
                node.sibling, sibling.sibling = sibling, node
            self._places[sock] = _Place(sock, node)
        self._searches: dict[Lookup, _Search] = {}
        self._questions: dict[Question, trio.Event] = {}
        self._needed = trio.Event()
        self._begun = trio.Event()  # there is somewhere to begin, or there was no way to find one
        self._wake = trio.Event()
        self._sleeps_until = inf
        self._errands: list[Callable[[], Awaitable[None]]] = []

    @property
    def nodes(self) -> list[Node]:
        """Our nodes: one for each socket."""
        return [place.node for place in self._places.values()]

    def places(self) -> list[tuple[UdpSocket, Node]]:
        """Our nodes, each with its socket."""
        return [(place.socket, place.node) for place in self._places.values()]

    @property
    def started(self) -> bool:
        """Whether somebody needs it."""
        return self._needed.is_set()

    # -- for the session --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the nodes going until cancelled, from the moment that somebody needs them."""
        await self._needed.wait()
        await self._restore()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._container.run, "the bootstrap of the DHT", self._look_up_bootstrap)
            nursery.start_soon(self._save_for_ever)
            while True:
                self._wake = trio.Event()
                self._on_time()
                errands, self._errands = self._errands, []
                for errand in errands:
                    nursery.start_soon(self._container.run, "an errand of the DHT", errand)
                with trio.move_on_at(self._sleeps_until):
                    await self._wake.wait()

    async def save(self) -> None:
        """Keep the tables for the next run, if there is anything to keep."""
        if self._state_dir is not None and any(len(node.table) for node in self.nodes):
            state = DhtState.of(self.nodes)
            await trio.to_thread.run_sync(state.write, self._state_dir, abandon_on_cancel=True)

    def port(self, *, ipv6: bool) -> int:
        """Where our node of that family listens; 0: there is none, or nobody has needed it yet."""
        if not self.started:
            return 0
        return next((place.socket.local[1] for place in self._places.values() if place.node.ipv6 == ipv6), 0)

    def start(self) -> None:
        """Somebody needs it."""
        self._needed.set()

    def on_datagram(self, sock: UdpSocket, data: bytes, sender: Address) -> None:
        """A datagram that looks like one of the DHT came in."""
        place = self._places.get(sock)
        if place is None or not self.started:
            return
        place.node.on_packet(data, sender, trio.current_time())
        self._pump(place)

    def add_node(self, address: Address) -> None:
        """There is a node at ``address``, says a peer at that IP, or the user."""
        if not address[1]:
            return
        self.start()
        self._begun.set()
        for place in self._places.values():
            if place.node.ipv6 == is_ipv6(address):
                place.node.add_node(address, trio.current_time())
                self._pump(place)

    def add_named(self, hosts: Sequence[tuple[str, int]]) -> None:
        """The nodes that a torrent names (BEP 5): somewhere to begin, but none nearer than our own node is bound."""
        if not hosts:
            return
        self.start()

        async def look_up_all() -> None:
            for host, port in hosts[:NAMES_PER_TORRENT]:
                await self._begin_at(host, port, trusted=False)

        self._errands.append(look_up_all)
        self._wake.set()

    # -- questions --------------------------------------------------------------------------------------------------

    async def search(
        self, target: bytes, on_peers: OnPeers | None = None, *, peers: bool = True, scrape: bool = False
    ) -> list[Answer]:
        """Look for the nodes closest to ``target`` and, with ``peers``, for peers of that info-hash.

        Returns when that is over, which takes seconds, or a minute where nobody answers; one answer for each node.
        """
        self.start()
        await self._begun.wait()
        search = _Search(on_peers)
        now = trio.current_time()
        try:
            for place in self._places.values():
                lookup = place.node.lookup(target, now, peers=peers, scrape=scrape)
                self._searches[lookup] = search
                search.answers.append(Answer(place.node, lookup))
                search.open += 1
            for place in self._places.values():
                self._pump(place)
            if search.open:
                await search.ended.wait()
        finally:
            for node, lookup in search.answers:
                if self._searches.pop(lookup, None) is not None:
                    node.abandon(lookup, trio.current_time())
        return search.answers

    def announce(self, answers: Sequence[Answer], port: int, *, seed: bool = False) -> int:
        """Tell the nodes that searches found that we have that torrent; how many are told."""
        now = trio.current_time()
        told = sum(node.announce(lookup, port, now, seed=seed) for node, lookup in answers)
        for place in self._places.values():
            self._pump(place)
        return told

    async def ping(self, address: Address) -> tuple[Reply, float] | None:
        """The answer of the node at ``address``, and after how many seconds it came; None: none came."""
        self.start()
        for place in self._places.values():
            if place.node.ipv6 == is_ipv6(address):
                question = place.node.ping(address, trio.current_time())
                ended = self._questions[question] = trio.Event()
                self._pump(place)
                await ended.wait()
                return None if question.reply is None else (question.reply, question.seconds)
        return None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _on_time(self) -> None:
        now = trio.current_time()
        self._sleeps_until = -inf  # it is awake
        for place in self._places.values():
            if now >= place.node.next_due():
                place.node.on_time(now)
            self._pump(place)
        self._sleeps_until = min((place.node.next_due() for place in self._places.values()), default=inf)

    def _pump(self, place: _Place) -> None:
        """Send what a node wants to send, and tell what has ended."""
        node = place.node
        for packet, address in node.take_packets(trio.current_time()):
            try:
                place.socket.sendto(packet, address)
            except OSError as error:  # a full buffer, too: as good as lost on the way
                _log.debug("DHT: nothing sent to %s: %s", address[0], error)
        for ended in node.take_ended():
            if isinstance(ended, Question):
                self._questions.pop(ended).set()
                continue
            search = self._searches.pop(ended, None)
            if search is not None:
                search.deliver()
                search.settle()
        for search in dict.fromkeys(self._searches.values()):
            search.deliver()
        if node.next_due() < self._sleeps_until:
            self._wake.set()

    async def _look_up_bootstrap(self) -> None:
        try:
            if self._public and all(reach(place.socket.local[0]) == "loopback" for place in self._places.values()):
                return
            async with trio.open_nursery() as nursery:
                for host, port in self._bootstrap:
                    nursery.start_soon(self._begin_at, host, port)
        finally:
            self._begun.set()

    async def _begin_at(self, host: str, port: int, trusted: bool = True) -> None:
        """Look ``host`` up and begin there. ``trusted``: it may be on loopback or a private network."""
        try:
            found = await look_up(self._network, host, port)
        except NetworkError as error:
            _log.info("DHT: %s", error)
            if trusted:
                self.troubles.append(str(error))
            return
        now = trio.current_time()
        if trusted and not any(place.node.ipv6 == is_ipv6(one) for one in found for place in self._places.values()):
            self.troubles.append(f"{host}: no local address of that family")
        for address in found:
            self._begun.set()
            for place in self._places.values():
                if place.node.ipv6 != is_ipv6(address):
                    continue
                if trusted or dialable(address, source_ip=place.socket.local[0], user=False):
                    place.node.add_node(address, now, router=self._public and trusted)
                    self._pump(place)

    async def _restore(self) -> None:
        """Be who we were, and begin where we ended."""
        if self._state_dir is None:
            return
        state = await trio.to_thread.run_sync(DhtState.read, self._state_dir, abandon_on_cancel=True)
        now = trio.current_time()
        for node in reversed(self.nodes):
            node_id = state.ids.pop(node.ipv6, None)  # a second node of a family has an id of its own
            if node_id is not None:
                node.take_id(node_id)
            for address in state.addresses(node.ipv6):
                node.add_node(address, now)
                self._begun.set()

    async def _save_for_ever(self) -> None:
        while True:
            await trio.sleep(limits.DHT_SAVE)
            await self.save()


@asynccontextmanager
async def open_dht(
    sockets: Sequence[UdpSocket],
    network: Network,
    *,
    rng: Random,
    bootstrap: Sequence[str] = (),
    public: bool = False,
    read_only: bool = False,
) -> AsyncIterator[Dht]:
    """A DHT without a session: it receives by itself, and closes the sockets at the end. Options: ``Dht``."""
    dht = Dht(sockets, network, rng=rng, bootstrap=bootstrap, public=public, read_only=read_only)
    hub = UdpHub(sockets)
    hub.on_dht = dht.on_datagram
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        nursery.start_soon(dht.run)
        yield dht
        nursery.cancel_scope.cancel()
