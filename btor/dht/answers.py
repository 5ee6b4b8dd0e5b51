"""What a node answers: nodes near a target, the peers that it stores, and what it stores itself (BEP 5, 32, 33, 51)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from btor.dht.contact import compact_address
from btor.dht.peer_store import PeerStore
from btor.dht.tokens import Tokens
from btor.limits import DHT_ANSWER, DHT_SAMPLE_INTERVAL
from btor.wire import krpc
from btor.wire.address import COMPACT4, COMPACT6, Address
from btor.wire.krpc import NODE4, NODE6, WANT4, WANT6, Failure, Message, Query, Reply

if TYPE_CHECKING:
    import random

    from btor.dht.routing import Table

FIXED: Final = 160  # bytes of an answer around nodes and peers, at most
FILTERS: Final = 2 * (krpc.FILTER + 12)
VALUES: Final = 100  # peers of one answer


class Answers:
    """The serving half of a node. ``tables``: its own, and that of its sibling of the other family if there is one."""

    def __init__(self, rng: random.Random, now: float, *, ipv6: bool, loopback_is_public: bool) -> None:
        self.tokens = Tokens(rng, now)
        self.store = PeerStore(COMPACT6 if ipv6 else COMPACT4, rng, loopback_is_public=loopback_is_public)
        self._family = WANT6 if ipv6 else WANT4
        self._record = (COMPACT6 if ipv6 else COMPACT4) + 3  # bytes of one of `values`, with its length

    def answer(self, node_id: bytes, tables: dict[int, Table], query: Query, address: Address, now: float) -> Message:
        """The answer of the node ``node_id`` to a query that came from ``address``. ``tables``: by WANT4 and WANT6."""
        ip = compact_address(address)
        method, target = query.method, query.target
        if method == krpc.PING:
            return Reply(query.transaction, node_id, ip)
        if method == krpc.ANNOUNCE_PEER:
            return self._announce(node_id, query, ip, now)
        if target is None:
            return Failure(query.transaction, krpc.METHOD_UNKNOWN, b"Method Unknown", ip)
        number = int.from_bytes(target)
        want = query.want or self._family
        nodes = _closest(tables, want & WANT4, number)
        nodes6 = _closest(tables, want & WANT6, number)
        if method == krpc.GET_PEERS:
            return self._get_peers(node_id, query, target, ip, nodes, nodes6, now)
        if method == krpc.SAMPLE_INFOHASHES:
            samples, num = self.store.sample(), len(self.store)
            return Reply(
                query.transaction,
                node_id,
                ip,
                nodes,
                nodes6,
                interval=DHT_SAMPLE_INTERVAL,
                num=num,
                samples=samples,
            )
        return Reply(query.transaction, node_id, ip, nodes, nodes6)  # what we do not know is answered like find_node

    def _get_peers(
        self,
        node_id: bytes,
        query: Query,
        info_hash: bytes,
        ip: bytes,
        nodes: bytes | None,
        nodes6: bytes | None,
        now: float,
    ) -> Reply:
        room = DHT_ANSWER - FIXED
        seeds = peers = None
        if query.scrape:
            seeds, peers = self.store.filters(info_hash, now)
            room -= FILTERS
            if nodes and nodes6:  # not all of both fit beside the filters: of the other family as many as do
                if self._family == WANT4:
                    nodes6 = nodes6[: (room - len(nodes)) // NODE6 * NODE6]
                else:
                    nodes = nodes[: (room - len(nodes6)) // NODE4 * NODE4]
        room -= len(nodes or b"") + len(nodes6 or b"")
        return Reply(
            query.transaction,
            node_id,
            ip,
            nodes,
            nodes6,
            self.tokens.make(ip[:-2], info_hash, now),
            self.store.get(info_hash, min(VALUES, room // self._record), now, noseed=query.noseed),
            seeds,
            peers,
        )

    def _announce(self, node_id: bytes, query: Query, ip: bytes, now: float) -> Message:
        assert query.target is not None  # the decoder lets no other pass
        if not self.tokens.is_good(query.token, ip[:-2], query.target, now):
            return Failure(query.transaction, krpc.PROTOCOL_ERROR, b"Bad Token", ip)
        if query.implied_port:
            peer = ip
        elif 0 < query.port < 65536:
            peer = ip[:-2] + query.port.to_bytes(2)
        else:
            return Failure(query.transaction, krpc.PROTOCOL_ERROR, b"Bad Port", ip)
        self.store.add(query.target, peer, query.seed, now)
        return Reply(query.transaction, node_id, ip)


def _closest(tables: dict[int, Table], family: int, target: int) -> bytes | None:
    table = tables.get(family)
    return None if table is None else b"".join([contact.compact for contact in table.closest(target)])
